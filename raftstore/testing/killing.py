"""Stores that can be killed with SIGKILL at any instant, because each lives in a child process of its own."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.wire import Order, Reply, Request, Wire

PATIENCE_S = 200.0
"""A child that says nothing for so long has failed its test."""


class Store(Protocol):
    """The part of `DiskBackend` that most tests need."""

    @property
    def recovery(self) -> Recovery: ...
    def write(self, batch: WriteBatch) -> None: ...
    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]: ...
    def maintain(self) -> None: ...
    def close(self) -> None: ...


class KillableStore(Store, Protocol):
    """A store whose process can be killed. Nothing but another opening may follow."""

    def kill(self) -> None:
        """Between two calls."""
        ...

    def write_and_kill(self, batches: Sequence[WriteBatch], acknowledged: int, instant: float) -> int:
        """Begin to write `batches` in order, and kill in the middle. Returns how many were acknowledged.

        That is at least `acknowledged`, which must not exceed their count; `instant` (0 to 1) says how far
        into the next write, roughly, the end comes.
        """
        ...


class AnyLauncher(Protocol):
    """Opens stores that can be killed."""

    def open(self, path: Path) -> KillableStore: ...

    def kill_while_opening(self, path: Path, instant: float) -> None:
        """Open, and kill when about `instant` (0 to 1) of the time is over that it takes."""
        ...


class Launcher:
    """Opens killable stores with the `make` of a suite class, which must be importable, in child processes.

    A context: at its end no process is left.
    """

    def __init__(self, suite: type) -> None:
        self._suite = suite
        self._pace_s = 0.0  # of the last opening

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE_S)
        with theirs:
            self._process = subprocess.Popen(
                self._command(theirs), pass_fds=[theirs.fileno()], env=_environment()
            )
        if self._control.recv(16) != b"ready":
            self.__exit__(None, None, None)
            raise AssertionError(f"a child process cannot import {self._suite}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.wait(PATIENCE_S)

    def _command(self, control: socket.socket) -> list[str]:
        suite = self._suite
        arguments = (control.fileno(), suite.__module__, inspect.getfile(suite), suite.__qualname__)
        return [sys.executable, "-c", f"from raftstore.testing.victim import main; main(*{arguments!r})"]

    def open(self, path: Path) -> ChildStore:
        """Start a child that opens the store, and wait until it has."""
        begin = time.perf_counter()
        store = self._start(path)
        store.wait_until_open()
        self._pace_s = time.perf_counter() - begin
        return store

    def kill_while_opening(self, path: Path, instant: float) -> None:
        store = self._start(path)
        time.sleep(instant * self._pace_s)
        store.kill()

    def _start(self, path: Path) -> ChildStore:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        with theirs:
            pid = int(self._order(Order(str(path)), theirs))
        return ChildStore(self, pid, ours)

    def kill(self, pid: int) -> None:
        """SIGKILL; when this returns the process is gone, and its locks with it."""
        self._order(Order(pid=pid))

    def _order(self, order: Order, *handed_over: socket.socket) -> bytes:
        data = msgspec.msgpack.encode(order)
        socket.send_fds(self._control, [data], [each.fileno() for each in handed_over])
        return self._control.recv(64)


class ChildStore:
    """A store in a child process. Whatever the backend raises there is an `AssertionError` here."""

    def __init__(self, launcher: Launcher, pid: int, connection: socket.socket) -> None:
        self._launcher = launcher
        self._pid = pid
        self._wire = Wire(connection)
        self._gone = False
        self._recovery = Recovery()

    def wait_until_open(self) -> None:
        recovery = self._reply().recovery
        assert recovery is not None
        self._recovery = recovery

    @property
    def recovery(self) -> Recovery:
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        self._ask(Request("write", batch))

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return self._ask(Request("read", None, start, stop, bytes_max)).entries

    def maintain(self) -> None:
        self._ask(Request("maintain"))

    def close(self) -> None:
        if not self._gone:
            try:
                self._ask(Request("close"))
            finally:
                self.kill()

    def kill(self) -> None:
        if not self._gone:
            self._gone = True
            self._launcher.kill(self._pid)
            self._wire.close()

    def write_and_kill(self, batches: Sequence[WriteBatch], acknowledged: int, instant: float) -> int:
        begin = time.perf_counter()
        for batch in batches:
            self._wire.send(Request("write", batch))
        for _ in range(acknowledged):
            self._reply()
        pace_s = (time.perf_counter() - begin) / (acknowledged + 1)
        time.sleep(instant * pace_s)
        self._launcher.kill(self._pid)
        while (reply := self._wire.receive_reply()) is not None:
            assert reply.error is None, reply.error
            acknowledged += 1
        self._gone = True
        self._wire.close()
        return acknowledged

    def _ask(self, request: Request) -> Reply:
        self._wire.send(request)
        return self._reply()

    def _reply(self) -> Reply:
        reply = self._wire.receive_reply()
        assert reply is not None, "the process that held the store is gone"
        assert reply.error is None, reply.error
        return reply


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
