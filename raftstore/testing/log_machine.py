"""A Hypothesis state machine: the same random calls on a `RaftLog` and on `LogModel`, which must agree.

Between the calls the log is closed and opened, or killed and opened. What a kill may leave is known
exactly: the state after some prefix of the accepted writes that includes every acknowledged durable one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Protocol

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]
)

from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import RaftStoreError, TruncatedError
from raftstore.log import RaftLog
from raftstore.strategy import MemFirst
from raftstore.testing.log_model import LogModel, LogState
from raftstore.testing.tools import visible_state

META_KEYS = ("a", "b")
ALWAYS_DURABLE = ("truncate", "purge", "install_snapshot", "reset", "save", "put_meta")
TAKES_BACK = ("truncate", "reset", "install_snapshot", "save", "splice", "submit_splice")
BIG = 20_000
"""Bytes of a payload that makes files roll over."""


class Harness(Protocol):
    """Where the machine's log lives."""

    def open(self) -> RaftLog:
        """Open the store; a fresh one the first time."""
        ...

    def kill(self, log: RaftLog) -> None:
        """As if the process of `log` died: nothing more reaches its store, which can then be opened."""
        ...

    def clean(self) -> None:
        """The run is over and its log is closed."""
        ...


class _Sent(msgspec.Struct):
    """A receipt, and whether something may have taken its entries back."""

    receipt: Any
    last: Entry | None
    """This very entry: another one may come to have its id."""
    taken_back: bool = False


class _Known(msgspec.Struct, frozen=True):
    """A state that the log was in."""

    state: LogState
    commit: int


