"""A Hypothesis state machine: any sequence of operations on a store, against the model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftstore.batch import WriteBatch
from raftstore.testing.batches import next_batch
from raftstore.testing.checked import CheckedStore, assert_same
from raftstore.testing.killing import KillableStore

randoms = st.randoms(use_true_random=False)


class BackendMachine(RuleBasedStateMachine):
    """Works on a new store of `open_store`, in a directory of its own below `root`."""

    def __init__(self, open_store: Callable[[Path], KillableStore], root: Path) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=root))
        self.store = CheckedStore(lambda: open_store(self.path))

    def teardown(self) -> None:
        self.store.backend.close()
        shutil.rmtree(self.path)

    @rule(random=randoms)
    def write(self, random: Random) -> None:
        self.store.write_batch(next_batch(random, self.store.model))

    @rule(random=randoms)
    def write_several(self, random: Random) -> None:
        for _ in range(5):
            self.store.write_batch(next_batch(random, self.store.model))

    @rule()
    def reopen(self) -> None:
        self.store.reopen()

    @rule()
    def maintain(self) -> None:
        self.store.backend.maintain()

    @rule()
    def kill(self) -> None:
        self.store.backend.kill()
        self.store.open_again()

    @rule(random=randoms, count=st.integers(1, 5), instant=st.floats(0, 0.99))
    def kill_while_writing(self, random: Random, count: int, instant: float) -> None:
        kill_while_writing(self.store, random, count, random.randint(0, count), instant)

    @rule(random=randoms, bytes_max=st.none() | st.integers(0, 400))
    @precondition(lambda self: bool(self.store.model.entries))
    def read(self, random: Random, bytes_max: int | None) -> None:
        model = self.store.model
        start = random.randint(model.first_index, model.last.index)
        stop = random.randint(start + 1, model.last.index + 1)
        assert_same(self.store.backend.read(start, stop, bytes_max), model.read(start, stop, bytes_max))

    @invariant()
    def holds_what_was_written(self) -> None:
        self.store.check()


def machine_for(open_store: Callable[[Path], KillableStore], root: Path) -> type[BackendMachine]:
    """The machine that works on stores of `open_store` below `root`, as Hypothesis wants it."""

    class BoundMachine(BackendMachine):
        def __init__(self) -> None:
            super().__init__(open_store, root)

    return BoundMachine


def kill_while_writing(
    store: CheckedStore[KillableStore], random: Random, count: int, acknowledged: int, instant: float
) -> None:
    """Write `count` random batches and kill in between, as `kill_within` does."""
    ahead, batches = store.model.copy(), list[WriteBatch]()
    for _ in range(count):
        batches.append(next_batch(random, ahead))
        ahead.apply(batches[-1])
    kill_within(store, batches, acknowledged, instant)


def kill_within(
    store: CheckedStore[KillableStore], batches: Sequence[WriteBatch], acknowledged: int, instant: float
) -> None:
    """Write `batches`, kill in between, open again: what is found is the result of a legal prefix."""
    legal = [store.model]
    for batch in batches:
        legal.append(legal[-1].copy())
        legal[-1].apply(batch)
    acknowledged = store.backend.write_and_kill(batches, acknowledged, instant)
    store.open_as_one_of(legal[acknowledged:])
