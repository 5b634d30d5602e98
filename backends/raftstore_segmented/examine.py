"""Looking at a store that nobody has open, without changing it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from raftstore.backend import BackendStats, Damage, Examination, Recovery
from raftstore.errors import CorruptionError
from raftstore_segmented.checksums import CRC32C
from raftstore_segmented.files import FileLayer
from raftstore_segmented.header import VERSION
from raftstore_segmented.recovery import Found, look, report
from raftstore_segmented.retired import SPARE
from raftstore_segmented.segment import segment_id_of, segment_name
from raftstore_segmented.verify import Verification


def examine(files: FileLayer, path: Path, *, deep: bool) -> Examination:
    """As `DiskBackend.examine`, through a file layer."""
    found, recovery, damage = None, None, list[Damage]()
    try:
        found = look(files, path, writable=False)
        recovery = report(found, None) if found is not None else Recovery(end_is_proved=True)
    except CorruptionError as error:
        damage.append(as_damage(error))
    try:
        checked = Verification(files, path, found, damage)
        if deep:
            checked.run()
        oldest, firsts = (found.state.oldest, found.state.firsts) if found is not None else (0, [])
        stats = measure(files, oldest, firsts)
        details = _details(found) if found is not None else {}
        return Examination(recovery, stats, checked.entries, checked.damage, details)
    finally:
        if found is not None:
            found.close(files)


def as_damage(error: CorruptionError) -> Damage:
    file = error.file.name if error.file is not None else None
    return Damage(str(error), file, error.offset, error.first_index, error.last_index)


def _details(found: Found) -> dict[str, object]:
    state = found.state
    segments = [
        {"file": segment_name(segment_id), "first_index": first}
        for segment_id, first in enumerate(state.firsts, state.oldest)
    ]
    return {
        "format_version": VERSION,
        "checksum": "crc32c" if found.current.header.algorithm == CRC32C else "crc32",
        "segments": segments,
        "closed_cleanly": found.clean,
        "end": {"file": found.current.name, "offset": found.current.end},
    }


def measure(files: FileLayer, oldest: int, firsts: list[int]) -> BackendStats:
    """Bytes and files of a store whose segments from `oldest` on hold entries from `firsts` on."""
    total = reclaimable = count = 0
    for name in files.names():
        with suppress(OSError):
            size = files.size_of(name)
            total, count = total + size, count + 1
            if name.startswith(SPARE) or _is_dead(segment_id_of(name), oldest, firsts):
                reclaimable += size
    return BackendStats(total, reclaimable, count)


def _is_dead(segment_id: int | None, oldest: int, firsts: list[int]) -> bool:
    """Whether a segment (not the newest) holds nothing that is live."""
    if segment_id is None or segment_id >= oldest + len(firsts) - 1:
        return False
    return segment_id < oldest or firsts[segment_id - oldest] == firsts[segment_id - oldest + 1]
