"""A Patroni Raft cluster for tests: its members are Patroni's daemons, its clients are like patronictl."""

from __future__ import annotations

import importlib.util
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftstore.demo.cluster import free_ports

HERE = Path(__file__).parent
PATIENCE_S = 120.0
POLL_S = 0.05
STORE = "segmented://{path}.store"
WRITERS = 3

needs_patroni = pytest.mark.skipif(
    not importlib.util.find_spec("patroni")
    or not (importlib.util.find_spec("psycopg") or importlib.util.find_spec("psycopg2")),
    reason="Patroni is not installed: pip install 'raftstore[patroni]'",
)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(POLL_S)


class PatroniMember:
    """A member of the cluster and its successive processes, each with its configuration file."""

    def __init__(self, directory: Path, address: str, others: list[str]) -> None:
        self.address = address
        self.journal = directory / f"{address}.journal"
        """PySyncObj's own, or where it would be."""
        self.store = directory / f"{address}.journal.store"
        self._config = directory / f"{address}.json"
        self._output = directory / f"{address}.output"
        self._process: subprocess.Popen[bytes] | None = None
        raft = {"data_dir": str(directory), "self_addr": address, "partner_addrs": others}
        self._config.write_text(json.dumps({"scope": "test", "name": address, "raft": raft}))  # is YAML, too

    def start(self, *, on_raftstore: bool = True, program: str = str(HERE / "patroni_member.py")) -> None:
        wrapper = ["-m", "raftstore.adapters.pysyncobj", "--store", STORE] if on_raftstore else []
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *wrapper, program, str(self._config)], stdout=output, stderr=output
            )

    def send(self, number: int) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """As an operator does it, once it is up."""
        until(self._listens, f"{self.address} listens")
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.said()

    def _listens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), PATIENCE_S).close()
        except OSError:
            return False
        return True

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        return f"--- {self.address}\n{self._output.read_text() if self._output.exists() else ''}"


class Client:
    """A client in a process of its own. It holds nothing that the members have not sent it."""

    def __init__(self, addresses: list[str], output: Path) -> None:
        with output.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "patroni_client.py"), *addresses],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._numbers = itertools.count()
        self._answers: dict[int, Any] = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What `KVStoreTTL.method` returns there; a falsy value if it did not succeed."""
        assert self._process.stdin is not None
        with self._news:
            number = next(self._numbers)
            print(json.dumps([number, method, arguments, keywords]), file=self._process.stdin, flush=True)
            assert self._news.wait_for(lambda: number in self._answers, PATIENCE_S), f"no answer to {method}"
            return self._answers.pop(number)

    def put(self, key: str, value: str, **keywords: Any) -> None:
        """Set it, as often as it takes. What must not exist was set if it is found: an answer may be lost."""
        is_new = keywords.get("prevExist") is False

        def is_set() -> bool:
            done = self.call("set", key, value, **keywords)
            return bool(done or (is_new and (self.call("get", key) or {}).get("value") == value))

        until(is_set, f"{key} is set")

    def values(self) -> dict[str, str]:
        """Everything, at least as new as what was acknowledged before this call."""
        self.put("/barrier", "")
        found = self.call("get", "", recursive=True)
        return {key: each["value"] for key, each in found.items() if key != "/barrier"}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, result = json.loads(line)
            with self._news:
                self._answers[number] = result
                self._news.notify_all()


class Cluster:
    """Three members, whose output is shown when a test fails. `close` ends whatever runs."""

    def __init__(self, directory: Path) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self._undo = ExitStack()
        self._directory = directory
        self.acknowledged: dict[str, str] = {}
        self.members = [
            PatroniMember(directory, address, [other for other in addresses if other != address])
            for address in addresses
        ]

    def client(self) -> Client:
        """A new one, which knows nothing yet."""
        client = Client([member.address for member in self.members], self._directory / "client.output")
        self._undo.callback(client.close)
        return client

    @contextmanager
    def writing(self, client: Client) -> Iterator[None]:
        """Write without a pause while the block runs, each key once, and note what was acknowledged."""
        enough = threading.Event()
        round_ = len(self.acknowledged)

        def write(writer: int) -> None:
            for number in itertools.count():
                if enough.is_set():
                    return
                key = f"/{round_}/{writer}/{number}"
                if client.call("set", key, f"value of {key}"):
                    self.acknowledged[key] = f"value of {key}"

        threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            enough.set()
            for thread in threads:
                thread.join(PATIENCE_S)

    def more(self, count: int = 20) -> None:
        """Return when `count` more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= goal, "writes are acknowledged")

    def close(self) -> None:
        for member in self.members:
            member.end()
        self._undo.close()
        print(*(member.said() for member in self.members), sep="\n")


def kill(*members: PatroniMember) -> None:
    """SIGKILL to all of them, then wait for their ends."""
    for member in members:
        member.send(signal.SIGKILL)
    for member in members:
        assert member.wait() == -signal.SIGKILL
