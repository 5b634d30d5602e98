"""Histories: recorded while clients run, kept in a file with one JSON object a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from raftstore.testing.linearizability.operation import Kind, Operation, Outcome


class HistoryError(ValueError):
    """A file is no history: says which line, and why."""


class Pending(msgspec.Struct):
    """An operation that a client has invoked and that has not returned."""

    client: str
    key: str
    kind: Kind
    invoked_ns: int
    value: str | None
    expected: str | None


class Recorder:
    """Notes what clients do. Usable from any thread."""

    def __init__(self) -> None:
        # guards the two below
        self._lock = threading.Lock()
        self._done: list[Operation] = []
        self._pending: dict[int, Pending] = {}

    def invoke(
        self, client: str, key: str, kind: Kind, value: str | None = None, expected: str | None = None
    ) -> Pending:
        """To be called before anything of the operation is sent."""
        pending = Pending(client, key, kind, time.monotonic_ns(), value, expected)
        with self._lock:
            self._pending[id(pending)] = pending
        return pending

    def returned(self, pending: Pending, outcome: Outcome, value: str | None = None) -> None:
        """To be called after its answer arrived, or when its client gives up. `value`: a read's answer."""
        now = time.monotonic_ns()
        with self._lock:
            del self._pending[id(pending)]
            self._done.append(_operation(pending, outcome, now, value))

    def history(self) -> History:
        """All so far, by time of invocation. What has not returned has an unknown outcome."""
        with self._lock:
            pending = [_operation(each, "unknown", None, None) for each in self._pending.values()]
            return History([*self._done, *pending])


class History:
    """Operations, by time of invocation."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = sorted(operations, key=lambda each: each.invoked_ns)

    def save(self, path: Path) -> None:
        """Write them to a file, one JSON object a line."""
        path.write_bytes(msgspec.json.Encoder().encode_lines(self.operations))

    @classmethod
    def load(cls, path: Path) -> History:
        """Raises `HistoryError`, and `OSError`."""
        decoder = msgspec.json.Decoder(Operation)
        operations: list[Operation] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    operations.append(decoder.decode(line))
                except msgspec.DecodeError as error:
                    raise HistoryError(f"{path}, line {number}: {error}") from error
        return cls(operations)


def _operation(pending: Pending, outcome: Outcome, returned_ns: int | None, read: str | None) -> Operation:
    return Operation(
        client=pending.client,
        key=pending.key,
        kind=pending.kind,
        outcome=outcome,
        invoked_ns=pending.invoked_ns,
        returned_ns=returned_ns,
        value=read if pending.kind == "read" else pending.value,
        expected=pending.expected,
    )
