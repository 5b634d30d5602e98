"""Segments: rotation, recycling, purging, the full disk, interrupts, readers beside the writer."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from raftstore_segmented import SegmentedBackend
from raftstore_segmented.catalog import OPEN_MAX
from raftstore_segmented.frame import encode_data
from raftstore_segmented.space import RESERVE
from raftstore_segmented.testing import SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import ConfigError, CorruptionError
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually

pytestmark = pytest.mark.backend("segmented")

HERE = Path("/simulated")


@contextmanager
def simulated(disk: SimulatedDisk, segment_bytes: int = 4096) -> Iterator[SegmentedBackend]:
    backend = SegmentedBackend(HERE, segment_bytes=segment_bytes, _files=disk)
    try:
        yield backend
    finally:
        backend.close()
        assert disk.open_count == 0


@contextmanager
def real(path: Path, segment_bytes: int = 4096) -> Iterator[SegmentedBackend]:
    backend = SegmentedBackend(path, segment_bytes=segment_bytes)
    try:
        yield backend
    finally:
        backend.close()


def entries(first: int, count: int, size: int = 300) -> list[Entry]:
    return [Entry(1, i, Random(i).randbytes(size)) for i in range(first, first + count)]


def fill(backend: SegmentedBackend, count: int, size: int = 300, first: int = 1) -> Model:
    """`count` writes of one entry each, numbered as their entries."""
    model = Model()
    for entry in entries(first, count, size):
        model.entries[entry.index] = entry
        backend.write(WriteBatch(entry.index, entries=[entry]))
        backend._worker.wait_idle()
    return model


def segments(disk: SimulatedDisk) -> list[str]:
    return sorted(name for name in disk.image() if name.endswith(".seg"))


def everything(backend: SegmentedBackend, first: int, last: int) -> list[Entry]:
    return backend.read(first, last + 1, None)


def test_a_write_larger_than_a_segment_gets_room_and_the_next_one_a_segment_of_its_own() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        big = entries(1, 10, 5000)
        backend.write(WriteBatch(1, entries=big))
        backend.write(WriteBatch(2, entries=entries(11, 1)))
        assert everything(backend, 1, 11) == [*big, *entries(11, 1)]
    assert sorted(len(data) for name, data in disk.image().items() if name.endswith(".seg"))[-1] > 50000
    with simulated(disk) as backend:
        assert everything(backend, 1, 11) == [*big, *entries(11, 1)]


def test_the_writer_prepares_a_segment_only_if_the_background_has_not() -> None:
    with simulated(SimulatedDisk()) as backend:
        fill(backend, 60)
        assert backend.counters.writer_prepared == 0
        assert backend.counters.seals > 3
        assert backend.counters.writes == backend.counters.fsyncs == 60


def test_a_purge_gives_segments_back_and_keeps_one() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 100)
        before = backend.stats()
        backend.write(WriteBatch(101, anchor=LogId(1, 90)))
        backend._worker.wait_idle()
        after = backend.stats()
        assert after.files <= before.files - 8
        assert after.bytes_on_disk <= before.bytes_on_disk - 8 * 4096
        assert "spare-retired" in disk.image()
        assert everything(backend, 91, 100) == entries(91, 10)


def test_a_recycled_segment_shows_nothing_of_what_it_held() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 30)
        backend.write(WriteBatch(31, anchor=LogId(1, 29)))
        created = [call for call in disk.calls if call.startswith("create")]
        backend.write(WriteBatch(32, entries=entries(31, 10)))
        backend._worker.wait_idle()
        assert [call for call in disk.calls if call.startswith("create")] == created
        newest = disk.image()[segments(disk)[-1]]
        assert not newest[128:].strip(b"\0")
        assert everything(backend, 30, 40) == entries(30, 11)


def test_steady_appending_and_purging_keeps_the_number_of_files_bounded() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        for n in range(1, 400):
            backend.write(WriteBatch(2 * n, entries=entries(n, 1)))
            backend.write(WriteBatch(2 * n + 1, anchor=LogId(1, max(n - 5, 1))))
            backend._worker.wait_idle()
            assert len(disk.image()) <= 6
        assert everything(backend, 395, 399) == entries(395, 5)


def test_a_segment_that_somebody_reads_is_not_recycled() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 40)
        held, _ = backend._catalog.locate(1, 2)
        backend.write(WriteBatch(41, anchor=LogId(1, 39)))
        backend._worker.wait_idle()
        backend.write(WriteBatch(42, entries=entries(41, 20)))
        backend._worker.wait_idle()
        assert entries(1, 1)[0].data in disk.pread(held.fd, held.size, 0)
        backend._catalog.let_go(held)
        with pytest.raises(LookupError):
            backend.read(1, 2, None)


def test_a_purge_that_dies_at_any_call_leaves_a_store_with_or_without_it() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        model = fill(backend, 40)
    image = disk.image()
    purge = WriteBatch(41, anchor=LogId(1, 35))
    purged = model.copy()
    purged.number = 40
    purged.apply(purge)
    for stop_at in range(1, 40):
        disk = SimulatedDisk.holding(image)
        backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        backend._worker.wait_idle()
        start = len(disk.calls)

        def off(
            number: int, call: str, start: int = start, disk: SimulatedDisk = disk, at: int = stop_at
        ) -> None:
            if number - start >= at:
                disk.switch_off()
                raise OSError(errno.EIO, "simulated")

        disk.before_call = off
        try:
            backend.write(purge)
            returned = True
        except OSError:
            returned = False
        backend._worker.wait_idle()
        backend.close()
        with simulated(disk.power_cut(Random(stop_at))) as again:
            found = again.recovery
            assert found.anchor == LogId(1, 35) or (not returned and found.anchor == LogId(0, 0))
            assert everything(again, 36, 40) == entries(36, 5)


def append_until_full(backend: SegmentedBackend) -> int:
    """The index of the last entry that found room."""
    for entry in entries(1, 5000):
        try:
            backend.write(WriteBatch(entry.index, entries=[entry]))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017  (the loop ends at no other)
            return entry.index - 1
    raise AssertionError("the disk was never full")


def test_on_a_full_disk_appends_are_refused_whole_and_state_and_purge_go_on() -> None:
    disk = SimulatedDisk(bytes_max=600 << 10)
    with simulated(disk) as backend:
        last = append_until_full(backend)
        for n in range(300):
            backend.write(WriteBatch(2000 + n, hard_state=b"state %d" % n))
        assert everything(backend, 1, last) == entries(1, last)
        backend.write(WriteBatch(3000, anchor=LogId(1, last - 1)))
        backend._worker.wait_idle()
        backend.write(WriteBatch(3001, entries=entries(last + 1, 3)))
        assert everything(backend, last, last + 3) == entries(last, 4)
    with simulated(disk) as backend:
        assert backend.recovery.last == LogId(1, last + 3)
        assert backend.recovery.hard_state == b"state 299"
        assert everything(backend, last, last + 3) == entries(last, 4)


def test_a_quota_that_is_used_up_is_a_full_disk_and_no_failure() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 3)

        def refuse(_number: int, call: str) -> None:
            if call.startswith("create"):
                raise OSError(errno.EDQUOT, "quota exceeded")

        disk.before_call = refuse
        with pytest.raises(OSError, match="quota exceeded") as refused:
            fill(backend, 30, first=4)
        assert refused.value.errno == errno.ENOSPC
        last = backend._state.last_index
        backend.write(WriteBatch(100, hard_state=b"vote"))
        disk.before_call = lambda _number, _call: None
        backend.write(WriteBatch(101, entries=entries(last + 1, 10)))
        assert everything(backend, 1, last + 10) == entries(1, last + 10)


def test_a_refused_append_never_appears_although_its_missing_part_would_be_zeros() -> None:
    # The frame ends in a payload of zeros: what was written before the disk was full looks complete.
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 1)
        zeros = WriteBatch(2, entries=[Entry(1, 2, bytes(500))])
        real_pwrite, calls = disk.pwrite, list[int]()

        def short(fd: int, data: bytes | bytearray | memoryview, offset: int, /) -> int:
            calls.append(offset)
            if len(calls) == 1:
                return real_pwrite(fd, bytes(data[:120]), offset)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, "simulated")
            return real_pwrite(fd, data, offset)

        disk.pwrite = short  # type: ignore[method-assign]
        with pytest.raises(OSError, match="simulated"):
            backend.write(zeros)
        disk.pwrite = real_pwrite  # type: ignore[method-assign]
        killed = SimulatedDisk.holding(disk.image())
    with simulated(killed) as backend:
        assert backend.recovery.number == 1


def test_no_room_while_syncing_is_not_reported_as_a_clean_refusal() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 1)

        def full(number: int, call: str) -> None:
            if call.startswith("fdatasync"):
                raise OSError(errno.ENOSPC, "simulated")

        disk.before_call = full
        with pytest.raises(OSError, match="no room left while syncing") as error:
            backend.write(WriteBatch(2, entries=entries(2, 1)))
        assert error.value.errno == errno.EIO


def test_short_writes_are_completed() -> None:
    disk = SimulatedDisk()
    real_pwrite = disk.pwrite
    disk.pwrite = lambda fd, data, offset, /: real_pwrite(fd, bytes(data[:37]), offset)  # type: ignore[method-assign]
    with simulated(disk) as backend:
        fill(backend, 30)
    with simulated(SimulatedDisk.holding(disk.image())) as backend:
        assert everything(backend, 1, 30) == entries(1, 30)


def test_a_write_that_an_interrupt_cut_short_anywhere_is_done_once_when_repeated() -> None:
    batches = [WriteBatch(n, entries=entries(n, 1, 700)) for n in range(1, 12)]
    disk = SimulatedDisk()
    random = Random(3)
    with simulated(disk) as backend:
        for batch in batches:
            stop_at = len(disk.calls) + random.randint(1, 3)
            main = threading.current_thread()

            def interrupt(number: int, call: str, at: int = stop_at, main: threading.Thread = main) -> None:
                if number == at and threading.current_thread() is main:
                    raise KeyboardInterrupt

            disk.before_call = interrupt
            try:
                backend.write(batch)
            except KeyboardInterrupt:
                backend.write(batch)
            backend.write(batch)
        disk.before_call = lambda number, call: None
        assert everything(backend, 1, 11) == [entry for batch in batches for entry in batch.entries]
    with simulated(disk) as backend:
        assert backend.recovery.number == 11
        assert everything(backend, 1, 11) == [entry for batch in batches for entry in batch.entries]


def test_publishing_twice_is_publishing_once() -> None:
    with simulated(SimulatedDisk()) as backend:
        fill(backend, 5)
        batch = WriteBatch(6, truncate_from=4, entries=entries(4, 2, 50), hard_state=b"six")
        segment = backend._catalog.current
        data = encode_data(segment.place, segment.end, batch, b"")
        written = backend._write_frame(batch)
        assert written.size == len(data)
        backend._publish(batch, written)
        backend._publish(batch, written)
        assert everything(backend, 1, 5) == [*entries(1, 3), *entries(4, 2, 50)]
        assert len(segment.tail.firsts) == 4


def test_a_segment_that_exists_is_never_replaced() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 40)
        before = disk.image()
        zeroing = backend._space._zero("spare-x", 4096)
        zeroing.finish()
        with pytest.raises(FileExistsError):
            backend._space._finish(zeroing, 2, None)
        zeroing.abandon()
        assert disk.image() == before


def test_a_store_closed_after_a_failure_is_not_written_to() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        fill(backend, 3)

        def fail(number: int, call: str) -> None:
            if call.startswith("fdatasync"):
                raise OSError(errno.EIO, "simulated")

        disk.before_call = fail
        with pytest.raises(OSError, match="simulated"):
            backend.write(WriteBatch(4, entries=entries(4, 1)))
        calls = len(disk.calls)
        backend.close()
        assert len(disk.calls) == calls


@pytest.mark.parametrize("value", [0, -1, 4095, 1 << 40, True, "64MiB", 65536.0, None])
def test_a_segment_size_out_of_range_is_a_config_error(value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="segment_bytes"):
        SegmentedBackend(tmp_path, segment_bytes=value)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_files_belong_to_the_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with real(tmp_path) as backend:
            fill(backend, 20)
            assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())
    finally:
        os.umask(old)


@pytest.mark.parametrize("name", ["0000000000000001.seg", RESERVE, "spare-x"])
def test_a_symbolic_link_is_not_followed(name: str, tmp_path: Path) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    store.mkdir()
    with real(store) as backend:
        fill(backend, 3)
    outside.write_bytes(bytes(4096))
    (store / name).unlink(missing_ok=True)
    (store / name).symlink_to(outside)
    with pytest.raises(CorruptionError), real(store):
        pass
    assert outside.read_bytes() == bytes(4096)


def test_a_device_in_place_of_a_segment_is_refused(tmp_path: Path) -> None:
    with real(tmp_path) as backend:
        fill(backend, 3)
    name = tmp_path / "0000000000000001.seg"
    name.unlink()
    os.mkfifo(name)
    with pytest.raises(CorruptionError, match="no regular file"), real(tmp_path):
        pass


def test_a_new_small_store_is_small_and_segments_grow_with_it(tmp_path: Path) -> None:
    with real(tmp_path, 64 << 20) as backend:
        fill(backend, 3)
        assert backend.stats().bytes_on_disk <= 6 << 20


def test_a_log_that_is_only_written_keeps_a_bounded_number_of_segments_open() -> None:
    disk = SimulatedDisk()
    with simulated(disk) as backend:
        written = fill(backend, 2 * OPEN_MAX, size=3000)
        assert backend._state.newest > OPEN_MAX + 20
        assert disk.open_count <= OPEN_MAX + 2  # the current segment and the next
        assert everything(backend, 1, 2 * OPEN_MAX) == [*written.entries.values()]


def test_many_old_segments_are_read_with_a_bounded_number_of_open_files(tmp_path: Path) -> None:
    with real(tmp_path) as backend:
        for first in range(1, 800, 4):
            backend.write(WriteBatch(first, entries=entries(first, 4, 900)))
    with real(tmp_path) as backend:
        for index in Random(1).sample(range(1, 801), 800):
            assert backend.read(index, index + 1, None) == entries(index, 1, 900)
        files = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert sum(file.is_relative_to(tmp_path) for file in files) < 100


def payload(index: int, life: int) -> bytes:
    return b"%d.%d." % (index, life) * 40


class Readers:
    """Threads that read at random between two bounds and keep what is not as it was written."""

    def __init__(self, backend: SegmentedBackend, count: int) -> None:
        self.first, self.last = 1, 0
        self.wrong: list[object] = []
        self.reads = 0
        self._backend = backend
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        random = Random(seed)
        while not self._done.is_set():
            first, last = self.first, self.last
            if first <= last:
                self._read(random, random.randint(first, last), last + 1)

    def _read(self, random: Random, start: int, stop: int) -> None:
        try:
            found = self._backend.read(
                start, min(start + random.choice([1, 50]), stop), random.choice([None, 999])
            )
        except LookupError:
            return
        except CorruptionError as error:
            self.wrong.append(error)
            return
        self.reads += 1
        for index, entry in enumerate(found, start):
            if entry.index != index or entry.data != payload(index, entry.term):
                self.wrong.append(entry)


def test_readers_beside_a_writer_see_whole_writes_only(tmp_path: Path) -> None:
    with real(tmp_path) as backend:
        readers = Readers(backend, 2)
        random, last, anchor = Random(9), 0, LogId(0, 0)
        for number in range(1, 200):
            life = number // 50 + 1
            if number % 7 == 0 and last > anchor.index + 5:
                last -= random.randint(1, 3)
                readers.last = last
                backend.write(WriteBatch(number, truncate_from=last + 1))
            elif number % 31 == 0 and last > anchor.index + 20:
                anchor = backend.read(last - 10, last - 9, None)[0].id
                backend.write(WriteBatch(number, anchor=anchor))
                readers.first = anchor.index + 1
            else:
                new = [Entry(life, i, payload(i, life)) for i in range(last + 1, last + 4)]
                backend.write(WriteBatch(number, entries=new))
                last += 3
                readers.last = last
        try:
            eventually(lambda: readers.reads > 100 or bool(readers.wrong), "they read")
        finally:
            readers.stop()
    assert not readers.wrong


def test_a_read_of_many_small_frames_goes_on_after_each_lookup(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    with simulated(disk, 1 << 20) as backend:
        for entry in entries(1, 9000, 1):
            backend.write(WriteBatch(entry.index, entries=[entry]))
        assert everything(backend, 1, 9000) == entries(1, 9000, 1)
        assert backend.read(3, 9001, 5000) == entries(3, 5000, 1)
