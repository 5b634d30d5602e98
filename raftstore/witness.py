"""WITNESS: the number of a write that is known to be durable, kept apart from the engine.

An engine that loses its newest records without noticing is found out by it. The file has two slots of
4096 bytes, written in turn, so that a torn write leaves the other one; its length never changes.

| bytes | of a slot, little-endian |
|---|---|
| 0..8 | magic `RSWITNS1` |
| 8..16 | sequence: the higher of two valid slots counts, and lies in slot `sequence % 2` |
| 16..24 | number of the write: it and everything before it is durable |
| 24..28 | flags: 1 clean, the log was closed after this write; 2 volatile, more may have been acknowledged |
| 28..32 | CRC-32 (zlib) of the 28 bytes before |
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from raftstore.backend import Recovery
from raftstore.durable import open_regular, replace_file, sync_file, write_all
from raftstore.entry import INDEX_MAX
from raftstore.errors import CorruptionError

logger = logging.getLogger(__name__)

SLOT_BYTES: Final = 4096
_MAGIC: Final = b"RSWITNS1"
_BODY: Final = struct.Struct("<8sQQI")
_CHECK: Final = struct.Struct("<I")
_CLEAN, _VOLATILE = 1, 2

Missing = Literal["no", "unknown", "yes"]


class Note(msgspec.Struct, frozen=True):
    """What one slot says."""

    sequence: int
    number: int
    clean: bool
    volatile: bool
    """The strategy lets acknowledged writes be in memory only."""


class Testimony(msgspec.Struct, frozen=True):
    """What the file says. `note` is None if no slot is readable."""

    note: Note | None
    is_whole: bool
    """Both slots are readable: no newer note can have been lost."""


def read_witness(path: Path) -> Testimony:
    """Read both slots. Raises `FileNotFoundError`, or `CorruptionError` for what is no regular file."""
    fd = open_regular(path, os.O_RDONLY)
    try:
        data = os.pread(fd, 2 * SLOT_BYTES, 0)
    finally:
        os.close(fd)
    notes = [note for slot in (0, 1) if (note := _decode(data[slot * SLOT_BYTES :], slot)) is not None]
    newest = max(notes, key=lambda note: note.sequence, default=None)
    return Testimony(newest, len(notes) == 2)


def create_witness(path: Path, number: int) -> Note:
    """Make, or make again, a file that says: clean at `number`. Its name is not durable yet."""
    notes = [Note(sequence, number, clean=True, volatile=False) for sequence in (0, 1)]
    replace_file(path, b"".join(_encode(note).ljust(SLOT_BYTES, b"\0") for note in notes))
    return notes[1]


def judge(note: Note, recovery: Recovery, *, is_whole: bool, engine: Path) -> Missing:
    """Whether acknowledged writes are missing. `CorruptionError` if a durable one is known to be.

    The witness confirms the end if it names the last write and nothing was begun after it: the log was
    closed then, or no trace of a later write was found by a backend that would have seen one. `engine`, the
    backend's directory, is what the error names.
    """
    if recovery.number < note.number:
        message = f"the log ends at write {recovery.number}, but write {note.number} was durable"
        raise CorruptionError(f"{message}: rebuild the node from its peers, or restore a copy", file=engine)
    if note.volatile and not (note.clean and is_whole):
        return "unknown"
    if recovery.end_is_proved:
        return "no"
    no_trace = recovery.tail_is_visible and recovery.torn_bytes == 0
    nothing_after = is_whole and (note.clean or no_trace)
    return "no" if note.number == recovery.number and nothing_after else "unknown"


class Witness:
    """Writes the file of an open store. Not for several threads at a time."""

    def __init__(self, path: Path, note: Note, *, volatile: bool) -> None:
        """Go on from `note`, the newest in the file; `volatile` is of the strategy now in use."""
        self._fd = open_regular(path, os.O_RDWR)
        self._path = path
        self._note = note
        self._volatile = volatile
        self._failed = False

    def mark_open(self, number: int) -> None:
        """Durably say that `number` is there and that the log is in use. Raises OSError."""
        self._write(number, clean=False)

    def note(self, number: int, *, clean: bool) -> None:
        """Durably say that `number` is durable, unless the file says so already. Never raises OSError.

        A failing disk ends the notes until the store is opened again: what the file says stays true, and
        recovery can only be less sure.
        """
        if self._failed or self._fd < 0:
            return
        try:
            self._write(max(number, self._note.number), clean=clean)
        except OSError as error:
            self._failed = True
            logger.warning("%s: no more notes until the store is opened again: %s", self._path, error)

    def close(self) -> None:
        """Close the file. Twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, number: int, *, clean: bool) -> None:
        note = Note(self._note.sequence + 1, number, clean, self._volatile)
        if msgspec.structs.replace(note, sequence=self._note.sequence) == self._note:
            return
        write_all(self._fd, _encode(note), note.sequence % 2 * SLOT_BYTES)
        sync_file(self._fd)
        self._note = note


def _encode(note: Note) -> bytes:
    flags = (_CLEAN if note.clean else 0) | (_VOLATILE if note.volatile else 0)
    body = _BODY.pack(_MAGIC, note.sequence, note.number, flags)
    return body + _CHECK.pack(zlib.crc32(body))


def _decode(data: bytes, slot: int) -> Note | None:
    """The note in a slot, or None if its bytes are not what was written."""
    body, check = data[: _BODY.size], data[_BODY.size : _BODY.size + _CHECK.size]
    if len(check) < _CHECK.size or check != _CHECK.pack(zlib.crc32(body)):
        return None
    magic, sequence, number, flags = _BODY.unpack(body)
    if magic != _MAGIC or sequence % 2 != slot or max(sequence, number) > INDEX_MAX:
        return None
    return Note(sequence, number, bool(flags & _CLEAN), bool(flags & _VOLATILE))
