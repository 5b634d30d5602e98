"""Ctrl-C at every line of a write: repeated as the log repeats it, it is done once and nothing is lost."""

from __future__ import annotations

import dis
import linecache
import threading
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from random import Random
from types import CodeType, FrameType

import pytest
import raftstore_segmented
from interrupting import interrupt
from raftstore_segmented import SegmentedBackend, space, zeroing
from raftstore_segmented.testing import SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.testing.model import Model
from raftstore.testing.profile import thorough

pytestmark = pytest.mark.backend("segmented")

HERE = Path("/simulated")
PACKAGE = Path(raftstore_segmented.__file__).parent
SEGMENT_BYTES = 4096
STRIDE = 1 if thorough() else 11
"""Of so many lines one is tried, and which one changes from case to case."""
ENTERS = ("LOAD_FAST", "LOAD_GLOBAL", "LOAD_DEREF", "PUSH_NULL")
NUMBER = 10
"""Of the write that is interrupted."""


def entries(first: int, *sizes: int) -> list[Entry]:
    return [Entry(2, first + n, bytes([first + n]) * size) for n, size in enumerate(sizes)]


LARGE_META = "metadata that fits into no segment"

BATCHES = {
    "append": WriteBatch(NUMBER, entries=entries(8, 5, 700)),
    "append of a large entry": WriteBatch(NUMBER, entries=entries(8, 3 * SEGMENT_BYTES)),
    "truncate": WriteBatch(NUMBER, truncate_from=4),
    "truncate and append": WriteBatch(NUMBER, truncate_from=4, entries=entries(4, 30, 40)),
    "purge": WriteBatch(NUMBER, anchor=LogId(1, 5)),
    "hard state": WriteBatch(NUMBER, hard_state=b"another"),
    "hard state and meta": WriteBatch(NUMBER, hard_state=b"another", meta=b"more"),
    LARGE_META: WriteBatch(NUMBER, meta=b"m" * SEGMENT_BYTES),
    "reset": WriteBatch(NUMBER, truncate_from=1, anchor=LogId(3, 50)),
    "install": WriteBatch(NUMBER, truncate_from=1, anchor=LogId(2, 3), entries=entries(4, 9, 9)),
}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroing, "STEP_BYTES", SEGMENT_BYTES // 4)
    monkeypatch.setattr(space, "FIRST_BYTES", SEGMENT_BYTES)


