"""What goes on beside the appends: preparing the next segment and removing old ones, a step at a time."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raftstore_segmented import SegmentedBackend, removal, retired, zeroing
from raftstore_segmented.checksums import checksum
from raftstore_segmented.frame import FRAME_HEADER_BYTES, Place, decode_header, encode_data
from raftstore_segmented.header import FRAMES_AT
from raftstore_segmented.table import Change
from raftstore_segmented.testing import SimulatedDisk
from raftstore_segmented.worker import Worker

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError

pytestmark = pytest.mark.backend("segmented")

SEGMENT_BYTES = 16 << 10
STEP_BYTES = 1 << 10
PLACE = Place(3, 0xABCDEF01, checksum(2))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroing, "STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(removal, "REMOVAL_STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(retired, "REMOVAL_STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(removal, "PAUSE_S", 0.0)


@contextmanager
def opened(disk: SimulatedDisk) -> Iterator[SegmentedBackend]:
    backend = SegmentedBackend(Path("/simulated"), segment_bytes=SEGMENT_BYTES, _files=disk)
    try:
        yield backend
    finally:
        backend.close()
        assert disk.open_count == 0


def append(backend: SegmentedBackend, index: int, size: int = 500) -> None:
    """One entry in one write, both of that number; what it begins in the background is waited for."""
    backend.write(WriteBatch(index, entries=[Entry(1, index, bytes([index % 256]) * size)]))
    backend._worker.wait_idle()


def fill(backend: SegmentedBackend, count: int, first: int = 1) -> None:
    for index in range(first, first + count):
        append(backend, index)


def share_filled(backend: SegmentedBackend) -> float:
    current = backend._catalog.current
    return current.end / current.size


def test_the_next_segment_is_prepared_in_step_with_the_appends_and_ready_when_half_is_filled() -> None:
    with opened(SimulatedDisk()) as backend:
        backend._worker.wait_idle()
        begun = backend.counters.bytes_prepared
        shares: list[tuple[float, int]] = []
        for index in range(1, 26):
            append(backend, index)
            shares.append((share_filled(backend), backend.counters.bytes_prepared - begun))
            ahead = STEP_BYTES + 2 * share_filled(backend) * SEGMENT_BYTES
            assert backend.counters.bytes_prepared - begun <= ahead
        assert shares[0][1] < SEGMENT_BYTES / 2
        assert {prepared for share, prepared in shares if share > 0.5} == {SEGMENT_BYTES - STEP_BYTES}
        assert backend._space.is_ready()
        fill(backend, 100, first=26)
        assert backend.counters.writer_prepared == 0


def test_an_idle_log_prepares_all_of_the_next_segment() -> None:
    with opened(SimulatedDisk()) as backend:
        append(backend, 1)
        assert not backend._space.is_ready()
        backend.maintain()
        backend._worker.wait_idle()
        assert backend._space.is_ready()


def test_preparing_an_idle_log_stops_when_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(SimulatedDisk()) as backend:
        append(backend, 1)
        step = zeroing.Zeroing.step

        def busy_again(self: zeroing.Zeroing) -> None:
            step(self)
            backend._state.number = 2

        monkeypatch.setattr(zeroing.Zeroing, "step", busy_again)
        before = backend.counters.bytes_prepared
        backend.maintain()
        backend._worker.wait_idle()
        assert backend.counters.bytes_prepared == before + STEP_BYTES
        assert not backend._space.is_ready()


def test_a_write_that_needs_the_next_segment_too_early_finishes_it() -> None:
    with opened(SimulatedDisk()) as backend:
        append(backend, 1)
        assert not backend._space.is_ready()
        append(backend, 2, size=SEGMENT_BYTES)
        append(backend, 3)
        assert [len(entry.data) for entry in backend.read(1, 4, None)] == [500, SEGMENT_BYTES, 500]
        assert backend.counters.writer_prepared > 0


def test_an_unfinished_segment_is_not_left_behind_by_close() -> None:
    disk = SimulatedDisk()
    with opened(disk) as backend:
        append(backend, 1)
        assert any(name.startswith("spare-") for name in disk.image())
    assert not any(name.startswith("spare-") for name in disk.image())


def purged(backend: SegmentedBackend) -> None:
    """Purge all but the last few of 200 entries, without waiting for what follows."""
    backend.write(WriteBatch(201, anchor=LogId(1, 195)))


def test_old_segments_are_made_shorter_step_by_step_and_then_removed() -> None:
    disk = SimulatedDisk()
    with opened(disk) as backend:
        fill(backend, 200)
        begun = len(disk.calls)
        purged(backend)
        backend._worker.wait_idle()
        calls = [call.split()[0] for call in disk.calls[begun:]]
        removed = calls.count("unlink")
        assert removed >= 3
        assert calls.count("truncate") == removed * (SEGMENT_BYTES // STEP_BYTES - 1)
        assert sorted(name for name in disk.image() if name.startswith("spare-")) == ["spare-retired"]
        assert [entry.index for entry in backend.read(196, 201, None)] == list(range(196, 201))


def test_a_segment_that_somebody_reads_is_not_made_shorter() -> None:
    disk = SimulatedDisk()
    with opened(disk) as backend:
        fill(backend, 200)
        held, _ = backend._catalog.locate(100, 101)
        purged(backend)
        backend._worker.wait_idle()
        assert disk.size(held.fd) == held.size
        backend._catalog.let_go(held)


class OneCannotGo:
    """Files that are empty, and of which one cannot be unlinked."""

    def __init__(self) -> None:
        self.unlinked: list[str] = []
        self.closed: list[int] = []

    def open(self, name: str, *, writable: bool) -> int:
        return len(name)

    def size(self, fd: int) -> int:
        return 0

    def close(self, fd: int) -> None:
        self.closed.append(fd)

    def unlink(self, name: str) -> None:
        if name == "stays":
            raise OSError(errno.EIO, "planted")
        self.unlinked.append(name)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_file_that_cannot_be_removed_does_not_keep_the_others(at_once: bool) -> None:
    files = OneCannotGo()
    waiting = removal.Removal(files)  # type: ignore[arg-type]
    for name in ("stays", "goes", "goes too"):
        waiting.add(name)
    if at_once:
        waiting.finish()
    else:
        with pytest.raises(OSError, match="planted"):
            waiting.step()
        while not waiting.is_done:
            waiting.step()
    assert files.unlinked == ["goes", "goes too"]
    assert len(files.closed) == (0 if at_once else 3)


def test_an_interrupt_does_not_let_a_closing_store_leave_its_thread_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it may rename and remove files that another process has opened meanwhile."""
    worker, gate, join = Worker("test"), threading.Event(), threading.Thread.join

    def wait() -> None:
        gate.wait()

    worker.submit(wait)
    (thread,) = (one for one in threading.enumerate() if one.name == "test")

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        if not gate.is_set():
            gate.set()
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.stop()
    assert not thread.is_alive()


