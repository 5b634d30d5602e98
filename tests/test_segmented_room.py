"""Where room for the next segment and the reserve comes from, and retiring what is still read."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raftstore_segmented import SegmentedBackend, removal, retired, space, zeroing
from raftstore_segmented.backend import SEGMENT_BYTES_MIN
from raftstore_segmented.testing import SimulatedDisk
from raftstore_segmented.worker import Worker

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.hardstate import META_BYTES_MAX

pytestmark = pytest.mark.backend("segmented")

FIRST_BYTES = 4 << 10
SEGMENT_BYTES = 64 << 10
STEP_BYTES = 1 << 10


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "FIRST_BYTES", FIRST_BYTES)
    monkeypatch.setattr(zeroing, "STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(removal, "REMOVAL_STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(retired, "REMOVAL_STEP_BYTES", STEP_BYTES)
    monkeypatch.setattr(removal, "PAUSE_S", 0.0)


@contextmanager
def opened(disk: SimulatedDisk, segment_bytes: int = SEGMENT_BYTES) -> Iterator[SegmentedBackend]:
    backend = SegmentedBackend(Path("/simulated"), segment_bytes=segment_bytes, _files=disk)
    backend._worker.wait_idle()
    try:
        yield backend
    finally:
        backend.close()
        assert disk.open_count == 0


def append(backend: SegmentedBackend, index: int, size: int = 500) -> None:
    backend.write(WriteBatch(index, entries=[Entry(1, index, bytes([index % 256]) * size)]))
    backend._worker.wait_idle()


def let_no_byte_more_in(disk: SimulatedDisk) -> None:
    disk.bytes_max = sum(map(len, disk.image().values()))


def plant(disk: SimulatedDisk, name: str, size: int) -> None:
    fd = disk.create(name)
    disk.pwrite(fd, b"!" * size, 0)
    disk.close(fd)


@pytest.mark.parametrize("call", ["rename 0", "unlink 0"])
def test_a_segment_that_is_read_stays_whole_when_retiring_it_fails_and_is_tried_again(call: str) -> None:
    """The second try did not know of the reader any more, and shortened the file under it."""
    disk = SimulatedDisk()
    with opened(disk, FIRST_BYTES) as backend:
        for index in range(1, 41):
            append(backend, index)
        held, _ = backend._catalog.locate(20, 21)
        before = bytes(disk.pread(held.fd, held.size, 0))
        failed = list[str]()

        def fail_once(_number: int, said: str) -> None:
            if not failed and said.startswith(call):
                failed.append(said)
                raise OSError(errno.EIO, "planted")

        disk.before_call = fail_once
        backend.write(WriteBatch(41, anchor=LogId(1, 38)))
        backend._worker.wait_idle()
        assert failed
        backend.maintain()
        backend._worker.wait_idle()
        assert held.name not in disk.image()
        assert bytes(disk.pread(held.fd, held.size, 0)) == before
        backend._catalog.let_go(held)


def test_what_is_kept_to_be_used_again_makes_room_for_a_segment_of_another_size() -> None:
    """The disk was called full while 64 MiB of it were put by."""
    disk = SimulatedDisk()
    with opened(disk) as backend:
        append(backend, 1)
        plant(disk, "spare-retired", SEGMENT_BYTES)
        backend._space._retired._is_one_kept = True
        let_no_byte_more_in(disk)
        append(backend, 2, size=4 * FIRST_BYTES)
        assert "spare-retired" not in disk.image()
        assert [entry.index for entry in backend.read(1, 3, None)] == [1, 2]


def test_what_is_on_its_way_out_makes_room_for_the_reserve() -> None:
    """Without a reserve no write with entries is taken."""
    disk = SimulatedDisk()
    with opened(disk) as backend:
        append(backend, 1)
        disk.unlink("reserve")
        backend._space.has_reserve = False
        plant(disk, "spare-gone-1", SEGMENT_BYTES)
        backend._space._retired.removal.add("spare-gone-1")
        let_no_byte_more_in(disk)
        append(backend, 2)
        assert backend._space.has_reserve
        assert "spare-gone-1" not in disk.image()


def test_a_store_that_is_closed_does_not_finish_the_next_segment_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it was due, and `close` waited for 64 MiB of zeros."""
    steps, step = list[int](), zeroing.Zeroing.step
    with opened(SimulatedDisk(), FIRST_BYTES) as backend:

        def closed_meanwhile(self: zeroing.Zeroing) -> None:
            steps.append(self.done)
            step(self)
            backend._worker.signal_stop()

        monkeypatch.setattr(zeroing.Zeroing, "step", closed_meanwhile)
        backend.write(WriteBatch(1, entries=[Entry(1, 1, b"x" * (FIRST_BYTES * 3 // 4))]))
        backend._worker.wait_idle()
    assert len(steps) == 1


def test_what_an_interrupt_kept_from_the_background_thread_is_asked_for_by_the_repeated_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step was taken for asked, and the next segment stood still until a write had to wait for it."""
    with opened(SimulatedDisk(), FIRST_BYTES) as backend:
        submit, interrupted = Worker.submit, list[int]()

        def interrupted_once(self: Worker, job: Callable[[], None]) -> None:
            if not interrupted:
                interrupted.append(1)
                raise KeyboardInterrupt
            submit(self, job)

        monkeypatch.setattr(Worker, "submit", interrupted_once)
        batch = WriteBatch(1, entries=[Entry(1, 1, b"x" * (FIRST_BYTES // 4))])
        with pytest.raises(KeyboardInterrupt):
            backend.write(batch)
        backend.write(batch)
        backend._worker.wait_idle()
        ahead, current = backend._space, backend._catalog.current
        assert ahead.is_ready() or current.end < ahead.due_at < space.NEVER


@pytest.mark.parametrize("is_new", [True, False])
def test_an_opening_that_can_start_no_thread_leaves_no_file_open(
    is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor of the segment stayed open."""
    disk = SimulatedDisk()
    if not is_new:
        with opened(disk, FIRST_BYTES) as backend:
            for index in range(1, 20):
                append(backend, index)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            SegmentedBackend(Path("/simulated"), segment_bytes=FIRST_BYTES, _files=disk)
    assert disk.open_count == 0
    with opened(disk, FIRST_BYTES) as backend:
        assert backend.recovery.number == (0 if is_new else 19)


def test_the_reserve_takes_the_largest_metadata_whatever_the_segment_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With segments of 4 KiB it had 64 KiB, and the write was refused on a full disk."""
    monkeypatch.undo()
    disk = SimulatedDisk()
    with opened(disk, SEGMENT_BYTES_MIN) as backend:
        backend.write(WriteBatch(1, meta=b"a" * META_BYTES_MAX))
        backend._worker.wait_idle()
        let_no_byte_more_in(disk)
        backend.write(WriteBatch(2, hard_state=b"vote", meta=b"b" * META_BYTES_MAX))
        backend.write(WriteBatch(3, hard_state=b"later"))
        with pytest.raises(OSError, match="disk full"):
            backend.write(WriteBatch(4, entries=[Entry(1, 1, b"x")]))
    with opened(disk, SEGMENT_BYTES_MIN) as backend:
        assert (backend.recovery.meta, backend.recovery.hard_state) == (b"b" * META_BYTES_MAX, b"later")


def test_a_reserve_of_another_size_is_made_anew_when_the_store_is_opened() -> None:
    """It is that of other options, or of an older version: it may be too small."""
    disk = SimulatedDisk()
    with opened(disk) as backend:
        append(backend, 1)
        size = len(disk.image()["reserve"])
    disk.unlink("reserve")
    plant(disk, "reserve", size // 2)
    with opened(disk):
        assert disk.image()["reserve"] == bytes(size)