class Opened:
    """A store whose background thread stands still until `go_on`, and what it must hold."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.backend = SegmentedBackend(HERE, segment_bytes=SEGMENT_BYTES, _files=self.disk)
        self.backend._worker.wait_idle()
        self.gate = threading.Event()
        self.model = Model()
        for number, first in enumerate((1, 3, 5), 1):
            self.write(WriteBatch(number, entries=[Entry(1, first + n, b"old" * 9) for n in (0, 1)]))
        self.write(WriteBatch(4, hard_state=b"vote", meta=b"meta"))

    def write(self, batch: WriteBatch) -> None:
        self.backend.write(batch)
        self.model.apply(batch)

    def stand_still(self) -> None:
        gate = self.gate

        def wait() -> None:
            gate.wait()

        self.backend._worker.submit(wait)

    def fill(self) -> None:
        """Leave no room in the current segment for any write."""
        segment = self.backend._catalog.current
        room = segment.size - segment.end - 56  # for the mark
        self.write(WriteBatch(5, entries=[Entry(1, 7, bytes(room - 100 & ~7))]))

    def go_on(self) -> None:
        self.gate.set()
        self.backend._worker.wait_idle()

    def end(self) -> None:
        self.gate.set()
        self.backend.close()


def in_the_segment(store: Opened) -> None:
    store.write(WriteBatch(5, entries=[Entry(1, 7, b"old")]))
    store.stand_still()


def into_the_prepared_next(store: Opened) -> None:
    store.backend._space.prepare(lambda: True)
    store.backend._worker.wait_idle()
    assert store.backend._space.is_ready()
    store.stand_still()
    store.fill()


def into_a_next_that_is_not_prepared(store: Opened) -> None:
    store.stand_still()
    store.fill()
    assert not store.backend._space.is_ready()


def while_there_is_no_reserve(store: Opened) -> None:
    store.stand_still()
    store.fill()
    store.disk.unlink("reserve")
    store.backend._space.has_reserve = False


def into_a_segment_that_was_retired(store: Opened) -> None:
    """As left by a purge: the writer has to zero it."""
    into_a_next_that_is_not_prepared(store)
    ahead, files = store.backend._space, store.disk
    assert ahead._zeroing is not None
    ahead._zeroing.abandon()
    ahead._zeroing = None
    fd = files.create("spare-retired")
    files.pwrite(fd, b"!" * SEGMENT_BYTES, 0)
    files.close(fd)
    with ahead._retired._lock:
        ahead._retired._is_one_kept = True


def on_a_full_disk(store: Opened) -> None:
    """Only the reserve is left."""
    into_a_next_that_is_not_prepared(store)
    store.disk.bytes_max = sum(map(len, store.disk.image().values()))


def into_a_next_that_cannot_grow(store: Opened) -> None:
    """It is prepared, and only the reserve is left."""
    into_the_prepared_next(store)
    store.disk.bytes_max = sum(map(len, store.disk.image().values()))


FULL: list[Callable[[Opened], None]] = [on_a_full_disk, into_a_next_that_cannot_grow]
PLACES: list[Callable[[Opened], None]] = [
    in_the_segment,
    into_the_prepared_next,
    into_a_next_that_is_not_prepared,
    while_there_is_no_reserve,
    into_a_segment_that_was_retired,
    *FULL,
]


@cache
def names_at(code: CodeType) -> dict[int, str]:
    return {one.offset: one.opname for one in dis.get_instructions(code)}


def may_be_interrupted(frame: FrameType) -> bool:
    """Whether a signal could be handled here; at two places it could not, and a lock would stay locked.

    At a `try:` right after a `with`. That instruction does nothing and cannot raise, so the compiler puts it
    under no handler, not even that of the `with`. And where the block of a `with` ends, when its line is told
    again: the interpreter looks for signals after calls and jumps, and there is none between block and exit.
    """
    instruction = names_at(frame.f_code)[frame.f_lasti]
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
    return instruction != "NOP" and (not line.startswith("with ") or instruction.startswith(ENTERS))


@cache
def is_ours(filename: str) -> bool:
    file = Path(filename)
    return file.parent == PACKAGE and file.name != "testing.py"


def held(disk: SimulatedDisk) -> Model:
    """What a store holds when it is opened."""
    backend = SegmentedBackend(HERE, segment_bytes=SEGMENT_BYTES, _files=disk)
    try:
        return found(backend)
    finally:
        backend.close()
        assert disk.open_count == 0


def found(backend: SegmentedBackend) -> Model:
    model, state = Model(), backend._state
    model.anchor, model.number = state.anchor, state.number
    model.hard_state, model.meta = state.hard_state, state.meta
    if state.last_index > state.anchor.index:
        read = backend.read(state.anchor.index + 1, state.last_index + 1, None)
        model.entries = {entry.index: entry for entry in read}
    return model


def is_prepared_for_more(backend: SegmentedBackend) -> bool:
    """Whether the next segment is there, or a write to come will have it brought on."""
    ahead = backend._space
    return ahead.is_ready() or backend._catalog.current.end < ahead.due_at < space.NEVER


def interrupted_once(place: Callable[[Opened], None], batch: WriteBatch, step: int) -> bool:
    """Interrupt the write, repeat it, and look everywhere. False if the write has fewer lines."""
    store = Opened()
    try:
        place(store)
        with interrupt(step, is_ours, may_be_interrupted) as where:
            store.backend.write(batch)
        if where and step % 2:
            store.go_on()
        store.write(batch)
        store.go_on()
        assert found(store.backend) == store.model, where
        assert place in FULL or is_prepared_for_more(store.backend), where
        assert store.backend._space.has_reserve == ("reserve" in store.disk.image()), where
        killed = SimulatedDisk.holding(store.disk.image())
        store.backend.close()
        assert store.disk.open_count == 0, where
        store.disk.bytes_max = 1 << 30
        assert held(killed) == store.model, where
        assert held(store.disk) == store.model, where
        return bool(where)
    finally:
        store.end()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("kind", BATCHES)
def test_a_write_that_is_interrupted_at_any_line_and_repeated_is_done_once(
    kind: str, place: Callable[[Opened], None]
) -> None:
    batch = BATCHES[kind]
    if place in FULL and batch.entries:
        pytest.skip("entries are refused there")
    if place is on_a_full_disk and kind == LARGE_META:
        pytest.skip("the reserve is as small as a segment there")
    begin = 1 + Random(f"{kind} {place.__name__}").randrange(STRIDE)
    for step in count(begin, STRIDE):
        if not interrupted_once(place, batch, step):
            assert step > 40
            return
