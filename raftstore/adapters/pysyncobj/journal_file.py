"""PySyncObj's own journal files, read only: the entries, and what the file `.meta` beside them says.

The entries file: 24 bytes name, 8 bytes version, the format's number, the offset where the entries end; then
for each entry its size, index, term and command, and its size again. There are no checksums: what can be
checked is that sizes, indexes and terms fit together. PySyncObj pickles the `.meta`; it is decoded with an
unpickler that knows no classes and no functions, so that nothing in it can be called.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from raftstore.adapters.pysyncobj import plain_pickle
from raftstore.adapters.pysyncobj.node_ids import encode_id
from raftstore.entry import INDEX_MAX, Entry, HardState
from raftstore.errors import CorruptionError, FormatError

META_BYTES_MAX: Final = 1 << 20

_NAME: Final = b"PYSYNCOBJ".ljust(24, b"\0")
_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<24s8sII")
_SIZE: Final = struct.Struct("<I")
_ID: Final = struct.Struct("<QQ")


def meta_path(path: Path) -> Path:
    """The file that PySyncObj keeps beside the journal `path`."""
    return Path(f"{path}.meta")


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of the journal `path`, ascending, no holes, in bounded memory. Changes nothing.

    Raises `FormatError` if it is no journal, or one of an unknown format, `CorruptionError` with offset and
    index at the first entry that cannot be right, `OSError`.
    """
    with path.open("rb") as file:
        offset, end = _HEADER.size, _end_of_entries(file, path)
        last: Entry | None = None
        while offset < end:
            try:
                last, size = _read_entry(file, end - offset, last)
            except _DamagedError as damage:
                raise _damaged(path, offset, last, str(damage)) from None
            yield last
            offset += size


def read_hard_state(path: Path, last_term: int) -> HardState:
    """Term, vote and commit index of the journal `path`, as PySyncObj starts with them.

    That is no term below `last_term`, the last entry's: versions before 0.3.16 stored neither term nor vote.
    Raises `CorruptionError` if there is no `.meta`, or if it cannot be decoded.
    """
    file = meta_path(path)
    try:
        meta = _plain(file)
        voted_for = meta.get("votedForNodeId")
        return HardState(
            max(_number(meta, "currentTerm"), last_term),
            None if voted_for is None else encode_id(voted_for),
            _number(meta, "raftCommitIndex"),
        )
    except FileNotFoundError:
        raise CorruptionError(
            "the journal's .meta is missing: without its term and vote the node could vote twice", file=file
        ) from None
    except (_DamagedError, TypeError) as error:
        raise CorruptionError(f"the journal's term and vote cannot be read: {error}", file=file) from None


class _DamagedError(Exception):
    """What does not fit, as words."""


def _end_of_entries(file: IO[bytes], path: Path) -> int:
    header, size = file.read(_HEADER.size), path.stat().st_size
    if len(header) < _HEADER.size or not header.startswith(_NAME):
        raise FormatError(f"{path} is no journal of PySyncObj")
    number, end = _HEADER.unpack(header)[2:]
    if number != _FORMAT:
        raise FormatError(f"{path} has journal format {number}; known is {_FORMAT}")
    if not _HEADER.size <= end <= size:
        raise CorruptionError(
            f"the header says that entries end at offset {end}, but the file ends at {size}", file=path
        )
    return int(end)


def _read_entry(file: IO[bytes], room: int, last: Entry | None) -> tuple[Entry, int]:
    """The entry that begins here, and the bytes that it takes of `room`."""
    (size,) = _SIZE.unpack(file.read(_SIZE.size).ljust(_SIZE.size, b"\0"))
    if size < _ID.size or size + 2 * _SIZE.size > room:
        raise _DamagedError(f"its size, {size} bytes, cannot be right")
    data = file.read(size + _SIZE.size)
    if data[size:] != _SIZE.pack(size):
        raise _DamagedError("the sizes before and after it differ")
    index, term = _ID.unpack_from(data)
    _check_follows(index, term, last)
    return Entry(term, index, data[_ID.size : size]), size + 2 * _SIZE.size


def _check_follows(index: int, term: int, last: Entry | None) -> None:
    if not (1 <= index <= INDEX_MAX and term <= INDEX_MAX):
        raise _DamagedError(f"it has index {index} and term {term}")
    if last is not None and index != last.index + 1:
        raise _DamagedError(f"index {index} stands there")
    if last is not None and term < last.term:
        raise _DamagedError(
            f"its term is {term}, after {last.term}; clusters that ran PySyncObj before 0.3.16 can have such "
            "journals: let the node write a dump (forceLogCompaction), stop it, and try again"
        )


def _damaged(path: Path, offset: int, last: Entry | None, reason: str) -> CorruptionError:
    index = None if last is None else last.index + 1
    name = "the first entry" if index is None else f"entry {index}"
    message = f"{name} and all after it are missing: {reason}"
    return CorruptionError(message, file=path, offset=offset, first_index=index)


def _plain(file: Path) -> dict[Any, Any]:
    with file.open("rb") as opened:
        data = opened.read(META_BYTES_MAX + 1)
    if len(data) > META_BYTES_MAX:
        raise _DamagedError(f"more than {META_BYTES_MAX} bytes")
    try:
        meta = plain_pickle.loads(data)
    except Exception as error:  # damaged bytes raise anything
        raise _DamagedError(f"{type(error).__name__}: {error}") from error
    if not isinstance(meta, dict):
        raise _DamagedError(f"it holds a {type(meta).__name__}")
    return meta  # pyright: ignore[reportUnknownVariableType]


def _number(meta: dict[Any, Any], key: str) -> int:
    value = meta.get(key, 0)
    if type(value) is not int or not 0 <= value <= INDEX_MAX:
        raise _DamagedError(f"{key} is {value!r}")
    return value
