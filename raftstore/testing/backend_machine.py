"""A Hypothesis state machine: any sequence of operations on a store, against the model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from raftstore.batch import WriteBatch
from raftstore.testing.batches import next_batch, next_batches
from raftstore.testing.checked import CheckedStore, assert_same
from raftstore.testing.killing import KillableStore
from raftstore.testing.model import Model
from raftstore.testing.profile import machine_settings

seeds = st.integers(0, 9999)
"""One small choice for each batch: that shrinks fast."""


class BackendMachine(RuleBasedStateMachine):
    """Works on a new store of `open_store`, in a directory of its own below `root`.

    What a kill leaves depends on its moment. So no rule has a precondition: the same draws mean the same run.
    """

    def __init__(self, open_store: Callable[[Path], Any], root: Path) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=root))
        self.store: CheckedStore[Any] = CheckedStore(lambda: open_store(self.path))

    def teardown(self) -> None:
        self.store.backend.close()
        shutil.rmtree(self.path)

    @rule(seed=seeds)
    def write(self, seed: int) -> None:
        batch = next_batch(Random(seed), self.store.model)
        note(f"writes {batch}")
        self.store.write_batch(batch)

    @rule(seed=seeds)
    def write_several(self, seed: int) -> None:
        for turn in range(4):
            self.write(seed + turn)

    @rule()
    def reopen(self) -> None:
        self.store.reopen()

    @rule()
    def maintain(self) -> None:
        self.store.backend.maintain()

    @rule(seed=seeds, bytes_max=st.none() | st.integers(0, 400))
    def read(self, seed: int, bytes_max: int | None) -> None:
        model, random = self.store.model, Random(seed)
        if not model.entries:
            return
        start = random.randint(model.first_index, model.last.index)
        stop = random.randint(start + 1, model.last.index + 1)
        assert_same(self.store.backend.read(start, stop, bytes_max), model.read(start, stop, bytes_max))

    @invariant()
    def holds_what_was_written(self) -> None:
        self.store.check()


class KillingMachine(BackendMachine):
    """Its stores can be killed."""

    @rule(seed=seeds, count=st.integers(0, 5), instant=st.integers(0, 15))
    def kill_while_writing(self, seed: int, count: int, instant: int) -> None:
        kill_while_writing(self.store, Random(seed), count, seed % (count + 1), instant / 16)


def run_machine(
    machine: type[BackendMachine], open_store: Callable[[Path], object], root: Path, examples: int
) -> None:
    """Let Hypothesis look for a sequence of operations after which a store and the model differ."""

    factory = cast("type[BackendMachine]", partial(machine, open_store, root))
    run_state_machine_as_test(factory, settings=machine_settings(examples, steps=25))


def kill_while_writing(
    store: CheckedStore[KillableStore], random: Random, count: int, acknowledged: int, instant: float
) -> None:
    """Write `count` random batches and kill in between, as `kill_within` does."""
    kill_within(store, next_batches(random, store.model, count), acknowledged, instant)


def kill_within(
    store: CheckedStore[KillableStore], batches: Sequence[WriteBatch], acknowledged: int, instant: float
) -> None:
    """Write `batches`, kill in between, open again: what is found is the result of a legal prefix."""
    store.open_as_one_of(killed_within(store, batches, acknowledged, instant))


def killed_within(
    store: CheckedStore[KillableStore], batches: Sequence[WriteBatch], acknowledged: int, instant: float
) -> list[Model]:
    """Write `batches` and kill in between. Returns the states that may be found."""
    legal = [store.model]
    for batch in batches:
        legal.append(legal[-1].copy())
        legal[-1].apply(batch)
    acknowledged = store.backend.write_and_kill(batches, acknowledged, instant)
    return legal[acknowledged:]
