"""A segment file: its name, and its open descriptor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from raftstore.errors import CorruptionError, FormatError
from raftstore_segmented.checksums import checksum
from raftstore_segmented.files import FileLayer, NotRegularError, read_all, write_all
from raftstore_segmented.frame import Place
from raftstore_segmented.header import (
    FRAMES_AT,
    POINTER_AT,
    MalformedError,
    Pointer,
    SegmentHeader,
    decode_header,
    decode_pointer,
    encode_pointer,
)
from raftstore_segmented.index import FrameIndex

_NAME: Final = re.compile(r"(\d{16})\.seg")


def segment_name(segment_id: int) -> str:
    return f"{segment_id:016d}.seg"


def segment_id_of(name: str) -> int | None:
    """The id in a final name; None for any other file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class Segment:
    """One segment, open. Which part of it is known, and where; no I/O but in the methods that say so.

    Frames up to `base_end` are described by the index frame at `base_end` (if there is one; else `base_end`
    is where the first frame stands), which is loaded on demand into `base`; what was written or scanned
    after it is in `tail`.
    """

    __slots__ = (
        "base",
        "base_end",
        "dropped",
        "end",
        "fd",
        "header",
        "place",
        "pointer",
        "readers",
        "size",
        "tail",
    )

    def __init__(self, fd: int, size: int, header: SegmentHeader, pointer: Pointer | None) -> None:
        self.fd = fd
        self.size = size
        self.header = header
        self.pointer = pointer
        self.place = Place(header.id, header.tag, checksum(header.algorithm))
        self.base: FrameIndex | None = None
        self.base_end = FRAMES_AT
        self.tail = FrameIndex()
        self.end = FRAMES_AT
        self.readers = 0
        """How many hold the segment: its descriptor stays open, its file is not used again."""
        self.dropped = False
        """The catalog does not know it any more: whoever holds it last closes it."""

    @property
    def id(self) -> int:
        return self.header.id

    @property
    def name(self) -> str:
        return segment_name(self.header.id)


def open_segment(files: FileLayer, directory: Path, segment_id: int, *, writable: bool) -> Segment:
    """Open and check header and pointer. Raises `CorruptionError` for anything that is not that segment."""
    name = segment_name(segment_id)
    try:
        fd = files.open(name, writable=writable)
    except FileNotFoundError as error:
        raise CorruptionError("a segment of the log is missing", file=directory / name) from error
    except NotRegularError as error:
        raise CorruptionError("a segment of the log is no regular file", file=directory / name) from error
    try:
        return _read_header(files, fd, segment_id)
    except MalformedError as error:
        files.close(fd)
        raise CorruptionError(str(error), file=directory / name, offset=0) from error
    except FormatError as error:
        files.close(fd)
        raise FormatError(f"{directory / name}: {error}") from error
    except BaseException:
        files.close(fd)
        raise


def _read_header(files: FileLayer, fd: int, segment_id: int) -> Segment:
    data = read_all(files, fd, FRAMES_AT, 0)
    header, size = decode_header(data), files.size(fd)
    if header.id != segment_id:
        raise MalformedError(f"the header says segment {header.id}")
    if size < header.size:
        raise MalformedError(f"the file has {size} of its {header.size} bytes")
    return Segment(fd, size, header, decode_pointer(header, data))


def write_pointer(files: FileLayer, segment: Segment, pointer: Pointer) -> None:
    """Say durably where the index stands; all frames up to it were synced before."""
    write_all(files, segment.fd, encode_pointer(segment.header, pointer), POINTER_AT)
    files.fdatasync(segment.fd)
    segment.pointer = pointer
