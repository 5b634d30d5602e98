"""Looks at a store after a crash: what is there, and whether the log can go on from it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from raftstore.entry import Entry, HardState
from raftstore.errors import RaftStoreError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig
from raftstore.testing.crash.crowd import crowd_of
from raftstore.testing.crash.oracle import Observation
from raftstore.testing.crash.workload import META_KEYS, digest
from raftstore.testing.log_model import LogState
from raftstore.testing.tools import visible_state


def observe(config: StoreConfig, *, crowd: bool = False) -> Observation:
    """Open the store, read all of it, append, close, open again: what was found, and what went wrong.

    `crowd`: it is of the workload of a crowd.

    Raises nothing that a store may raise. It leaves the store changed and closed.
    """
    try:
        log = open_log(config)
    except (RaftStoreError, OSError) as error:
        return Observation(refused=f"{type(error).__name__}: {error}")
    found = Observation(summary="unreadable")
    try:
        with log:
            found, state = _read(log)
            if crowd:
                found = msgspec.structs.replace(found, crowd=crowd_of(state))
            wanted = _go_on(log, state)
            trouble = _check_killed(config, wanted) if _picked(found, log.recovery.bytes_dropped) else None
        trouble = trouble or _check_again(config, wanted)
    except (RaftStoreError, OSError, AssertionError) as error:
        trouble = f"after opening: {type(error).__name__}: {error}"
    return msgspec.structs.replace(found, trouble=trouble) if trouble else found


def _read(log: RaftLog) -> tuple[Observation, LogState]:
    state = visible_state(log, META_KEYS)
    assert [e.index for e in log.scan()] == [e.index for e in state.entries], "scan and entries differ"
    assert log.next_index == log.last_index + 1 == log.durable_index + 1, "the bounds do not agree"
    found = Observation(
        digest=digest(state),
        commit=log.commit_index,
        missing=log.recovery.acknowledged_missing,
        summary=_summary(state, log.commit_index),
    )
    return found, state


def _summary(state: LogState, commit: int) -> str:
    return (
        f"{state.anchor.index}+{len(state.entries)} (last {state.last.term}:{state.last.index}, term "
        f"{state.term}, vote {state.voted_for}, commit {commit}, meta {[key for key, _ in state.meta]})"
    )


def _go_on(log: RaftLog, before: LogState) -> LogState:
    """Append and vote, as a node does after a crash; returns what must be there afterwards."""
    term = max(log.last.term, log.hard_state.term) + 1
    payloads = [b"probe", b"after the crash" * 60, os.urandom(40)]
    entries = [Entry(term, log.next_index + n, data) for n, data in enumerate(payloads)]
    log.save(entries[:2])
    log.append(entries[2:])
    log.save_hard_state(HardState(term, "probe", entries[-1].index))
    return LogState(before.anchor, (*before.entries, *entries), term, "probe", before.meta)


def _check_again(config: StoreConfig, wanted: LogState) -> str | None:
    with open_log(config) as log:
        found = visible_state(log, META_KEYS)
        commit, missing = log.commit_index, log.recovery.acknowledged_missing
    if found != wanted:
        return f"appended after the crash and opened again: {_summary(found, commit)}"
    if commit != wanted.last.index:
        return f"the commit index {wanted.last.index} was {commit} after closing"
    return None if missing == "no" else f"after a clean close something may be missing: {missing}"


def _picked(found: Observation, dropped: int) -> bool:
    """One in 16, of those with a torn end one in four: looking at what a kill leaves takes long."""
    return found.digest[0] % (4 if dropped else 16) == 0


def _check_killed(config: StoreConfig, wanted: LogState) -> str | None:
    """What would be found if the process that has the store open were killed now."""
    copy = config.path.with_name(f"{config.path.name}.killed")
    try:
        if not _copied(config.path, copy):
            return None
        with open_log(msgspec.structs.replace(config, path=copy)) as log:
            found = visible_state(log, META_KEYS)
            return None if found == wanted else f"appended and killed: {_summary(found, log.commit_index)}"
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copied(store: Path, copy: Path) -> bool:
    """Copy a store as it is at one instant; False if its upkeep goes on too long for that."""
    for _ in range(20):
        before = _snapshot(store)
        with suppress(OSError):
            shutil.copytree(store, copy)
            if before is not None and _snapshot(store) == before:
                return True
        shutil.rmtree(copy, ignore_errors=True)
        time.sleep(0.002)
    return False


def _snapshot(store: Path) -> list[tuple[str, int, int]] | None:
    """The files, their lengths and times of change; None if they change right now."""
    try:
        known = [(str(file), file.stat()) for file in sorted(store.rglob("*"))]
    except OSError:
        return None
    return [(name, status.st_size, status.st_mtime_ns) for name, status in known]
