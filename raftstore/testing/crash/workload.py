"""Seeded sequences of calls of `RaftLog`, all of which must succeed, and the state after each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, Literal

import msgspec

from raftstore.entry import Entry, HardState, LogId
from raftstore.testing.log_model import LogModel, LogState

Mix = Literal["all", "plain", "conflicts", "votes", "purges", "crowd"]
"""`all`: every call. `plain`: only calls that return when they are acknowledged, and no reopening.
`conflicts`: mostly messages that replace entries. `votes`, `purges`: mostly these. `crowd`: see `crowd`."""

META_KEYS: Final = ("a", "b", "peers")
DURABLE_CALLS: Final = frozenset(
    {"truncate", "purge", "install_snapshot", "reset", "save_hard_state", "save", "put_meta"}
)
"""When one of these returns and has changed something, that is durable, whatever the strategy."""
APPENDS: Final = frozenset({"append", "propose", "splice"})
BARRIERS: Final = frozenset({"flush", "reopen"})
"""When one of these returns, everything before it is durable, the commit index too."""
NO_CALL: Final = frozenset({"reopen", "pause", "idle"})
"""Steps that are no members of `RaftLog`: close and open again; wait a little; wait for upkeep."""


class Step(msgspec.Struct, frozen=True):
    """One call, and what it leaves if it is done after all those before it."""

    call: str
    arguments: tuple[Any, ...]
    state: LogState
    digest: bytes
    """Of `state`."""
    commit: int
    """The accepted commit index after it."""
    wrote: range
    """The indexes whose entries are of this step."""
    changed: bool
    """Whether `state` differs from the one before."""
    cut: bool
    """Whether it took entries away from the end of the log."""
    carries_commit: bool
    """Whether the commit index, as it is now, must be durable when this is acknowledged as durable."""


class Workload(msgspec.Struct, frozen=True):
    """Steps in their order; number 0 is the state before the first call."""

    steps: Sequence[Step]

    @property
    def count(self) -> int:
        """How many calls there are."""
        return len(self.steps) - 1


def digest(state: LogState) -> bytes:
    """Names the state: equal for equal states only, in every process."""
    return hashlib.blake2b(msgspec.msgpack.encode(state), digest_size=16).digest()


def generate(random: Random, count: int, mix: Mix = "all", model: LogModel | None = None) -> Workload:
    """`count` steps, beginning at the state of `model`. The same for an equal `random` and model."""
    model = LogModel() if model is None else model
    steps = [_step("open", (), model, model.state(), range(0))]
    writer = _Writer(random, model)
    for _ in range(count):
        before, held = model.state(), {e.index: e for e in model.live}
        call, arguments = writer.next_call(mix)
        apply(model, call, arguments)
        wrote = [e.index for e in model.live if held.get(e.index) is not e]
        span = range(wrote[0], wrote[-1] + 1) if wrote else range(0)
        steps.append(_step(call, arguments, model, before, span))
    return Workload(steps)


def apply(model: LogModel, call: str, arguments: tuple[Any, ...]) -> None:
    """Make the call on the model."""
    name = {"submit": "append", "submit_propose": "propose", "submit_splice": "splice"}.get(call, call)
    if name == "save":
        model.save(**arguments[0])
    elif name not in NO_CALL and name != "flush":
        getattr(model, name)(*arguments)


def _step(call: str, arguments: tuple[Any, ...], model: LogModel, before: LogState, wrote: range) -> Step:
    after = model.state()
    changed = after != before
    kept = after.entries[: len(before.entries)]
    voted = (after.term, after.voted_for) != (before.term, before.voted_for)
    return Step(
        call,
        arguments,
        after,
        digest(after),
        model.commit_index,
        wrote,
        changed,
        cut=after.anchor == before.anchor and kept != before.entries,
        carries_commit=call in BARRIERS or (call in ("save_hard_state", "save") and voted),
    )


class _Writer:
    """Chooses calls that the model allows."""

    def __init__(self, random: Random, model: LogModel) -> None:
        self._random = random
        self._model = model
        self._serial = 0
        self._choices: Mapping[str, Callable[[], tuple[Any, ...]]] = {
            "append": lambda: (self._entries(),),
            "submit": lambda: (self._entries(),),
            "propose": self._proposal,
            "submit_propose": self._proposal,
            "splice": self._message,
            "submit_splice": self._message,
            "truncate": lambda: (random.randint(model.commit_index + 1, model.next_index),),
            "purge": lambda: (random.randint(model.anchor.index, model.last_index),),
            "install_snapshot": lambda: (self._snapshot_id(),),
            "reset": lambda: (self._reset_id(),),
            "save_hard_state": lambda: (self._hard_state(model),),
            "save": lambda: (self._ready(),),
            "put_meta": lambda: (random.choice(META_KEYS), self._blob()),
            "commit_to": lambda: (random.randint(model.commit_index, model.last_index),),
            "flush": tuple,
            "reopen": tuple,
            "pause": tuple,
            "idle": tuple,
        }

    def next_call(self, mix: Mix) -> tuple[str, tuple[Any, ...]]:
        weights = _WEIGHTS[mix]
        call = self._random.choices(list(weights), list(weights.values()))[0]
        return call, self._choices[call]()

    def _payload(self) -> bytes:
        self._serial += 1
        size = self._random.choices([0, 12, 60, 300, 1500, 5000, 12_000], [1, 6, 6, 6, 4, 2, 1])[0]
        return (b"%d," % self._serial * (size // 2 + 1))[:size]

    def _blob(self) -> bytes | None:
        return self._random.choice([None, b"", b"x", b"value %d" % self._random.randrange(99), b"y" * 700])

    def _entries(self, last: LogId | None = None, term: int = 0) -> list[Entry]:
        last = self._model.last if last is None else last
        term = max(term, last.term, 1)
        entries: list[Entry] = []
        for index in range(last.index + 1, last.index + 1 + self._random.choice([1, 1, 1, 2, 3, 5])):
            term += self._random.choice([0, 0, 0, 0, 1])
            entries.append(Entry(term, index, self._payload(), self._random.choice([0, 0, 1, 255])))
        return entries

    def _proposal(self) -> tuple[Any, ...]:
        term = max(1, self._model.last.term, self._model.hard_state.term)
        return term, [self._payload() for _ in range(self._random.choice([1, 1, 2, 4]))], 3

    def _message(self) -> tuple[Any, ...]:
        """A follower's message: news, a duplicate, a heartbeat, or a conflict above the commit index."""
        model, random = self._model, self._random
        prev = random.randint(max(model.anchor.index, model.last_index - 6), model.last_index)
        held = [e for e in model.live if e.index > prev]
        kept = held[: random.randint(0, len(held))]
        last = kept[-1].id if kept else LogId(model.term(prev) or 0, prev)
        kind = random.choice(["news", "conflict", "conflict", "held"])
        fresh: list[Entry] = []
        if kind == "news" and len(kept) == len(held):
            fresh = self._entries(last)
        elif kind == "conflict" and last.index >= model.commit_index:
            fresh = self._entries(last, model.last.term + 1)
        return LogId(model.term(prev) or 0, prev), kept + fresh

    def _snapshot_id(self) -> LogId:
        model, random = self._model, self._random
        index = random.randint(model.anchor.index, model.last_index + 3)
        held = model.term(index) if index <= model.last_index else None
        return LogId(held if held is not None and random.random() < 0.8 else model.last.term + 1, index)

    def _reset_id(self) -> LogId:
        index = max(0, self._model.anchor.index + self._random.randint(-5, 8))
        return LogId(self._model.last.term if index else 0, index)

    def _hard_state(self, model: LogModel) -> HardState:
        now, random = model.hard_state, self._random
        term = now.term + random.choice([0, 1, 1, 2])
        vote = now.voted_for if term == now.term and now.voted_for else random.choice([None, "n1", "n2"])
        return HardState(term, vote, random.randint(now.commit, model.last_index))

    def _ready(self) -> dict[str, Any]:
        """The arguments of `save`: any parts of it that fit together."""
        random, parts = self._random, dict[str, Any]()
        trial = LogModel.of(self._model.state(), self._model.commit_index)
        if random.random() < 0.1:
            parts["anchor"] = self._reset_id()
            trial.reset(parts["anchor"])
        elif random.random() < 0.3:
            parts["truncate_from"] = random.randint(trial.commit_index + 1, trial.next_index)
            trial.truncate(parts["truncate_from"])
        if random.random() < 0.7:
            parts["entries"] = self._entries(trial.last)
            trial.append(parts["entries"])
        if random.random() < 0.5:
            parts["hard_state"] = self._hard_state(trial)
        if random.random() < 0.3:
            parts["meta"] = {random.choice(META_KEYS): self._blob()}
        return parts


_PLAIN_WEIGHTS: Final = {
    "append": 20,
    "propose": 10,
    "splice": 10,
    "truncate": 3,
    "purge": 5,
    "install_snapshot": 1,
    "reset": 0.5,
    "save_hard_state": 5,
    "save": 5,
    "put_meta": 3,
}
_ALL_WEIGHTS: Final = {
    **_PLAIN_WEIGHTS,
    "submit": 8,
    "submit_propose": 5,
    "submit_splice": 4,
    "commit_to": 4,
    "flush": 2,
    "reopen": 1.5,
    "pause": 4,
    "idle": 0.6,
}
_WEIGHTS: Final[Mapping[Mix, Mapping[str, float]]] = {
    "all": _ALL_WEIGHTS,
    "plain": _PLAIN_WEIGHTS,
    "conflicts": {"append": 10, "splice": 30, "save": 10},
    "votes": {"append": 10, "save_hard_state": 30},
    "purges": {"append": 20, "purge": 10, "idle": 0.5},
}
