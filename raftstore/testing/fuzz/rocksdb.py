"""Targets: the rows of `rocksdb`, all of them sealed, and its mark of a clean close."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from raftstore_rocksdb import files, layout, state

from raftstore.errors import CorruptionError, FormatError
from raftstore.testing.fuzz.target import Target

REFUSALS: Final = (CorruptionError, FormatError)
BOUNDS: Final = struct.pack(">HQQQQQQ", 1, 5, 0, 0, 1, 2, 1)
RUN_BYTES: Final = 16


class Rows:
    """What `read_state` needs of an engine."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from ((key, self._rows[key]) for key in sorted(self._rows) if start <= key < stop)


def targets(scratch: Path) -> list[Target]:
    """All of them; they use files in `scratch`."""
    files.write_clean(scratch, 77)
    mark = (scratch / files.CLEAN).read_bytes()

    def check_mark(data: bytes) -> None:
        (scratch / files.CLEAN).write_bytes(data)
        found = files.read_clean(scratch)
        assert found is None or len(data) == len(mark), data

    run = struct.pack(">QQ", 1, 1)
    return [
        Target(
            name="rocksdb-row",
            samples=[BOUNDS, BOUNDS + run, BOUNDS + run + b"\0" * 40],
            check=check_rows,
            refusals=(),
        ),
        Target(name="rocksdb-mark", samples=[mark], check=check_mark, refusals=()),
    ]


def check_rows(data: bytes) -> None:
    """The input is bounds, then a run, then what every other row holds."""
    body, run, rest = data[: len(BOUNDS)], data[len(BOUNDS) :][:RUN_BYTES], data[len(BOUNDS) + RUN_BYTES :]
    index = int.from_bytes(run[:8]) % (1 << 63)
    last = int.from_bytes(body[34:42]) % (1 << 63)
    entry = layout.entry_key(last)
    rows = {layout.BOUNDS: layout.seal(layout.BOUNDS, body)}
    rows[layout.run_key(index)] = layout.seal(layout.run_key(index), run[8:])
    rows[entry] = layout.seal(entry, rest)
    rows |= {layout.HARD_STATE: layout.seal(layout.HARD_STATE, rest), layout.META: rest}
    engine: Any = Rows(rows)
    calls: list[Callable[[], object]] = [
        lambda: state.read_state(engine),
        lambda: layout.unpack_bounds(layout.seal(layout.BOUNDS, data)),
        lambda: layout.unpack_run(entry, layout.seal(entry, data)),
        lambda: layout.unpack_entry(5, entry, layout.seal(entry, data)),
    ]
    for call in calls:
        with suppress(*REFUSALS):
            call()