class LogMachine(RuleBasedStateMachine):
    def __init__(self, harness: Harness) -> None:
        super().__init__()
        self.harness = harness
        self.model = LogModel()
        self.serial = count(1)
        self.log = harness.open()
        self._settled()

    def _settled(self) -> None:
        """Everything accepted is durable: a kill has one outcome."""
        self.history = [self._now()]
        self.sent: list[_Sent] = []
        self.late = False

    def _now(self) -> _Known:
        return _Known(self.model.state(), self.model.commit_index)

    @property
    def mem_first(self) -> bool:
        return isinstance(self.log.config.strategy, MemFirst)

    # Making one call on both

    def both(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Call `name` on the log and on the model; they return the same or raise the same."""
        before = self.model.state()
        model_name = "append" if name == "submit" else name.removeprefix("submit_")
        expected = _outcome(lambda: getattr(self.model, model_name)(*args, **kwargs))
        actual = _outcome(lambda: getattr(self.log, name)(*args, **kwargs))
        if name.startswith("submit"):
            actual = self._check_receipt(name, actual)
        assert actual == expected, f"{name}{args}{kwargs}"
        self._remember(name, before)

    def _check_receipt(self, name: str, actual: object) -> object:
        """What the receipt's call would have returned."""
        if isinstance(actual, type):
            return actual
        receipt: Any = actual
        self.sent.append(_Sent(receipt, self.model.live[-1] if self.model.live else None))
        self.late |= name == "submit_splice"
        if name == "submit_propose":
            return range(receipt.first, receipt.last + 1)
        return receipt.splice if name == "submit_splice" else LogId(self.model.last.term, receipt.last)

    def _remember(self, name: str, before: LogState) -> None:
        after = self.model.state()
        if name in TAKES_BACK:
            for sent in self.sent:
                sent.taken_back |= all(e is not sent.last for e in after.entries)
        if after == before:
            return
        cut = name == "splice" and after.entries[: len(before.entries)] != before.entries
        voted = (after.term, after.voted_for) != (before.term, before.voted_for)
        waits = not name.startswith("submit") and not self.mem_first
        if waits or cut or voted or name in ALWAYS_DURABLE:
            self.history = [self._now()]
        else:
            self.history.append(self._now())

    # What to call it with. What a kill leaves depends on threads: nothing is drawn from a range, nor a
    # rule left out, because of the state, or the same draws would not mean the same run.

    def _pick(self, data: st.DataObject, low: int, high: int) -> int:
        """A number of [low, high]."""
        return low + data.draw(st.integers(0, 999)) % (high - low + 1)

    def _entries(self, data: st.DataObject, start: int, term: int, most: int = 5) -> list[Entry]:
        steps = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=most))
        terms = [max(term, 1) + sum(steps[: n + 1]) for n in range(len(steps))]
        return [Entry(t, start + n, self._payload(data), n % 256) for n, t in enumerate(terms)]

    def _payload(self, data: st.DataObject) -> bytes:
        size = data.draw(st.sampled_from([0, 8, 8, 8, 300, BIG]))
        return (b"%d," % next(self.serial) * (size // 2))[:size]

    def _index(self, data: st.DataObject) -> int:
        return self._pick(data, max(0, self.model.anchor.index - 1), self.model.last_index + 2)

    def _hard_state(self, data: st.DataObject) -> HardState:
        now = self.model.hard_state
        term = self._pick(data, max(0, now.term - 1), now.term + 2)
        return HardState(term, data.draw(st.sampled_from([None, "a", "b"])), self._index(data))

    def _snapshot_id(self, data: st.DataObject) -> LogId:
        index = self._index(data)
        held = self.model.term(index) if index >= self.model.anchor.index else 0
        return LogId((held or self.model.last.term) + data.draw(st.sampled_from([0, 0, 1])), index)

    # Rules

    @rule(data=st.data(), submit=st.booleans(), gap=st.sampled_from([0] * 8 + [-1, 1]))
    def append(self, data: st.DataObject, submit: bool, gap: int) -> None:
        entries = self._entries(data, max(1, self.model.next_index + gap), self.model.last.term)
        self.both("submit" if submit else "append", entries)

    @rule(data=st.data(), submit=st.booleans(), step=st.sampled_from([0, 0, 0, 1, -1]))
    def propose(self, data: st.DataObject, submit: bool, step: int) -> None:
        term = max(1, self.model.last.term, self.model.hard_state.term) + step
        payloads = [self._payload(data) for _ in range(data.draw(st.integers(1, 4)))]
        self.both("submit_propose" if submit else "propose", term, payloads)

    @rule(data=st.data(), submit=st.booleans())
    def splice(self, data: st.DataObject, submit: bool) -> None:
        prev = self._snapshot_id(data)
        own = [e for e in self.model.live if e.index > prev.index >= self.model.anchor.index]
        kept = own[: self._pick(data, 0, len(own))]
        start, term = (kept[-1].index + 1, kept[-1].term) if kept else (prev.index + 1, prev.term)
        fresh = (
            self._entries(data, start, max(term, self.model.anchor.term)) if data.draw(st.booleans()) else []
        )
        if not kept or kept[0].term >= prev.term:
            self.both("submit_splice" if submit else "splice", prev, kept + fresh)

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        self.both("truncate", self._index(data))

    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        self.both("purge", self._index(data))

    @rule(data=st.data())
    def install_snapshot(self, data: st.DataObject) -> None:
        self.both("install_snapshot", self._snapshot_id(data))

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.both("reset", self._snapshot_id(data))

    @rule(data=st.data())
    def save_hard_state(self, data: st.DataObject) -> None:
        self.both("save_hard_state", self._hard_state(data))

    @rule(data=st.data())
    def commit_to(self, data: st.DataObject) -> None:
        index = self._index(data)
        self.both("commit_to", index)
        if self.mem_first and self.log.config.strategy.sync_on_commit:  # type: ignore[union-attr]
            assert self.log.durable_index >= min(index, self.model.commit_index)

    @rule(key=st.sampled_from(META_KEYS), value=st.sampled_from([None, b"", b"x", b"y" * 500]))
    def put_meta(self, key: str, value: bytes | None) -> None:
        self.both("put_meta", key, value)

    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        parts: dict[str, Any] = {}
        trial = LogModel.of(self.model.state(), self.model.commit_index)
        if data.draw(st.sampled_from([False, False, True])):
            parts["anchor"] = self._snapshot_id(data)
            trial.reset(parts["anchor"])
        elif data.draw(st.booleans()):
            parts["truncate_from"] = max(trial.commit_index + 1, self._index(data))
            trial.truncate(parts["truncate_from"])
        if data.draw(st.booleans()):
            parts["entries"] = self._entries(data, trial.next_index, trial.last.term)
        if data.draw(st.booleans()):
            parts["hard_state"] = self._hard_state(data)
        if data.draw(st.booleans()):
            parts["meta"] = {data.draw(st.sampled_from(META_KEYS)): data.draw(st.sampled_from([None, b"z"]))}
        self.both("save", **parts)

    @rule()
    def flush(self) -> None:
        self.log.flush()
        for sent in self.sent:
            assert sent.receipt.done()
            taken_back = _outcome(partial(sent.receipt.wait, 0)) is TruncatedError
            assert not taken_back or sent.taken_back, f"{sent.last} is there"
        self._settled()

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.log = self.harness.open()
        self._settled()
        assert self.log.commit_index == self.model.commit_index

    @rule()
    def kill_and_open(self) -> None:
        durable = self.log.durable_index
        promised = [e for e in self.model.live if e.index <= durable]
        self.harness.kill(self.log)
        self.log = self.harness.open()
        found, commit = visible_state(self.log, META_KEYS), self.log.commit_index
        assert found in [known.state for known in self.history], "no prefix of the writes leaves this"
        assert all(e in found.entries for e in promised if e.index > found.anchor.index)
        assert found.last.index >= durable or not promised
        assert found.anchor.index <= commit <= found.last.index
        assert commit <= max(self.model.commit_index, *(known.commit for known in self.history))
        self.model = LogModel.of(found, commit)
        self._settled()

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        start, stop = self._index(data), self._index(data)
        bytes_max = data.draw(st.sampled_from([None, 0, 10, 500, 30_000]))
        if len(self.history) > 1 and (self.late or not self.mem_first):
            return
        self.both("entry", start)
        self.both("entries", start, stop, bytes_max=bytes_max)
        self.both("term", start)
        if start > self.model.anchor.index:
            assert list(self.log.scan(start, stop)) == self.model.entries(start, stop)
        for term in {e.term for e in self.model.live} | {self.model.anchor.term, 10**6}:
            self.both("first_index_of_term", term)
            self.both("last_index_of_term", term)

    @rule(data=st.data(), voter=st.booleans())
    def majority_index(self, data: st.DataObject, voter: bool) -> None:
        others = [self._index(data) for _ in range(data.draw(st.integers(0, 4)))]
        term = self.model.last.term + self._pick(data, 0, 1)
        if len(self.history) > 1:
            return
        expected = self.model.majority_index(others, term, durable_index=self.log.durable_index, voter=voter)
        assert self.log.majority_index(others, term, voter=voter) == expected

    # What holds between any two calls

    @invariant()
    def accepted_state_is_exact(self) -> None:
        assert self.log.next_index == self.model.next_index
        assert self.log.commit_index == self.log.hard_state.commit == self.model.commit_index
        assert self.log.durable_index <= self.model.last_index

    @invariant()
    def visible_state_is_one_the_log_was_in(self) -> None:
        if len(self.history) == 1 or (self.mem_first and not self.late):
            assert (self.log.anchor, self.log.last) == (self.model.anchor, self.model.last)
            assert self.log.first_index == self.model.first_index
            assert len(self.log) == len(self.model)
            assert self.log.is_empty == self.model.is_empty
        else:
            assert self.log.last in [known.state.last for known in self.history]
        if len(self.history) == 1:
            assert self.log.durable_index == self.model.last_index

    def teardown(self) -> None:
        try:
            self.log.flush()
            assert visible_state(self.log, META_KEYS) == self.model.state()
        finally:
            self.log.close()
            self.harness.clean()


def _outcome(call: Callable[[], object]) -> object:
    """What `call` returns, or the class of the error that it raises."""
    try:
        return call()
    except RaftStoreError as error:
        return type(error)


def run_log_machine(make: Callable[[], Harness], *, examples: int, steps: int, shrink: bool = False) -> None:
    """Run the machine `examples` times with at most `steps` calls each, on a fresh store every time.

    `shrink` looks for the shortest sequence of calls that fails: worth it where opening a store is cheap.
    """
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    run_state_machine_as_test(lambda: LogMachine(make()), settings=chosen)  # type: ignore[arg-type]
