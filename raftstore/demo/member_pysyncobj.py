"""A member on PySyncObj: a key-value store that remembers the order of its lines."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

from raftstore.adapters.pysyncobj import install, library
from raftstore.adapters.pysyncobj.wiring import journal_of
from raftstore.demo import planted_journals
from raftstore.demo.member import Say, line_of, run_for_ever
from raftstore.demo.messages import MARKER, Answer, Line, NodeSpec, Opened, Operation, Outcome, Status

_pysyncobj: Any = library.load()
_SyncObj: Any = _pysyncobj.SyncObj
_replicated: Any = _pysyncobj.replicated
_REASON: Any = _pysyncobj.FAIL_REASON

TICK_S: Final = 0.01
NEVER: Final = 10**12
"""Entries: more than a journal ever has."""
DID_NOT_HAPPEN: Final = frozenset(
    {
        _REASON.QUEUE_FULL,
        _REASON.MISSING_LEADER,
        _REASON.NOT_LEADER,
        _REASON.DISCARDED,
        _REASON.REQUEST_DENIED,
    }
)
"""The command reached no log, or another one took its place there. Any other failure leaves it open."""


class Store(_SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """The replicated state machine. What is set after `super().__init__` is in its dumps; it ticks later."""

    def __init__(self, spec: NodeSpec) -> None:
        super().__init__(spec.address, spec.others, make_conf(spec))  # pyright: ignore[reportUnknownMemberType]
        self.values: dict[str, str] = {}
        self.applied: list[Line] = []

    @_replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: str) -> None:
        self.values[key] = value
        line = line_of(key, value)
        if line is not None:
            self.applied.append(line)

    @_replicated  # type: ignore[untyped-decorator]
    def read(self, key: str) -> str | None:
        """Through the log, so that it is never stale."""
        return self.values.get(key)

    @_replicated  # type: ignore[untyped-decorator]
    def replace(self, key: str, expected: str | None, value: str) -> bool:
        if self.values.get(key) != expected:
            return False
        self.values[key] = value
        return True


class PysyncobjMember:
    """See `Member`."""

    def __init__(self, spec: NodeSpec, say: Say) -> None:
        prepare(spec)
        self._say = say
        self._store = Store(spec)
        say_opened(self._store, say)
        run_for_ever(lambda: self._store.doTick(TICK_S))

    def perform(self, operation: Operation) -> None:
        callback = functools.partial(self._answer, operation)
        match operation.kind:
            case "put":
                self._store.put(operation.key, operation.value, callback=callback)
            case "get":
                self._store.read(operation.key, callback=callback)
            case "cas":
                self._store.replace(operation.key, operation.expected, operation.value, callback=callback)

    def status(self) -> Status:
        return status_of(self._store, int(self._store.values.get(MARKER, 0)))

    def lines(self) -> list[Line]:
        return list(self._store.applied)

    def _answer(self, operation: Operation, result: Any, reason: object) -> None:
        outcome = outcome_of(reason)
        if operation.kind == "get" and outcome == "ok":
            self._say(Answer(operation.id, outcome, result))
        else:
            self._say(Answer(operation.id, outcome, is_set=result is not False))


make = PysyncobjMember


def make_conf(spec: NodeSpec) -> Any:
    """PySyncObj's settings. Without `compact_every`, the journal alone must bring everything back."""
    home = Path(spec.home)
    return _pysyncobj.SyncObjConf(
        journalFile=str(home / "journal"),
        fullDumpFile=str(home / "dump") if spec.compact_every else None,
        connectionRetryTime=0.2,
        appendEntriesPeriod=0.02,
        autoTick=False,
        logCompactionMinEntries=spec.compact_every or NEVER,
        logCompactionMinTime=NEVER,
    )


def prepare(spec: NodeSpec) -> None:
    """Before the first node: every journal of this process is in the spec's store, if it is to be."""
    if spec.journal == "raftstore":
        if spec.plant is not None:
            planted_journals.plant(spec.plant)
        install(spec.store)


def say_opened(node: Any, say: Say) -> None:
    journal = journal_of(node)
    if journal is not None:
        found = journal.log.recovery
        say(Opened(found.entries, found.seconds))


def outcome_of(reason: object) -> Outcome:
    if reason == _REASON.SUCCESS:
        return "ok"
    return "failed" if reason in DID_NOT_HAPPEN else "unknown"


def status_of(node: Any, marker: int) -> Status:
    journal = journal_of(node)
    numbers = None if journal is None else journal.log.status()
    return Status(
        term=node.raftCurrentTerm,
        is_leader=node._isLeader(),
        is_ready=node.isReady(),
        marker=marker,
        fsyncs=numbers.flushes if numbers else 0,
        entries_synced=numbers.flushed_entries if numbers else 0,
    )
