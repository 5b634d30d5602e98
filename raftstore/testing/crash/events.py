"""What a driven process tells: 24 bytes an event, appended to a file with one `write` each.

A process that is killed leaves every event that it had told, in their order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

RECORD: Final = Struct("<BxxxIQQ")
WRITE, SYNC, OPEN, RENAME, UNLINK, ALLOCATE, TRUNCATE, MKDIR = (1 << bit for bit in range(8))
"""The kinds of calls, as what fails them knows them."""


class Kind(IntEnum):
    """What happened to step `step`."""

    OPENED = 1
    """The store is open: what recovery reported is durable."""
    STARTED = 2
    RETURNED = 3
    RECEIPT = 4
    """The receipt of a `submit` step completed well."""
    WATERMARK = 5
    """After step `step` had returned, `value` was read as the durable index."""
    CLOSED = 6
    """After step `step`, `close` returned."""
    REFUSED = 7
    """`StoreFullError` or `BackpressureError`: nothing of the step will ever appear."""
    FAILED = 8
    """`StoreFailedError`: the outcome of the step is not known. Step 0: opening failed. Value 1: the
    disk was full, so that what needs no room may have overtaken the step before it."""
    LIED = 9
    """A write was acknowledged after a failure, without opening again."""
    BROKEN = 10
    """An error that no promise allows; its traceback is in the file beside this one."""
    FIRED = 11
    """Told by what fails calls: the fault that was ordered has happened; the shim tells of every call that it
    fails. The step is the kind of call, the value the error, 0 if there is none."""


class Event(msgspec.Struct, frozen=True):
    kind: Kind
    step: int
    value: int = 0
    time_ns: int = 0
    """By `time.monotonic_ns`, which all processes share: when it was told; what it tells of was then done."""


class Reporter:
    """Appends events to `path`. From any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(self, kind: Kind, step: int, value: int = 0) -> None:
        os.write(self.fd, encode(kind, step, value))

    def explain(self, text: str) -> None:
        """Say in words what went wrong, for people."""
        with explanation_of(self._path).open("a") as stream:
            stream.write(text)

    def close(self) -> None:
        os.close(self.fd)


def explanation_of(path: Path) -> Path:
    """Where the words to the events in `path` are, if there are any."""
    return path.with_name(f"{path.name}.txt")


def encode(kind: Kind, step: int, value: int = 0) -> bytes:
    """An event of now."""
    return RECORD.pack(kind, step, value, time.monotonic_ns())


def decode(data: bytes) -> Iterator[Event]:
    """The events in `data`."""
    for kind, step, value, time_ns in RECORD.iter_unpack(data):
        yield Event(Kind(kind), step, value, time_ns)
