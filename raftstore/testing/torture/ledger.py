"""What a store acknowledged, kept where a power cut does not reach: another machine, or another disk.

Lines of text, so that any program that keeps what arrives at a TCP port keeps a ledger. A line that begins
with `{` announces a store, as JSON; every other one is an event of that store: kind, step, value. The last
line may be cut short.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self
from urllib.parse import urlsplit

import msgspec

from raftstore.testing.crash.events import Event, Kind, Reporter
from raftstore.testing.crash.plan import Plan

CONNECT_S: Final = 10.0
LINE_BYTES_MAX: Final = 64 << 10
"""Far more than the longest announcement."""
_SILENT: Final = frozenset({Kind.STARTED})
"""Events that promise nothing: a ledger in a file need not sync them."""


class LedgerError(Exception):
    """A ledger cannot be written, or is none; says why."""


class Announcement(msgspec.Struct, frozen=True):
    """A store that is about to be made."""

    store: str
    """The name of its directory."""
    plan: Plan


class Chapter(msgspec.Struct, frozen=True):
    """What a ledger says of one store."""

    store: str
    plan: Plan
    events: list[Event]


class Ledger(Reporter):
    """Writes a ledger to `tcp://HOST:PORT` or to a file, which must be new. From any thread. A context.

    An event in a file is durable when `tell` returns. One on its way to another machine when the power fails
    may be lost, which makes the check weaker, but never wrong.
    """

    def __init__(self, target: str) -> None:
        """Raises `LedgerError`."""
        self._socket: socket.socket | None = None
        try:
            if target.startswith("tcp://"):
                self._socket = _connected(target)
                self.fd = self._socket.fileno()
            else:
                self.fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            raise LedgerError(f"the ledger {target} cannot be written: {error}") from error
        self._writing = threading.Lock()  # held for one line at a time, and guards _gone
        self._gone: OSError | None = None
        self._words = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def announce(self, store: str, plan: Plan) -> None:
        """From here on, events are of that store."""
        self._write(msgspec.json.encode(Announcement(store, plan)), durably=True)

    def tell(self, kind: Kind, step: int, value: int = 0) -> None:
        self._write(b"%d %d %d" % (kind, step, value), durably=kind not in _SILENT)

    def explain(self, text: str) -> None:
        self._words += text

    def check(self) -> None:
        """Raise `LedgerError` if the ledger is gone, or the workload said that something was wrong."""
        if self._gone is not None:
            raise LedgerError(f"the ledger is gone: {self._gone}")
        if self._words:
            raise LedgerError(f"the workload could not go on: {self._words}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self.fd)

    def _write(self, line: bytes, *, durably: bool) -> None:
        """Raises `OSError` when the ledger is gone; after that, nothing is written and nothing raised."""
        with self._writing:
            if self._gone is not None:
                return
            try:
                self._put(line + b"\n", durably=durably)
            except OSError as error:
                self._gone = error
                raise

    def _put(self, line: bytes, *, durably: bool) -> None:
        if self._socket is not None:
            self._socket.sendall(line)
            return
        if os.write(self.fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durably:
            os.fdatasync(self.fd)


def read_ledger(file: Path) -> Iterator[Chapter]:
    """What the file says of one store after the other; one of them is in memory at a time.

    Raises `LedgerError` where it turns out to be no ledger.
    """
    chapter: Chapter | None = None
    try:
        with file.open("rb") as stream:
            for line in _whole_lines(stream):
                if line.startswith(b"{"):
                    if chapter is not None:
                        yield chapter
                    announced = msgspec.json.decode(line, type=Announcement)
                    chapter = Chapter(announced.store, announced.plan, [])
                elif chapter is not None:
                    chapter.events.append(_event(line))
                else:
                    raise ValueError("it begins with no announcement of a store")
    except (ValueError, msgspec.MsgspecError) as error:
        raise LedgerError(f"{file} is no ledger: {error}") from error
    if chapter is None:
        raise LedgerError(f"{file} is no ledger, or an empty one")
    yield chapter


def _event(line: bytes) -> Event:
    kind, step, value = map(int, line.split())
    return Event(Kind(kind), step, value)


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Without the last one if it was cut short."""
    while (line := stream.readline(LINE_BYTES_MAX)).endswith(b"\n"):
        yield line
    if len(line) == LINE_BYTES_MAX:
        raise ValueError(f"a line of more than {LINE_BYTES_MAX} bytes")


def _connected(target: str) -> socket.socket:
    parts = urlsplit(target)
    if parts.hostname is None or parts.port is None:
        raise ValueError("it is not of the form tcp://HOST:PORT")
    connection = socket.create_connection((parts.hostname, parts.port), CONNECT_S)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
