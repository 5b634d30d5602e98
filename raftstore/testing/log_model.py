"""What a `RaftLog` must do, written for one thread and no disk, so plainly that it is obviously right.

`LogModel` has the members of `RaftLog` that change or read the accepted state, under the same names, and
raises the same errors. The state machine of `raftstore.testing.LogSuite` makes every call on both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import dropwhile, takewhile
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from raftstore.entry import NO_ENTRY, Entry, HardState, LogId, Splice
from raftstore.errors import CommittedError, GapError, PurgedError, TermError, VoteError

P = ParamSpec("P")
R = TypeVar("R")


class LogState(msgspec.Struct, frozen=True):
    """Everything that a log stores, except the commit index, which may lag on disk."""

    anchor: LogId
    entries: tuple[Entry, ...]
    term: int
    voted_for: str | None
    meta: tuple[tuple[str, bytes], ...]

    @property
    def last(self) -> LogId:
        return self.entries[-1].id if self.entries else self.anchor


def atomic(change: Callable[Concatenate[LogModel, P], R]) -> Callable[Concatenate[LogModel, P], R]:
    """Make `change` on a copy first, so that an error leaves the model as it was."""

    @wraps(change)
    def all_or_nothing(model: LogModel, /, *args: P.args, **kwargs: P.kwargs) -> R:
        trial = copy.copy(model)
        trial.live = list(model.live)
        trial.meta = dict(model.meta)
        result = change(trial, *args, **kwargs)
        model.__dict__.update(trial.__dict__)
        return result

    return all_or_nothing


class LogModel:
    """A Raft log in memory: an anchor, a list of entries, a hard state and some metadata."""

    def __init__(self) -> None:
        self.anchor = NO_ENTRY
        self.live: list[Entry] = []
        self.hard_state = HardState()
        self.meta: dict[str, bytes] = {}

    # What it holds

    @property
    def first_index(self) -> int:
        return self.anchor.index + 1

    @property
    def last(self) -> LogId:
        return self.live[-1].id if self.live else self.anchor

    @property
    def last_index(self) -> int:
        return self.last.index

    @property
    def next_index(self) -> int:
        return self.last.index + 1

    @property
    def is_empty(self) -> bool:
        return not self.live

    @property
    def commit_index(self) -> int:
        return self.hard_state.commit

    def __len__(self) -> int:
        return len(self.live)

    def state(self) -> LogState:
        """What a crash now may leave, the commit index aside."""
        hard_state, meta = self.hard_state, tuple(sorted(self.meta.items()))
        return LogState(self.anchor, tuple(self.live), hard_state.term, hard_state.voted_for, meta)

    @classmethod
    def of(cls, state: LogState, commit: int) -> LogModel:
        """The model of a log that recovered `state` and the commit index `commit`."""
        model = cls()
        model.anchor, model.live, model.meta = state.anchor, list(state.entries), dict(state.meta)
        model.hard_state = HardState(state.term, state.voted_for, commit)
        return model

    # Reading

    def entry(self, index: int) -> Entry | None:
        if index <= self.anchor.index:
            raise PurgedError
        return next((e for e in self.live if e.index == index), None)

    def entries(self, start: int, stop: int | None = None, *, bytes_max: int | None = None) -> list[Entry]:
        if start <= self.anchor.index:
            raise PurgedError
        found = [e for e in self.live if start <= e.index and (stop is None or e.index < stop)]
        if bytes_max is None:
            return found
        room = sum(1 for n in range(1, len(found) + 1) if sum(len(e.data) for e in found[:n]) <= bytes_max)
        return found[: max(1, room)]

    def term(self, index: int) -> int | None:
        if index == self.anchor.index:
            return self.anchor.term
        entry = self.entry(index)
        return None if entry is None else entry.term

    def first_index_of_term(self, term: int) -> int | None:
        return min((e.index for e in self.live if e.term == term), default=None)

    def last_index_of_term(self, term: int) -> int | None:
        return max((e.index for e in self.live if e.term == term), default=None)

    def get_meta(self, key: str) -> bytes | None:
        return self.meta.get(key)

    def majority_index(
        self, match_indexes: Iterable[int], current_term: int, *, durable_index: int, voter: bool = True
    ) -> int | None:
        """As `RaftLog.majority_index` of a log in which everything accepted is visible."""
        votes: list[int] = [*match_indexes, *([durable_index] if voter else [])]
        held = [index for index in votes if 2 * sum(v >= index for v in votes) > len(votes)]
        agreed = max(held, default=0)
        if not self.commit_index < agreed <= self.last_index or self.term(agreed) != current_term:
            return None
        return agreed

    # Writing

    @atomic
    def append(self, entries: Sequence[Entry]) -> LogId:
        for entry in entries:
            if entry.index != self.next_index:
                raise GapError
            if entry.term < self.last.term:
                raise TermError
            self.live.append(entry)
        return self.last

    @atomic
    def propose(self, term: int, payloads: Sequence[bytes], kind: int = 0) -> range:
        if term < self.hard_state.term:
            raise TermError
        start = self.next_index
        self.append([Entry(term, start + n, data, kind) for n, data in enumerate(payloads)])
        return range(start, self.next_index)

    @atomic
    def splice(self, prev: LogId, entries: Sequence[Entry]) -> Splice:
        conflict = self._conflict(prev)
        if conflict is not None:
            return Splice(matched=False, conflict=conflict)
        above = [e for e in entries if e.index > self.anchor.index]
        new = list(dropwhile(self._holds, above))
        if new:
            self.truncate(new[0].index)
            self.append(new)
        return Splice(matched=True, match_index=max(prev.index + len(entries), self.anchor.index))

    def _conflict(self, prev: LogId) -> LogId | None:
        if prev.index < self.anchor.index:
            return None
        if prev.index > self.last_index:
            return LogId(0, self.next_index)
        term = self.term(prev.index)
        assert term is not None
        if term == prev.term:
            return None
        if prev.index == self.anchor.index:
            raise CommittedError
        first = self.first_index_of_term(term)
        assert first is not None
        return LogId(term, first)

    def _holds(self, entry: Entry) -> bool:
        return entry.index <= self.last_index and self.term(entry.index) == entry.term

    @atomic
    def truncate(self, start: int) -> None:
        if start > self.last_index:
            return
        if start <= self.anchor.index:
            raise PurgedError
        if start <= self.commit_index:
            raise CommittedError
        self.live = list(takewhile(lambda e: e.index < start, self.live))

    @atomic
    def purge(self, upto: int) -> None:
        if upto <= self.anchor.index:
            return
        if upto > self.last_index:
            raise GapError
        term = self.term(upto)
        assert term is not None
        self.anchor = LogId(term, upto)
        self.live = [e for e in self.live if e.index > upto]
        self._raise_commit(upto)

    @atomic
    def install_snapshot(self, last_included: LogId) -> bool:
        index = last_included.index
        if index <= self.commit_index:
            return False
        if index <= self.last_index and self.term(index) == last_included.term:
            self.purge(index)
        else:
            self.reset(last_included)
        return True

    @atomic
    def reset(self, anchor: LogId) -> None:
        self.anchor, self.live = anchor, []
        self.hard_state = msgspec.structs.replace(self.hard_state, commit=anchor.index)

    @atomic
    def save_hard_state(self, hard_state: HardState) -> None:
        old = self.hard_state
        if hard_state.term < old.term:
            raise TermError
        if hard_state.term == old.term and old.voted_for not in (None, hard_state.voted_for):
            raise VoteError
        self.commit_to(hard_state.commit)
        self.hard_state = msgspec.structs.replace(hard_state, commit=self.commit_index)

    @atomic
    def commit_to(self, index: int) -> None:
        if index > self.last_index:
            raise GapError
        self._raise_commit(index)

    def _raise_commit(self, index: int) -> None:
        commit = max(index, self.commit_index)
        self.hard_state = msgspec.structs.replace(self.hard_state, commit=commit)

    @atomic
    def put_meta(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.meta.pop(key, None)
        else:
            self.meta[key] = value

    @atomic
    def save(
        self,
        entries: Sequence[Entry] = (),
        *,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        anchor: LogId | None = None,
        meta: Mapping[str, bytes | None] | None = None,
    ) -> None:
        if anchor is not None:
            self.reset(anchor)
        if truncate_from is not None:
            self.truncate(truncate_from)
        self.append(entries)
        if hard_state is not None:
            self.save_hard_state(hard_state)
        for key, value in (meta or {}).items():
            self.put_meta(key, value)
