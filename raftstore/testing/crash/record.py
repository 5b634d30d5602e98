"""Builds the shim that records a process's I/O, and reads its records."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

SOURCE: Final = Path(__file__).with_name("shim.c")
_HEAD: Final = Struct("<BBHHHiIQQQ")
CREATED, EMPTIED, DIRECTORY, SYNCED, DATA_ONLY = 1, 2, 4, 8, 16
"""Flags of a record: the first three of OPEN; a write that is durable when it returns; fdatasync."""


class Op(IntEnum):
    """What a call changes."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    SYNC = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    LINK = 10
    EVENT = 11
    UNSUPPORTED = 12


class Record(msgspec.Struct, frozen=True):
    """One call, or one event that the process told. Paths are below the recorded directory."""

    op: Op
    flags: int
    error: int
    """0, or the errno of the call: then it had no effect."""
    inode: int
    offset: int
    length: int
    path: str
    new_path: str
    data: bytes


class CannotRecordError(Exception):
    """This machine has nothing to record with; the message says what is missing."""


def build_shim(directory: Path) -> Path:
    """Compile the shim into `directory`. Raises `CannotRecordError`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotRecordError("there is no C compiler (cc, gcc, clang)")
    library = directory / "shim.so"
    if set(str(library)) & set(" :"):  # they separate the names in LD_PRELOAD
        raise CannotRecordError(f"from {directory} nothing can be preloaded: set TMPDIR without ' ' and ':'")
    command = [compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run([*command, "-lpthread"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRecordError(f"{compiler} cannot build the shim: {done.stderr[-500:]}")
    return library


def read_trace(path: Path) -> Iterator[Record]:
    """The records in the file, in the order in which the calls happened."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        op, flags, path1, path2, _, error, size, inode, offset, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name, at = data[at : at + path1].decode(), at + path1
        new_name, at = data[at : at + path2].decode(), at + path2
        payload, at = data[at : at + size], at + size
        record = Record(Op(op), flags, error, inode, offset, length, name, new_name, payload)
        if record.op is Op.UNSUPPORTED:
            raise CannotRecordError(f"{name} on a recorded file is not understood")
        yield record
