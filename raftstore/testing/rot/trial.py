"""What one damaged store says: verified, opened and read. Runs in a process that may die of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from raftstore.entry import Entry, LogId
from raftstore.errors import RaftStoreError
from raftstore.examine import examine_store
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst
from raftstore.testing.crash.workload import META_KEYS

Way = Literal["lazy", "preload", "MemFirst"]
"""How the store is opened: `MemFirst` and `preload` read everything at once."""

NEW_ENTRIES: Final = 8
WAYS: Final[tuple[Way, ...]] = ("lazy", "preload", "MemFirst")


class Told(msgspec.Struct, frozen=True):
    """An error, as far as a caller can tell."""

    kind: str
    typed: bool
    """It is a `RaftStoreError`."""
    words: str
    file: str | None = None
    offset: int | None = None
    first_index: int | None = None


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What a log that opened says of itself."""

    anchor: LogId
    last: LogId
    term: int
    voted_for: str | None
    commit: int
    meta: tuple[tuple[str, bytes], ...]
    missing: str
    entries: list[Entry]
    """Those that could be read, ascending."""
    unread: list[Told]
    """Why others could not."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen. `damage` and `blind` are of verifying, which comes first and is not always done."""

    verified: bool = False
    damage: list[str] = []
    blind: Told | None = None
    """Why verifying ended without a result."""
    refused: Told | None = None
    """Why opening failed."""
    opened: Opened | None = None


def told(error: BaseException) -> Told:
    where = {name: getattr(error, name, None) for name in ("file", "offset", "first_index")}
    file = str(where["file"]) if where["file"] is not None else None
    typed = isinstance(error, RaftStoreError)
    return Told(type(error).__name__, typed, str(error)[:600], file, where["offset"], where["first_index"])


def look(config: StoreConfig, way: Way, *, verify: bool) -> Answer:
    """Verify the store, if wanted, then open it and read everything."""
    answer = _verify(config.path) if verify else Answer()
    try:
        log = open_log(_opening(config, way))
    except Exception as error:  # noqa: BLE001  (judged by whoever asked)
        return msgspec.structs.replace(answer, refused=told(error))
    opened = _read(log)
    log.close()
    return msgspec.structs.replace(answer, opened=opened)


class GoneOn(msgspec.Struct, frozen=True):
    """What a store that seemed whole says after a few more writes."""

    wrong: list[int] = []
    """Indexes of entries that are not what was written, and of those that are missing without an error."""
    raised: Told | None = None


def go_on(config: StoreConfig, before: Sequence[Entry]) -> GoneOn:
    """Append to the store, which holds `before`, close it, open it again, and read everything."""
    entries: list[Entry] = []
    unread: list[Told] = []
    last, wanted = 0, {entry.index: entry for entry in before}
    try:
        with open_log(config) as log:
            new = [
                Entry(log.last.term + 1, log.next_index + n, bytes([n]) * 3000) for n in range(NEW_ENTRIES)
            ]
            for entry in new:
                log.append([entry])
            log.put_meta("a", b"z" * 900)
            wanted |= {entry.index: entry for entry in new}
        with open_log(config) as log:
            last = log.last_index
            _read_one_by_one(log, entries, unread)
    except Exception as error:  # noqa: BLE001
        return GoneOn(raised=told(error))
    wrong = [entry.index for entry in entries if wanted.get(entry.index) != entry]
    missing = [] if len(entries) + len(unread) == len(wanted) else [last + 1]
    return GoneOn(wrong + missing, unread[0] if unread else None)


def _opening(config: StoreConfig, way: Way) -> StoreConfig:
    if way == "MemFirst":
        return msgspec.structs.replace(config, strategy=MemFirst())
    return msgspec.structs.replace(config, startup=way)


def _verify(path: Path) -> Answer:
    try:
        found = examine_store(path, deep=True)
    except Exception as error:  # noqa: BLE001
        return Answer(verified=True, blind=told(error))
    return Answer(verified=True, damage=[damage.message[:300] for damage in found.damage[:5]])


def _read(log: RaftLog) -> Opened:
    entries: list[Entry] = []
    unread: list[Told] = []
    try:
        entries = log.entries(log.first_index)
    except Exception as error:  # noqa: BLE001
        unread.append(told(error))
        _read_one_by_one(log, entries, unread)
    state = log.hard_state
    values = ((key, log.get_meta(key)) for key in META_KEYS)
    return Opened(
        anchor=log.anchor,
        last=log.last,
        term=state.term,
        voted_for=state.voted_for,
        commit=log.commit_index,
        meta=tuple((key, value) for key, value in values if value is not None),
        missing=log.recovery.acknowledged_missing,
        entries=entries,
        unread=unread,
    )


def _read_one_by_one(log: RaftLog, entries: list[Entry], unread: list[Told]) -> None:
    for index in range(log.first_index, log.next_index):
        try:
            entry = log.entry(index)
        except Exception as error:  # noqa: BLE001
            unread.append(told(error))
        else:
            if entry is not None:
                entries.append(entry)
