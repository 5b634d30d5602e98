"""One node as the demo sees it: a child process that is started, talked to, killed and started again."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from raftstore.demo.messages import (
    Answer,
    Dump,
    Dumped,
    FromNode,
    NodeSpec,
    Opened,
    Operation,
    Status,
)

WAIT_S: Final = 90.0
"""For a killed process to be gone, and what it had said to be read."""
_BEFORE_START: Final = Status(0, False, False, 0, 0, 0)

OnAnswer = Callable[[Answer], None]
Kind = Literal["put", "get", "cas"]


class NodeProcess:
    """A node and its successive processes. Usable from any thread, but one thread starts and kills.

    `prefix` is put before its command line, for example `ip netns exec n1`; it must end in an `exec`.
    """

    def __init__(self, name: str, spec: NodeSpec, log: Path, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.spec = spec
        self.log = log
        self.starts = 0
        self.opened: Opened | None = None
        self.status = _BEFORE_START
        self.dumped: str | None = None
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._past_fsyncs = self._past_entries = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._is_wanted = False
        self._waiting: dict[int, OnAnswer] = {}
        # one decides at a time whether there is to be a process; a sender may hold the other for long
        self._starting = threading.Lock()
        # guards stdin and _waiting
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
        """Start the process; `opened` and `status` follow when it reports.

        A signal that interrupts this call leaves no process behind that `kill` does not end.
        """
        self.opened, self.status, self.starts = None, _BEFORE_START, self.starts + 1
        started = Future[None]()
        self._reader = threading.Thread(target=self._live, args=(started,), daemon=True)
        self._is_wanted = True
        self._reader.start()
        started.result()

    def _live(self, started: Future[None]) -> None:
        """Start the process and read from it: in a thread, for signals raise in the main thread only."""
        with self._starting:
            if not self._is_wanted or threading.current_thread() is not self._reader:
                return
            try:
                process = self._process = self._launch()
            except Exception as error:  # noqa: BLE001  (whoever started it is told)
                started.set_exception(error)
                return
        started.set_result(None)
        assert process.stdout is not None
        self._read(process.stdout)

    def _launch(self) -> subprocess.Popen[bytes]:
        spec = msgspec.json.encode(self.spec).decode()
        command = [*self._prefix, sys.executable, "-m", "raftstore.demo.node", spec]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone and all that it had reported is noted.

        What it did not answer is unknown then.
        """
        with self._starting:
            self._is_wanted = False
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

    def call(
        self,
        kind: Kind,
        key: str,
        value: str | None = None,
        expected: str | None = None,
        *,
        timeout_s: float,
    ) -> Answer:
        """Let the node do this to the cluster's store (`Operation`). Unknown after `timeout_s`."""
        answered = threading.Event()
        answers: list[Answer] = []

        def note(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        self.submit(kind, key, value, expected, timeout_s=timeout_s, on_answer=note)
        return answers[0] if answered.wait(timeout_s) else Answer(0, "unknown")

    def submit(
        self,
        kind: Kind,
        key: str,
        value: str | None = None,
        expected: str | None = None,
        *,
        timeout_s: float,
        on_answer: OnAnswer,
    ) -> None:
        """As `call`, without waiting: `on_answer` is called once, from this thread or another, maybe late.

        It is called at the latest when the process ends. Without a process the operation has failed.
        """
        number = next(self._numbers)
        with self._lock:
            self._waiting[number] = on_answer
        if not self._send(Operation(number, kind, key, value, expected, timeout_s)):
            self._note(Answer(number, "failed"))

    def dump(self, path: str) -> None:
        """Ask for the lines of its state machine in a file; `dumped` is the path when they are there."""
        self.dumped = None
        self._send(Dump(path))

    def _send(self, order: Operation | Dump) -> bool:
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
        for number in list(self._waiting):
            self._note(Answer(number, "unknown"))

    def _note(self, message: FromNode) -> None:
        match message:
            case Answer(number):
                with self._lock:
                    on_answer = self._waiting.pop(number, None)
                if on_answer is not None:
                    on_answer(message)
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
