"""Power cuts and kills at any call, all that was not synced lost, kept or torn; and proof of teeth.

The oracle: after a crash the store holds the state after the last returned write, or after the one in flight.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
from raftstore_segmented import SegmentedBackend, recovery, scan
from raftstore_segmented.frame import DATA, Place
from raftstore_segmented.header import MalformedError
from raftstore_segmented.segment import Segment
from raftstore_segmented.state import LogState
from raftstore_segmented.table import Change, EntryTable
from raftstore_segmented.testing import PowerCutError, SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.errors import RaftStoreError
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model

pytestmark = pytest.mark.backend("segmented")

HERE = Path("/simulated")
SEEDS = range(int(os.environ.get("RAFTSTORE_POWER_CUTS", "60")))


class LostError(AssertionError):
    """The store does not hold what it must."""


def live(seed: int) -> None:
    """Some lives of one store, each ended by a power cut, a kill or a clean close followed by either."""
    random = Random(seed)
    disk = SimulatedDisk()
    possible = [Model()]
    for _ in range(5):
        possible = live_once(random, disk, possible)
        disk = disk.power_cut(random) if random.random() < 0.5 else disk.killed()
    with_power = disk.killed()
    backend = SegmentedBackend(HERE, segment_bytes=4096, _files=with_power)
    try:
        check(backend, possible)
    finally:
        backend.close()


def live_once(random: Random, disk: SimulatedDisk, possible: list[Model]) -> list[Model]:
    """Open, write and perhaps close, until a random call; returns the states that the next life may find."""
    stop_at = random.randint(1, random.choice([15, 60, 300]))

    def off(number: int, call: str) -> None:
        if number >= stop_at:
            disk.switch_off()
            raise PowerCutError(call)

    disk.before_call = off
    backend = None
    try:
        backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
        possible = [check(backend, possible)]
        for _ in range(random.choice([5, 40])):
            batch = bulky(random, next_batch(random, possible[0]))
            possible.append(after(possible[0], batch))
            backend.write(batch)
            del possible[0]
            if random.random() < 0.1:
                backend.maintain()
        if random.random() < 0.5:
            backend.close()
    except PowerCutError:
        pass
    finally:
        disk.switch_off()
        if backend is not None:
            backend.close()
    return possible


def bulky(random: Random, batch: WriteBatch) -> WriteBatch:
    """The batch with longer payloads, so that a few of them fill a segment."""
    entries = [
        msgspec.structs.replace(entry, data=entry.data * random.choice([1, 10, 60]))
        for entry in batch.entries
    ]
    return msgspec.structs.replace(batch, entries=entries)


def after(model: Model, batch: WriteBatch) -> Model:
    twin = model.copy()
    twin.apply(batch)
    return twin


def check(backend: SegmentedBackend, possible: list[Model]) -> Model:
    """The one of the possible states that the store holds. Raises `LostError`."""
    found = backend.recovery
    for model in possible:
        if model.number != found.number:
            continue
        expected = model.recovery()
        same = (expected.anchor, expected.last, expected.hard_state, expected.meta, list(expected.term_runs))
        if same != (found.anchor, found.last, found.hard_state, found.meta, list(found.term_runs)):
            raise LostError(f"expected {expected}, found {found}")
        if model.entries:
            entries = backend.read(model.first_index, model.last.index + 1, None)
            if entries != list(model.entries.values()):
                raise LostError("other entries")
        return model
    raise LostError(f"found write {found.number}, may be {[model.number for model in possible]}")


@pytest.mark.parametrize("seed", SEEDS)
def test_no_returned_write_is_lost_and_no_write_is_half_there(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every other life no payload that a frame follows is read, as if all of them were large."""
    if seed % 2:
        monkeypatch.setattr(scan, "LARGE_BYTES", 1)
    live(seed)


def no_sync(backend: SegmentedBackend, segment: Segment, data: bytearray) -> None:
    backend._files.pwrite(segment.fd, data, segment.end)


def no_blobs(state: LogState, *, firsts: list[int], previous_end: int) -> bytes:
    state.hard_state = None
    return encode(state, firsts=firsts, previous_end=previous_end)


def never_read(window: scan.Window, place: Place, offset: int) -> scan.Frame | None:
    try:
        header, table = scan.read_table(window, place, offset)
        return scan.Frame(header, Change(header, table)) if header.kind == DATA else None
    except (scan.BadFrameError, MalformedError):
        return None


def nothing(*_: object) -> None: ...


encode = LogState.encode

PLANTED: dict[str, tuple[object, str, Callable[..., object]]] = {
    "appends are not synced": (SegmentedBackend, "_put", no_sync),
    "the directory is not synced": (SimulatedDisk, "sync_directory", nothing),
    "payload checksums are not looked at": (EntryTable, "bad_block", nothing),
    "no payload is read, whether a frame follows or not": (recovery, "read_durable_frame", never_read),
    "a new segment forgets the hard state": (LogState, "encode", no_blobs),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_power_cuts_find_planted_bugs(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken = PLANTED[bug]
    monkeypatch.setattr(owner, name, broken)
    for seed in range(400):
        try:
            live(seed)
        except (LostError, RaftStoreError, OSError):
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_call_that_fails_loses_no_returned_write(seed: int, code: int, sticky: bool) -> None:
    """A failed write is repeated if the disk was full, and ends the life if it was anything else."""
    random = Random(seed)
    disk = SimulatedDisk()
    fail_at = random.randint(10, 80)

    def fail(number: int, call: str) -> None:
        is_room = call.startswith(("pwrite", "create")) or code == errno.EIO
        if is_room and (number == fail_at or (sticky and number > fail_at)):
            raise OSError(code, "simulated")

    backend = SegmentedBackend(HERE, segment_bytes=4096, _files=disk)
    disk.before_call = fail
    possible = [Model()]
    try:
        for _ in range(40):
            batch = bulky(random, next_batch(random, possible[0]))
            possible.append(after(possible[0], batch))
            try:
                backend.write(batch)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    break
                del possible[1]
                continue
            del possible[0]
    finally:
        backend.close()
    for image in (disk.power_cut(random), disk.killed()):
        again = SegmentedBackend(HERE, segment_bytes=4096, _files=image)
        try:
            check(again, possible)
        finally:
            again.close()
