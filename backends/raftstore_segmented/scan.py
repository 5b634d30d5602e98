"""Reading frames one after the other, and telling a torn end from damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from raftstore_segmented import frame
from raftstore_segmented.files import ZEROS, FileLayer, read_all
from raftstore_segmented.frame import FRAME_HEADER_BYTES, FrameHeader, Place, decode_header, pattern
from raftstore_segmented.header import MalformedError
from raftstore_segmented.index import decode_index
from raftstore_segmented.table import Change

WINDOW_BYTES: Final = 1 << 20
LARGE_BYTES: Final = 64 << 10
"""Payloads of this size need not be read to find the end of the log."""


class Window:
    """A file that is read forward, in pieces of a MiB or as long as is asked for."""

    def __init__(self, files: FileLayer, fd: int, size: int) -> None:
        self._files = files
        self._fd = fd
        self.size = size
        self.bytes_read = 0
        self._at = 0
        self._data: bytes = b""

    def at(self, offset: int, length: int) -> tuple[bytes, int]:
        """A buffer, and where in it the `length` bytes from `offset` on are; less where the file ends."""
        if not self._at <= offset <= offset + length <= self._at + len(self._data):
            self._fill(offset, max(length, WINDOW_BYTES))
        return self._data, offset - self._at

    def piece(self, offset: int, length: int) -> bytes:
        """The bytes themselves, read past the window unless they are in it."""
        position = offset - self._at
        if position >= 0 and position + length <= len(self._data):
            return self._data[position : position + length]
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        self.bytes_read += length
        return read_all(self._files, self._fd, length, offset)

    def _fill(self, offset: int, length: int) -> None:
        known = self._data[offset - self._at :] if 0 <= offset - self._at < len(self._data) else b""
        begin = offset + len(known)
        more = read_all(self._files, self._fd, max(min(offset + length, self.size) - begin, 0), begin)
        self.bytes_read += len(more)
        self._at, self._data = offset, known + more


class BadFrameError(Exception):
    """There is no valid frame here; `header` is there if only what follows it is bad."""

    def __init__(self, reason: str, header: FrameHeader | None = None, change: Change | None = None) -> None:
        super().__init__(reason)
        self.header = header
        self.change = change


class Frame(msgspec.Struct, frozen=True):
    """A frame of which every byte was checked; `change` is what a data frame does."""

    header: FrameHeader
    change: Change | None = None


def read_frame(window: Window, place: Place, offset: int) -> Frame:
    """The frame at `offset`, every byte of it checked. Raises `BadFrameError`."""
    data, position = window.at(offset, FRAME_HEADER_BYTES)
    header = decode_header(place, data, position, offset)
    if header is None:
        raise BadFrameError("no frame header")
    if header.offset + header.size > window.size:
        raise BadFrameError("the frame is longer than the file", header)
    data, position = window.at(offset, header.size)
    try:
        return _check_body(place, header, data, position + FRAME_HEADER_BYTES)
    except MalformedError as error:
        raise BadFrameError(str(error), header) from error


def read_table(window: Window, place: Place, offset: int) -> tuple[FrameHeader, bytes]:
    """Header and table of the frame at `offset`, its payload left alone. Raises `BadFrameError`."""
    header = decode_header(place, window.piece(offset, FRAME_HEADER_BYTES), 0, offset)
    if header is None:
        raise BadFrameError("no frame header")
    if header.offset + header.size > window.size:
        raise BadFrameError("the frame is longer than the file", header)
    table = window.piece(offset + FRAME_HEADER_BYTES, header.table_bytes)
    if place.checksum(table) != header.table_checksum:
        raise BadFrameError("checksum of the frame's table does not match", header)
    return header, table


def read_durable_frame(window: Window, place: Place, offset: int) -> Frame | None:
    """The frame at `offset` without a look at its payload, if that is large and another frame follows.

    Then it was durable before that was written, and its payload is checked when it is read, as those of older
    segments are. None for any other frame.
    """
    data, position = window.at(offset, FRAME_HEADER_BYTES)
    header = decode_header(place, data, position, offset)
    if header is None or header.payload_bytes < LARGE_BYTES:
        return None
    if header.kind != frame.DATA or header.flags & ~frame.FLAGS_KNOWN:
        return None
    after = offset + header.size
    if decode_header(place, window.piece(after, FRAME_HEADER_BYTES), 0, after) is None:
        return None
    try:
        return Frame(header, Change(*read_table(window, place, offset)))
    except (BadFrameError, MalformedError):
        return None


def frames(window: Window, place: Place, start: int, stop: int) -> Iterator[Frame]:
    """The frames of [start, stop). Raises `BadFrameError` at the first place where there is none."""
    while start < stop:
        found = read_frame(window, place, start)
        yield found
        start += found.header.size


def _check_body(place: Place, header: FrameHeader, data: bytes, at: int) -> Frame:
    table = data[at : at + header.table_bytes]
    if place.checksum(table) != header.table_checksum:
        raise BadFrameError("checksum of the frame's table does not match", header)
    payload_at = at + header.table_bytes
    if header.kind == frame.INDEX:
        decode_index(table, data[payload_at : payload_at + header.payload_bytes], place.checksum)
        return Frame(header)
    if header.kind == frame.MARK:
        return Frame(header)
    if header.kind != frame.DATA or header.flags & ~frame.FLAGS_KNOWN:
        raise BadFrameError("the frame is of an unknown kind", header)
    change = Change(header, table)
    if change.entries is not None:
        with memoryview(data)[payload_at : payload_at + header.payload_bytes] as payload:
            bad = change.entries.bad_block(payload, 0, place.checksum)
        if bad is not None:
            raise BadFrameError(f"checksum of payload block {bad} does not match", header, change)
    return Frame(header, change)


class Rest(msgspec.Struct, frozen=True):
    """What follows the last valid frame of a segment."""

    stop: int
    """Above the last byte that is not zero; the place itself if all are."""
    frame_at: int | None
    """A later place where a frame of this segment begins: then what lies before it was complete once."""


def look_beyond(window: Window, place: Place, offset: int) -> Rest:
    """Look at everything from `offset`, where there is no valid frame, to the end of the file.

    A damaged length hides nothing: frame headers are looked for at every position. No payload can pretend to
    be one, its writer does not know the segment's tag.
    """
    stop, at = offset, offset
    while at < window.size:
        data, position = window.at(at, min(WINDOW_BYTES, window.size - at))
        piece = data[position : position + WINDOW_BYTES]
        if piece != ZEROS[: len(piece)]:
            stop = at + len(piece.rstrip(b"\0"))
            found = _find_header(window, place, max(at, offset + 8), at + len(piece))
            if found is not None:
                return Rest(stop, found)
        at += len(piece)
    return Rest(stop, None)


def _find_header(window: Window, place: Place, start: int, stop: int) -> int | None:
    """The first frame header that begins in [start, stop)."""
    data, position = window.at(start, min(stop + FRAME_HEADER_BYTES, window.size) - start)
    base, wanted = start - position, pattern(place)
    at = data.find(wanted, position, stop - base + len(wanted))
    while at >= 0:
        offset = base + at
        if offset % 8 == 0 and decode_header(place, data, at, offset) is not None:
            return offset
        at = data.find(wanted, at + 1, stop - base + len(wanted))
    return None
