"""One node as the demo sees it: a child process that is started, talked to, killed and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from raftstore.demo.messages import Done, Dumped, FromNode, NodeSpec, Opened, Status, ToNode

WAIT_S: Final = 10.0
_BEFORE_START: Final = Status(0, False, False, 0, 0, 0, 0)


class NodeProcess:
    """A node and its successive processes. `on_done` is called from a thread for every line it reports on.

    Usable from any thread, but one thread starts and kills.
    """

    def __init__(self, name: str, spec: NodeSpec, log: Path, on_done: Callable[[Done], None]) -> None:
        self.name = name
        self.spec = spec
        self.log = log
        self.starts = 0
        self.opened: Opened | None = None
        self.status = _BEFORE_START
        self.dumped: str | None = None
        self._on_done = on_done
        self._past_fsyncs = self._past_entries = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        # guards stdin
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def fsyncs(self) -> int:
        """Of all processes of this node, as far as they reported."""
        return self._past_fsyncs + self.status.fsyncs

    @property
    def entries_synced(self) -> int:
        """Of all processes of this node, as far as they reported."""
        return self._past_entries + self.status.entries_synced

    def start(self) -> None:
        """Start the process; `opened` and `status` follow when it reports."""
        self.opened, self.status, self.starts = None, _BEFORE_START, self.starts + 1
        command = [sys.executable, "-m", "raftstore.demo.node", msgspec.json.encode(self.spec).decode()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone and all that it had reported is noted."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        process.kill()
        process.wait(WAIT_S)
        reader.join(WAIT_S)
        with self._lock:
            self._process = None
            _close(process.stdin)
        _close(process.stdout)
        self._past_fsyncs += self.status.fsyncs
        self._past_entries += self.status.entries_synced
        self.status = _BEFORE_START

    def send(self, order: ToNode) -> bool:
        """Hand over an order; False if the node is not there to take it."""
        data = msgspec.json.encode(order) + b"\n"
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return False
            try:
                self._process.stdin.write(data)
                self._process.stdin.flush()
            except BrokenPipeError:
                return False
        return True

    def last_words(self, lines: int = 10) -> str:
        """The end of what the node wrote to stderr."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _read(self, stdout: IO[bytes]) -> None:
        decoder = msgspec.json.Decoder(FromNode)
        for data in stdout:
            if data.endswith(b"\n"):  # a killed process may leave half a line
                self._note(decoder.decode(data))

    def _note(self, message: FromNode) -> None:
        match message:
            case Done():
                self._on_done(message)
            case Status():
                self.status = message
            case Opened():
                self.opened = message
            case Dumped(path):
                self.dumped = path


def _close(stream: IO[bytes] | None) -> None:
    """Close, dropping what the dead process did not read."""
    if stream is not None:
        with contextlib.suppress(BrokenPipeError):
            stream.close()
