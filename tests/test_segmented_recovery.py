"""What opening a segmented store does about every kind of damage, byte by byte, on a small simulated disk."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest
from raftstore_segmented import SegmentedBackend, frame
from raftstore_segmented.examine import examine
from raftstore_segmented.testing import SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import BackendMissingError, CorruptionError, FormatError
from raftstore.testing.model import Model

pytestmark = pytest.mark.backend("segmented")

HERE = Path("/simulated")
FRAMES_AT = 128
Image = dict[str, bytes]


@contextmanager
def opened(disk: SimulatedDisk, segment_bytes: int = 4096) -> Iterator[SegmentedBackend]:
    backend = SegmentedBackend(HERE, segment_bytes=segment_bytes, _files=disk)
    try:
        yield backend
    finally:
        backend.close()
        assert disk.open_count == 0


def entries(first: int, count: int, term: int = 1, size: int = 30) -> list[Entry]:
    return [Entry(term, i, Random(i).randbytes(size + i % 3), i % 2) for i in range(first, first + count)]


def killed_after(batches: list[WriteBatch], *, mark: bool = False, segment_bytes: int = 4096) -> Image:
    """The files after these writes and a kill, when the background had come to rest."""
    disk = SimulatedDisk()
    backend = SegmentedBackend(HERE, segment_bytes=segment_bytes, _files=disk)
    for batch in batches:
        backend.write(batch)
    if mark:
        backend.maintain()
    backend._worker.wait_idle()
    image = disk.image()
    backend.close()
    return image


def closed_after(batches: list[WriteBatch], segment_bytes: int = 4096) -> Image:
    disk = SimulatedDisk()
    with opened(disk, segment_bytes) as backend:
        for batch in batches:
            backend.write(batch)
        backend._worker.wait_idle()
    return disk.image()


def segments(image: Image) -> list[str]:
    return sorted(name for name in image if name.endswith(".seg"))


def used(image: Image) -> str:
    """The newest segment that holds a frame."""
    return next(name for name in reversed(segments(image)) if image[name][FRAMES_AT:].strip(b"\0"))


def end_of_data(data: bytes) -> int:
    """Where the frames end: at a multiple of 8."""
    return len(data.rstrip(b"\0")) + 7 & ~7


def changed(image: Image, name: str, at: int, data: bytes) -> Image:
    old = image[name]
    return image | {name: old[:at] + data + old[at + len(data) :]}


def flipped(image: Image, name: str, at: int) -> Image:
    return changed(image, name, at, bytes([image[name][at] ^ 0x40]))


def assert_holds(backend: SegmentedBackend, model: Model) -> None:
    expected, found = model.recovery(), backend.recovery
    assert (found.anchor, found.last, found.number) == (expected.anchor, expected.last, expected.number)
    assert (found.hard_state, found.meta) == (expected.hard_state, expected.meta)
    assert list(found.term_runs) == list(expected.term_runs)
    if model.entries:
        assert backend.read(model.first_index, model.last.index + 1, None) == list(model.entries.values())


THREE = [
    WriteBatch(1, entries=entries(1, 3), hard_state=b"one"),
    WriteBatch(2, entries=entries(4, 2, term=2), meta=b"two"),
    WriteBatch(3, entries=entries(6, 3, term=2), hard_state=b"three"),
]


def start_of_last(batches: list[WriteBatch]) -> int:
    before = killed_after(batches[:-1])
    return end_of_data(before[used(before)])


def test_a_last_frame_cut_at_any_byte_is_dropped_copied_aside_and_zeroed() -> None:
    whole = killed_after(THREE)
    name, start = used(whole), start_of_last(THREE)
    stop = end_of_data(whole[name])
    for cut in range(start + 1, len(whole[name].rstrip(b"\0"))):
        disk = SimulatedDisk.holding(changed(whole, name, cut, bytes(stop - cut)))
        torn = whole[name][start:cut].rstrip(b"\0")
        with opened(disk) as backend:
            assert_holds(backend, Model.after(THREE[:2]))
            assert backend.recovery.torn_bytes == len(torn)
            assert not backend.recovery.end_is_proved
            assert not disk.image()[name][start:].strip(b"\0")
            kept_at = backend.recovery.kept_at
            assert kept_at is not None
            assert disk.image()[kept_at.name] == torn
            backend.write(THREE[2])
        with opened(disk) as backend:
            assert_holds(backend, Model.after(THREE))


def test_a_frame_cut_before_its_first_byte_leaves_nothing_to_report() -> None:
    with opened(SimulatedDisk.holding(killed_after(THREE[:2]))) as backend:
        assert_holds(backend, Model.after(THREE[:2]))
        assert backend.recovery.torn_bytes == 0
        assert backend.recovery.kept_at is None


def test_the_last_frame_with_any_byte_changed_is_taken_for_torn_and_said_to_be() -> None:
    whole = killed_after(THREE)
    name, start = used(whole), start_of_last(THREE)
    padding = range(len(whole[name].rstrip(b"\0")), end_of_data(whole[name]))
    for at in range(start, padding.start):
        with opened(SimulatedDisk.holding(flipped(whole, name, at))) as backend:
            assert_holds(backend, Model.after(THREE[:2]))
            assert backend.recovery.torn_bytes > 0
            assert not backend.recovery.end_is_proved


@pytest.mark.parametrize("sector", [512, 64, 8])
def test_the_last_frame_with_any_part_missing_is_torn(sector: int) -> None:
    batches = [*THREE, WriteBatch(4, entries=entries(9, 20, term=3))]
    whole = killed_after(batches)
    name, start = used(whole), start_of_last(batches)
    for at in range(start // sector * sector, end_of_data(whole[name]), sector):
        begin = max(at, start)
        image = changed(whole, name, begin, bytes(at + sector - begin))
        if image == whole:
            continue
        with opened(SimulatedDisk.holding(image)) as backend:
            assert_holds(backend, Model.after(THREE))


@pytest.mark.parametrize("mark", [False, True])
def test_any_changed_byte_before_the_last_frame_is_refused_or_does_no_harm(mark: bool) -> None:
    whole = killed_after(THREE, mark=mark)
    name, stop = used(whole), start_of_last(THREE)
    if mark:
        stop = end_of_data(whole[name]) - 56
    refused = 0
    for at in range(stop):
        try:
            with opened(SimulatedDisk.holding(flipped(whole, name, at))) as backend:
                assert_holds(backend, Model.after(THREE))
        except (CorruptionError, FormatError) as error:
            refused += name in str(error)
    harmless = 64 + 3 * 7 + 7  # the pointer and its padding, and the padding of frames
    assert refused >= stop - harmless


def test_a_damaged_length_with_a_valid_checksum_does_not_hide_the_frames_after_it() -> None:
    from raftstore_segmented import frame
    from raftstore_segmented.checksums import checksum
    from raftstore_segmented.header import decode_header

    whole = killed_after(THREE)
    name = used(whole)
    at = end_of_data(killed_after(THREE[:1])[name])
    header = bytearray(whole[name][at : at + frame.FRAME_HEADER_BYTES])
    header[32:40] = (1 << 60).to_bytes(8, "little")
    algorithm = decode_header(whole[name]).algorithm
    header[52:56] = checksum(algorithm)(bytes(header[:52])).to_bytes(4, "little")
    with (
        pytest.raises(CorruptionError) as error,
        opened(SimulatedDisk.holding(changed(whole, name, at, bytes(header)))),
    ):
        pass
    assert error.value.offset == at


def test_a_marked_end_proves_itself_and_a_kill_after_a_write_does_not() -> None:
    with opened(SimulatedDisk.holding(killed_after(THREE, mark=True))) as backend:
        assert_holds(backend, Model.after(THREE))
        assert backend.recovery.end_is_proved
    with opened(SimulatedDisk.holding(killed_after(THREE))) as backend:
        assert not backend.recovery.end_is_proved


ROTATED = [WriteBatch(n, entries=entries(4 * n - 3, 4, term=n // 3 + 1, size=300)) for n in range(1, 13)]
"""Some segments full."""


def test_every_changed_byte_of_a_sealed_segment_is_found_when_it_is_read_or_does_no_harm() -> None:
    whole, model = closed_after(ROTATED), Model.after(ROTATED)
    name = segments(whole)[0]
    refused = harmless = 0
    for at in range(0, end_of_data(whole[name]), 3):
        disk = SimulatedDisk.holding(flipped(whole, name, at))
        with opened(disk) as backend:
            try:
                found = backend.read(1, model.last.index + 1, None)
            except (CorruptionError, FormatError) as error:
                refused += name in str(error)
                continue
            assert found == list(model.entries.values())
            harmless += 1
    assert refused > harmless


def test_deep_examination_finds_every_changed_byte_that_means_something() -> None:
    whole = closed_after(ROTATED)
    assert not examine(SimulatedDisk.holding(whole), HERE, deep=True).damage
    name = segments(whole)[0]
    silent = []
    for at in range(len(whole[name])):
        if not whole[name][at : at + 1].strip(b"\0"):
            continue
        disk = SimulatedDisk.holding(flipped(whole, name, at))
        before = disk.image()
        try:
            found = examine(disk, HERE, deep=True)
        except FormatError:
            continue
        assert disk.image() == before
        assert disk.open_count == 0
        if not any(damage.file == name for damage in found.damage):
            silent.append(at)
    assert not silent


def test_examination_names_the_entries_of_a_damaged_payload() -> None:
    whole = closed_after(ROTATED)
    name = segments(whole)[0]
    wanted = Model.after(ROTATED).entries[3]
    at = whole[name].index(wanted.data)
    found = examine(SimulatedDisk.holding(flipped(whole, name, at)), HERE, deep=True)
    (damage,) = found.damage
    assert (damage.file, damage.first_index, damage.last_index) == (name, 1, 4)
    assert found.entries_checked == len(Model.after(ROTATED).entries) - 4


def test_a_missing_segment_is_noticed_whichever_it_is() -> None:
    whole = closed_after(ROTATED)
    last = used(whole)
    for name in segments(whole):
        image = {other: data for other, data in whole.items() if other != name}
        if name > last:
            with opened(SimulatedDisk.holding(image)) as backend:
                assert_holds(backend, Model.after(ROTATED))
        else:
            with pytest.raises(CorruptionError), opened(SimulatedDisk.holding(image)):
                pass


def test_segments_missing_in_any_order_are_noticed_or_the_newest_unsealed_ones() -> None:
    whole = killed_after(ROTATED)
    names = segments(whole)
    random = Random(7)
    for _ in range(60):
        gone = set(random.sample(names, random.randint(1, len(names) - 1)))
        image = {name: data for name, data in whole.items() if name not in gone}
        try:
            with opened(SimulatedDisk.holding(image)) as backend:
                assert_holds(backend, Model.after(ROTATED))
        except CorruptionError:
            continue
        assert min(gone) > used(whole)


def test_a_store_whose_segments_are_all_gone_is_not_a_new_store() -> None:
    image = {name: data for name, data in killed_after(ROTATED).items() if not name.endswith(".seg")}
    with pytest.raises(CorruptionError), opened(SimulatedDisk.holding(image)):
        pass


def first_write_into_next() -> tuple[Image, str, list[WriteBatch]]:
    """A store killed right after the write that began a new segment, before the one before was sealed."""
    for count in range(2, len(ROTATED)):
        before, after = killed_after(ROTATED[:count]), killed_after(ROTATED[: count + 1])
        if used(after) != used(before):
            name = used(before)
            unsealed = changed(after, name, 64, bytes(64))
            del unsealed[segments(after)[-1]]
            end = end_of_data(before[name])
            return changed(unsealed, name, end, bytes(4096 - end)), used(after), ROTATED[: count + 1]
    raise AssertionError("no rotation")


def test_a_torn_first_frame_of_a_segment_is_dropped_at_any_byte() -> None:
    whole, name, batches = first_write_into_next()
    disk = SimulatedDisk.holding(whole)
    with opened(disk) as backend:
        assert_holds(backend, Model.after(batches))
    stop = len(whole[name].rstrip(b"\0"))
    for cut in range(FRAMES_AT, stop, 5):
        disk = SimulatedDisk.holding(changed(whole, name, cut, bytes(stop - cut)))
        with opened(disk) as backend:
            assert_holds(backend, Model.after(batches[:-1]))
            assert backend.recovery.torn_bytes == len(whole[name][FRAMES_AT:cut].rstrip(b"\0"))
            backend._worker.wait_idle()
            assert not disk.image()[name][FRAMES_AT:].strip(b"\0")
            backend.write(batches[-1])
        with opened(disk) as backend:
            assert_holds(backend, Model.after(batches))


def test_a_bad_first_frame_is_refused_if_the_segment_before_was_sealed() -> None:
    whole = killed_after(ROTATED)
    with (
        pytest.raises(CorruptionError),
        opened(SimulatedDisk.holding(flipped(whole, used(whole), FRAMES_AT + 20))),
    ):
        pass


def test_the_end_of_a_segment_with_a_begun_successor_is_not_taken_for_torn() -> None:
    whole, name, _ = first_write_into_next()
    before = segments(whole)[segments(whole).index(name) - 1]
    at = end_of_data(whole[before]) - 20
    torn = changed(flipped(whole, before, at), name, FRAMES_AT + 100, bytes(100))
    with pytest.raises(CorruptionError), opened(SimulatedDisk.holding(torn)):
        pass


def test_what_opening_reports_survives_a_power_cut_even_if_a_sync_had_failed_before() -> None:
    for seed in range(20):
        disk = SimulatedDisk()
        backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        backend.write(THREE[0])
        backend._worker.wait_idle()

        def fail(number: int, call: str) -> None:
            if call.startswith("fdatasync"):
                raise OSError(errno.EIO, "simulated")

        disk.before_call = fail
        with pytest.raises(OSError, match="simulated"):
            backend.write(THREE[1])
        backend.close()
        disk = disk.killed()
        with opened(disk) as again:
            number = again.recovery.number
            again._worker.wait_idle()
            image = disk.power_cut(Random(seed))
        with opened(image) as after:
            assert after.recovery.number == number == 2


def test_closing_leaves_a_proof_and_opening_takes_it_away_before_it_could_be_wrong() -> None:
    disk = SimulatedDisk.holding(closed_after(THREE))
    with opened(disk) as backend:
        assert backend.recovery.end_is_proved
        assert_holds(backend, Model.after(THREE))
        now = disk.image()
        assert examine(SimulatedDisk.holding(now), HERE, deep=False).details["closed_cleanly"] is False
    assert examine(disk, HERE, deep=False).details["closed_cleanly"] is True


def test_opening_after_a_clean_close_reads_little_and_after_a_kill_at_most_a_segment_and_a_bit() -> None:
    batches = [WriteBatch(n, entries=entries(100 * n - 99, 100, size=1000)) for n in range(1, 40)]
    with opened(SimulatedDisk.holding(closed_after(batches, 1 << 20)), 1 << 20) as backend:
        assert backend.recovery.bytes_read < 8 << 10
    with opened(SimulatedDisk.holding(killed_after(batches, segment_bytes=1 << 20)), 1 << 20) as backend:
        assert backend.recovery.bytes_read <= (1 << 20) + (66 << 10)


def large_frames() -> tuple[Image, list[bytes]]:
    """A store that was killed with five frames of 700 KiB in its newest segment, and their payloads."""
    payloads = [Random(n).randbytes(700 << 10) for n in range(1, 7)]
    batches = [WriteBatch(n, entries=[Entry(1, n, data)]) for n, data in enumerate(payloads, 1)]
    return killed_after(batches, segment_bytes=4 << 20), payloads


def test_opening_after_a_kill_does_not_read_large_payloads_that_others_follow() -> None:
    """It read a segment and a bit, although the last frame alone can be torn."""
    whole, payloads = large_frames()
    with opened(SimulatedDisk.holding(whole), 4 << 20) as backend:
        assert backend.recovery.bytes_read < len(whole[used(whole)]) - (600 << 10)
        assert [entry.data for entry in backend.read(1, 7, None)] == payloads


def test_a_large_payload_that_opening_did_not_read_is_checked_when_it_is_read() -> None:
    whole, payloads = large_frames()
    name = used(whole)
    for damaged in (3, 4, 5):
        at = whole[name].index(payloads[damaged - 1]) + 300_000
        image = flipped(whole, name, at)
        with opened(SimulatedDisk.holding(image), 4 << 20) as backend:
            assert backend.recovery.last == LogId(1, 6)
            with pytest.raises(CorruptionError) as error:
                backend.read(damaged, damaged + 1, None)
            assert (error.value.first_index, error.value.last_index) == (damaged, damaged)
        found = examine(SimulatedDisk.holding(image), HERE, deep=True)
        assert [(damage.file, damage.first_index) for damage in found.damage] == [(name, damaged)]


def test_a_large_payload_at_the_end_is_read_by_opening() -> None:
    whole, payloads = large_frames()
    name = used(whole)
    image = flipped(whole, name, whole[name].index(payloads[5]) + 300_000)
    with opened(SimulatedDisk.holding(image), 4 << 20) as backend:
        assert backend.recovery.torn_bytes > 0
        assert backend.recovery.last == LogId(1, 5)


def test_a_damaged_large_payload_is_not_taken_for_the_torn_end_once_the_torn_frame_behind_it_is_zeroed() -> (
    None
):
    whole, payloads = large_frames()
    name = used(whole)
    torn = changed(whole, name, whole[name].index(payloads[5]), bytes(len(payloads[5])))
    disk = SimulatedDisk.holding(torn)
    with opened(disk, 4 << 20) as backend:
        assert backend.recovery.last == LogId(1, 5)
        assert backend.recovery.torn_bytes > 0
        killed = disk.image()
    with opened(SimulatedDisk.holding(killed), 4 << 20) as backend:
        assert backend.recovery.last == LogId(1, 5)
    damaged = flipped(torn, name, torn[name].index(payloads[4]) + 300_000)
    disk = SimulatedDisk.holding(damaged)
    for _ in range(2):
        with (
            pytest.raises(CorruptionError, match="a frame that others follow is damaged"),
            opened(disk, 4 << 20),
        ):
            pass
        assert disk.image() == damaged
    found = examine(disk, HERE, deep=True)
    assert {damage.file for damage in found.damage} == {name}


def test_a_damaged_index_of_a_closed_store_costs_a_scan_and_nothing_else() -> None:
    whole, killed = closed_after(THREE), killed_after(THREE)
    name = used(whole)
    start = end_of_data(killed[name])
    for at in [*range(64, 96), *range(start, end_of_data(whole[name]))]:
        with opened(SimulatedDisk.holding(flipped(whole, name, at))) as backend:
            assert_holds(backend, Model.after(THREE))


def test_a_closed_segment_that_was_cut_anywhere_is_refused_or_whole() -> None:
    """Its index can stand beyond the size that the file was prepared with."""
    batches = [WriteBatch(n, entries=entries(n, 1, size=10)) for n in range(1, 34)]
    whole = closed_after(batches)
    name, refused = used(whole), list[CorruptionError]()
    for size in range(FRAMES_AT, len(whole[name]), 8):
        disk = SimulatedDisk.holding(whole | {name: whole[name][:size]})
        try:
            with opened(disk) as backend:
                assert_holds(backend, Model.after(batches))
        except CorruptionError as error:
            refused.append(error)
    assert all(error.file == HERE / name and error.offset is not None for error in refused)
    prepared, index_at = (int.from_bytes(whole[name][at : at + 8], "little") for at in (24, 80))
    assert len(whole[name]) > prepared
    assert len(refused) == (max(index_at, prepared) - FRAMES_AT) // 8


def test_a_damaged_index_with_frames_after_it_is_passed_over() -> None:
    disk = SimulatedDisk.holding(closed_after(THREE))
    name = used(disk.image())
    index_at = end_of_data(killed_after(THREE)[name])
    backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
    more = WriteBatch(4, entries=entries(9, 2, term=5))
    backend.write(more)
    backend._worker.wait_idle()
    image = disk.image()
    backend.close()
    with opened(SimulatedDisk.holding(flipped(image, name, index_at + 60))) as again:
        assert_holds(again, Model.after([*THREE, more]))
        assert again.recovery.notes


def test_an_index_of_a_part_of_a_segment_is_not_taken_for_the_whole() -> None:
    # A store is closed (index of what there is), goes on, and is killed before the full segment is sealed.
    disk = SimulatedDisk.holding(closed_after(ROTATED[:1]))
    name = used(disk.image())
    backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
    pointer = disk.image()[name][64:96]
    for batch in ROTATED[1:]:
        backend.write(batch)
    backend._worker.wait_idle()
    image = changed(disk.image(), name, 64, pointer)
    backend.close()
    assert used(image) != name
    with opened(SimulatedDisk.holding(image)) as again:
        assert_holds(again, Model.after(ROTATED))


def test_an_unsealed_old_segment_is_sealed_by_the_next_opening() -> None:
    whole, _, batches = first_write_into_next()
    disk = SimulatedDisk.holding(whole)
    with opened(disk) as backend:
        backend._worker.wait_idle()
        assert backend.counters.seals == 1
        assert_holds(backend, Model.after(batches))


def test_the_last_few_torn_ends_are_kept_and_no_more() -> None:
    disk = SimulatedDisk()
    for number in range(1, 7):
        backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        backend.write(WriteBatch(2 * number - 1, entries=entries(number, 1)))
        name = backend._catalog.current.name
        end = backend._catalog.current.end
        backend._worker.wait_idle()
        image = changed(disk.image(), name, end, b"torn write %d" % number)
        backend.close()
        disk = SimulatedDisk.holding(image)
    with opened(disk):
        torn = sorted(name for name in disk.image() if name.startswith("torn-"))
        assert len(torn) == 3
        assert disk.image()[torn[-1]] == b"torn write 6"


def test_failing_to_copy_torn_bytes_aside_does_not_stop_the_opening() -> None:
    whole = killed_after(THREE)
    name = used(whole)
    disk = SimulatedDisk.holding(changed(whole, name, end_of_data(whole[name]), b"torn"))

    def full(number: int, call: str) -> None:
        if call.startswith("create torn-"):
            raise OSError(errno.ENOSPC, "simulated")

    disk.before_call = full
    with opened(disk) as backend:
        assert_holds(backend, Model.after(THREE))
        assert (backend.recovery.torn_bytes, backend.recovery.kept_at) == (4, None)


def test_payloads_that_look_like_frames_are_not_taken_for_frames() -> None:
    # Whoever writes entries may know the format, but not the tag of the segment.
    first = killed_after(THREE)
    name = used(first)
    forged = first[name][FRAMES_AT : end_of_data(first[name])]
    batches = [*THREE[:2], WriteBatch(3, entries=[Entry(2, 6 + i, forged) for i in range(3)])]
    whole = killed_after(batches)
    start = end_of_data(killed_after(batches[:2])[name])
    with opened(SimulatedDisk.holding(flipped(whole, name, start + 30))) as backend:
        assert_holds(backend, Model.after(batches[:2]))


def test_another_format_version_is_refused_with_both_versions_named() -> None:
    whole = closed_after(THREE)
    image = changed(whole, used(whole), 8, (2).to_bytes(2, "little"))
    with (
        pytest.raises(FormatError, match="version 2; this version reads 1"),
        opened(SimulatedDisk.holding(image)),
    ):
        pass


def test_a_store_whose_checksum_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("crc32c")
    whole = closed_after(THREE)
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(BackendMissingError, match="pip install"), opened(SimulatedDisk.holding(whole)):
        pass


def test_a_store_made_without_the_library_goes_on_with_its_own_checksum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "crc32c", None)
        disk = SimulatedDisk.holding(closed_after(ROTATED[:6]))
        with opened(disk) as backend:
            backend.write(ROTATED[6])
    with opened(disk) as backend:
        for batch in ROTATED[7:]:
            backend.write(batch)
    assert examine(disk, HERE, deep=True).details["checksum"] == "crc32"
    with opened(disk) as backend:
        assert_holds(backend, Model.after(ROTATED))


def test_a_purge_leaves_old_segments_that_the_next_opening_removes() -> None:
    batches = [*ROTATED, WriteBatch(100, anchor=LogId(4, 40), hard_state=repr(HardState(4)).encode())]
    with_old = killed_after(ROTATED)
    whole = killed_after(batches)
    image = with_old | whole  # segments of one store: the purge had removed nothing yet
    image = {name: with_old.get(name, whole.get(name, b"")) for name in image}
    disk = SimulatedDisk.holding(with_old)
    with opened(disk) as backend:
        backend.write(batches[-1])
        old = {name: data for name, data in with_old.items() if name.endswith(".seg")}
        backend._worker.wait_idle()
    left = disk.image()
    removed = [name for name in segments(with_old) if name not in left]
    assert removed
    again = SimulatedDisk.holding(left | {name: old[name] for name in removed[1:]})
    with opened(again) as backend:
        assert_holds(backend, Model.after(batches))
        assert not set(removed) & set(again.image())


@pytest.mark.parametrize("seed", range(12))
def test_any_writes_closed_or_killed_anywhere_are_found_again(seed: int) -> None:
    from raftstore.testing.batches import next_batches

    random = Random(seed)
    disk, done = SimulatedDisk(), list[WriteBatch]()
    for _ in range(8):
        with opened(disk, random.choice([4096, 16384])) as backend:
            assert_holds(backend, Model.after(done))
            batches = next_batches(random, Model.after(done), random.randint(1, 40))
            for batch in batches:
                backend.write(batch)
                if random.random() < 0.1:
                    backend.maintain()
            done += batches
            if random.random() < 0.5:
                backend._worker.wait_idle()
                disk_after = SimulatedDisk.holding(disk.image())
            else:
                disk_after = disk
        disk = disk_after
        assert not examine(disk, HERE, deep=True).damage


def test_the_index_of_a_finished_segment_does_not_prove_that_nothing_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_yet(*_: object) -> None:
        pass

    monkeypatch.setattr("raftstore_segmented.seal.write_pointer", not_yet)  # killed just before that
    image = killed_after([WriteBatch(n, entries=entries(10 * n - 9, 10, size=100)) for n in range(1, 5)])
    gone = used(image)
    assert gone != segments(image)[0]
    for name in segments(image):
        if name >= gone:
            del image[name]
    with opened(SimulatedDisk.holding(image)) as backend:
        assert 0 < backend.recovery.last.index < 40
        assert not backend.recovery.end_is_proved


@pytest.mark.parametrize("payload_bytes", [1 << 20, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_frame_that_says_it_is_longer_than_any_file_is_a_torn_end(
    tmp_path: Path, payload_bytes: int
) -> None:
    """The operating system takes no such offsets, nor does Python hand them to it."""
    image = killed_after(THREE)
    with opened(SimulatedDisk.holding(image)) as backend:
        segment = backend._catalog.current
        end = segment.end
    head = frame._header(segment.place, end, 4, payload_bytes, 0, 0, frame.DATA, 0)
    for name, data in changed(image, segment.name, end, head).items():
        (tmp_path / name).write_bytes(data)
    with closing(SegmentedBackend(tmp_path, segment_bytes=4096)) as backend:
        assert backend.recovery.number == 3
        assert backend.recovery.torn_bytes == len(head)
