"""Hard state and metadata: their rules, and their bytes on disk.

Both are stored as MessagePack behind a version number, so that a reader can refuse what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from raftstore.entry import INDEX_MAX, HardState
from raftstore.errors import CorruptionError, EntryTooLargeError, TermError, VoteError

META_BYTES_MAX: Final = 64 * 1024
VERSION: Final = 1


class _StoredHardState(msgspec.Struct, frozen=True, array_like=True):
    version: int
    term: int
    voted_for: str | None
    commit: int


class _StoredMeta(msgspec.Struct, frozen=True, array_like=True):
    version: int
    values: dict[str, bytes]


def check_successor(old: HardState, new: HardState) -> None:
    """Raise `TermError` or `VoteError` unless `new` may follow `old` (Raft §5.2: one vote a term)."""
    if not 0 <= new.term <= INDEX_MAX:
        raise TermError(f"term {new.term} is not within 0..{INDEX_MAX}")
    if new.term < old.term:
        raise TermError(f"term {new.term} is below the current term {old.term}")
    if new.term == old.term and old.voted_for is not None and new.voted_for != old.voted_for:
        raise VoteError(f"this node voted for {old.voted_for!r} in term {old.term}, not {new.voted_for!r}")
    if new.voted_for is not None and not isinstance(new.voted_for, str):
        raise TypeError(f"voted_for is a str or None, not {type(new.voted_for).__name__}")


def encode_hard_state(state: HardState) -> bytes:
    return msgspec.msgpack.encode(_StoredHardState(VERSION, state.term, state.voted_for, state.commit))


def decode_hard_state(data: bytes | None) -> HardState:
    """The hard state in `data`, the initial one for None. Raises `CorruptionError`."""
    if data is None:
        return HardState()
    try:
        stored = msgspec.msgpack.decode(data, type=_StoredHardState)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the hard state cannot be decoded: {error}") from error
    if stored.version != VERSION:
        raise CorruptionError(f"the hard state has version {stored.version}, known is {VERSION}")
    if not (0 <= stored.term <= INDEX_MAX and 0 <= stored.commit <= INDEX_MAX):
        raise CorruptionError(f"the hard state is out of range: {stored}")
    return HardState(stored.term, stored.voted_for, stored.commit)


def encode_meta(values: Mapping[str, bytes]) -> bytes:
    """Raises `EntryTooLargeError` above `META_BYTES_MAX` bytes in all."""
    data = msgspec.msgpack.encode(_StoredMeta(VERSION, dict(values)))
    if len(data) > META_BYTES_MAX:
        raise EntryTooLargeError(f"metadata of {len(data)} bytes in all; {META_BYTES_MAX} are allowed")
    return data


def decode_meta(data: bytes | None) -> dict[str, bytes]:
    """The metadata in `data`, none for None. Raises `CorruptionError`."""
    if data is None:
        return {}
    try:
        stored = msgspec.msgpack.decode(data, type=_StoredMeta)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the metadata cannot be decoded: {error}") from error
    if stored.version != VERSION:
        raise CorruptionError(f"the metadata has version {stored.version}, known is {VERSION}")
    return stored.values