@pytest.mark.parametrize("calls", range(4))
def test_an_interrupt_does_not_let_a_closing_store_leave_files_open(calls: int) -> None:
    disk = SimulatedDisk()
    with opened(disk) as backend:
        backend.write(WriteBatch(1, entries=[Entry(1, 1, b"data")]))
        backend._worker.wait_idle()
        begin = len(disk.calls)

        def interrupt(_number: int, _call: str) -> None:
            if len(disk.calls) > begin + calls:
                disk.before_call = lambda _number, _call: None
                raise KeyboardInterrupt

        disk.before_call = interrupt
        with pytest.raises(KeyboardInterrupt):
            backend.close()
        assert disk.open_count == 0
    with opened(disk) as backend:
        assert backend.read(1, 2, None) == [Entry(1, 1, b"data")]


def test_a_file_that_ends_within_a_frame_is_corruption_wherever_it_ends() -> None:
    with opened(SimulatedDisk()) as backend:
        append(backend, 1, size=9000)
        segment = backend._catalog.current
        for length in range(segment.end - 8, FRAMES_AT, -1):
            backend._files.truncate(segment.fd, length)
            with pytest.raises(CorruptionError):
                backend.read(1, 2, None)


def test_a_removal_that_dies_at_any_step_is_finished_by_the_next_opening() -> None:
    disk = SimulatedDisk()
    backend = SegmentedBackend(Path("/simulated"), segment_bytes=SEGMENT_BYTES, _files=disk)
    fill(backend, 200)
    begun = len(disk.calls)
    states: list[dict[str, bytes]] = []
    disk.before_call = lambda number, _: states.append(disk.image()) if number % 7 == 0 else None
    purged(backend)
    backend._worker.wait_idle()
    disk.before_call = lambda number, call: None
    backend.close()
    assert len(disk.calls) - begun > 7 * 5
    for image in states:
        after = SimulatedDisk.holding(image)
        with opened(after) as again:
            again._worker.wait_idle()
            last = again.recovery.last.index
            assert [entry.index for entry in again.read(196, last + 1, None)] == list(range(196, 201))
            assert not any(name.startswith("spare-gone-") for name in after.image())


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 65535, 65536, 65537])
def test_a_frame_of_one_entry_has_the_blocks_that_the_format_says(size: int) -> None:
    entry = Entry(4, 9, bytes(range(256)) * (size // 256) + bytes(size % 256), 7)
    data = bytes(encode_data(PLACE, 4096, WriteBatch(5, entries=[entry], hard_state=b"hs"), b""))
    header = decode_header(PLACE, data, 0, 4096)
    assert header is not None
    assert header.size == len(data)
    change = Change(header, data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + header.table_bytes])
    table, payload = change.entries, data[header.payload_at - 4096 :][: header.payload_bytes]
    assert table is not None
    assert table.block_shift == (13 if size < 8192 else 16)
    assert table.bad_block(payload, 0, PLACE.checksum) is None
    assert table.entries(9, 10, payload, 0) == [entry]
    assert change.hard_state == b"hs"


@pytest.mark.parametrize("sizes", [[1 << 20], [60_000], [1 << 16] * 16])
def test_payloads_are_copied_once_to_make_a_frame(sizes: list[int]) -> None:
    batch = WriteBatch(1, entries=[Entry(1, i, bytes(size)) for i, size in enumerate(sizes, 1)])
    tracemalloc.start()
    try:
        frame = encode_data(PLACE, 4096, batch, b"")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frame) > sum(sizes)
    assert peak < 1.1 * sum(sizes) + 10_000
