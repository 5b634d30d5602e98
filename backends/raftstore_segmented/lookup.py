"""Loading the index of a segment: from its index frame, or from its frames if that is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

from raftstore.errors import CorruptionError
from raftstore_segmented import frame
from raftstore_segmented.catalog import Catalog
from raftstore_segmented.files import FileLayer
from raftstore_segmented.header import FRAMES_AT, SEALED, MalformedError
from raftstore_segmented.index import FrameIndex, decode_index
from raftstore_segmented.scan import BadFrameError, Frame, Window, frames, read_table
from raftstore_segmented.segment import Segment
from raftstore_segmented.state import decode_snapshot
from raftstore_segmented.table import Change

_log = logging.getLogger(__name__)


def load_base(files: FileLayer, catalog: Catalog, segment: Segment) -> FrameIndex:
    """Make `segment.base` present. O(index frame), or O(segment) if that is damaged or was never written.

    Raises `CorruptionError` if frames are damaged, `LookupError` if the segment was purged meanwhile.
    """
    if segment.base is not None:
        return segment.base
    index = stored_index(files, segment) if _describes(segment) else None
    if index is None:
        _log.info("%s: no index to be trusted, reading the frames", segment.name)
        index = _index_from_frames(files, catalog, segment)
    segment.base = index
    return index


def _describes(segment: Segment) -> bool:
    """Whether the index that is pointed at is the whole segment's, or the part's that `base` stands for."""
    pointer = segment.pointer
    return pointer is not None and (bool(pointer.flags & SEALED) or pointer.offset == segment.base_end)


def stored_index(files: FileLayer, segment: Segment) -> FrameIndex | None:
    """The index frame that the pointer points at, or None if it is not there or not sound."""
    pointer = segment.pointer
    if pointer is None:
        return None
    window = Window(files, segment.fd, files.size(segment.fd))
    try:
        header, table = read_table(window, segment.place, pointer.offset)
        if header.kind != frame.INDEX:
            return None
        payload = window.piece(header.payload_at, header.payload_bytes)
        return decode_index(table, payload, segment.place.checksum)
    except (BadFrameError, MalformedError):
        return None


def _index_from_frames(files: FileLayer, catalog: Catalog, segment: Segment) -> FrameIndex:
    stop = segment.base_end if segment is catalog.current else end_of(files, catalog, segment)
    window, index = Window(files, segment.fd, files.size(segment.fd)), FrameIndex()
    at = FRAMES_AT
    try:
        for found in frames(window, segment.place, FRAMES_AT, stop):
            note(index, found)
            at = found.header.offset + found.header.size
    except BadFrameError as error:
        raise CorruptionError(str(error), file=catalog.directory / segment.name, offset=at) from error
    return index


def end_of(files: FileLayer, catalog: Catalog, segment: Segment) -> int:
    """Where the frames of a segment that is written no more end: the next one's first frame says so."""
    following = catalog.hold(segment.id + 1)
    try:
        return previous_end(files, catalog.directory, following)
    finally:
        catalog.let_go(following)


def previous_end(files: FileLayer, directory: Path, segment: Segment) -> int:
    """Where the segment before ends, as the first frame of this one says. Raises `CorruptionError`."""
    window = Window(files, segment.fd, files.size(segment.fd))
    try:
        header, table = read_table(window, segment.place, FRAMES_AT)
        return decode_snapshot(Change(header, table).snapshot)[1]
    except (BadFrameError, MalformedError) as error:
        raise CorruptionError(str(error), file=directory / segment.name, offset=FRAMES_AT) from error


def note(index: FrameIndex, found: Frame) -> None:
    """Put what a frame does to entries into the index."""
    change = found.change
    if change is None:
        return
    if change.truncate_from is not None:
        index.cut(change.truncate_from)
    if change.entries is not None:
        index.add(change.entries.first, found.header.offset, found.header.size)


def is_sealed(segment: Segment) -> bool:
    return segment.pointer is not None and bool(segment.pointer.flags & SEALED)
