"""Sealing: writing the index of a finished segment behind its frames, in the background."""

from __future__ import annotations

from raftstore_segmented import frame
from raftstore_segmented.catalog import Catalog
from raftstore_segmented.counters import Counters
from raftstore_segmented.files import FileLayer, write_all
from raftstore_segmented.frame import encode_other
from raftstore_segmented.header import SEALED, Pointer
from raftstore_segmented.index import FrameIndex
from raftstore_segmented.lookup import end_of, is_sealed, load_base
from raftstore_segmented.segment import write_pointer


def seal(files: FileLayer, catalog: Catalog, segment_id: int, counters: Counters) -> None:
    """Write index and pointer of a segment whose successor has begun, if it has none.

    The index is synced before the pointer to it is written; until then, and if this fails, the frames are
    scanned when they are read.
    """
    try:
        segment = catalog.hold(segment_id)
    except LookupError:
        return
    try:
        if is_sealed(segment):
            return
        end = end_of(files, catalog, segment)
        index = load_base(files, catalog, segment).copy()
        with catalog.lock:
            index.extend(segment.tail)
        table, payload = index.encode(segment.place.checksum)
        write_all(files, segment.fd, encode_other(segment.place, end, 0, frame.INDEX, table, payload), end)
        files.fdatasync(segment.fd)
        write_pointer(files, segment, Pointer(end, SEALED))
        with catalog.lock:
            segment.base, segment.tail = index, FrameIndex()
        counters.seals += 1
    except LookupError:
        return  # purged meanwhile
    finally:
        catalog.let_go(segment)
