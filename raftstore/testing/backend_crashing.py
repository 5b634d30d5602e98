"""`BackendSuite`: what a process that is killed leaves behind, and any sequence of operations at all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import ClassVar

from raftstore.batch import WriteBatch
from raftstore.entry import LogId
from raftstore.testing.backend_base import BackendTests
from raftstore.testing.backend_machine import (
    BackendMachine,
    KillingMachine,
    kill_while_writing,
    kill_within,
    killed_within,
    run_machine,
)
from raftstore.testing.batches import entries_after, next_batches
from raftstore.testing.checked import CheckedStore, run
from raftstore.testing.killing import KillableStore
from raftstore.testing.profile import times


class CrashTests(BackendTests):
    """The storage holds the result of some prefix of the writes, including every write that returned."""

    def test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes(self, tmp_path: Path) -> None:
        random = Random(1)
        with self._killable_store(tmp_path) as store:
            for _ in range(times(16)):
                kill_while_writing(store, random, 20, min(20, random.randint(0, 26)), random.random())

    def test_every_write_that_returned_survives_a_kill(self, tmp_path: Path) -> None:
        with self._killable_store(tmp_path) as store:
            for count in range(1, times(6)):
                store.append(count, term=count)
                store.write(hard_state=b"voted in %d" % count)
                store.backend.kill()
                store.open_again()

    def test_a_kill_leaves_old_or_new_entries_and_never_a_mix(self, tmp_path: Path) -> None:
        """Truncation and entries are one write, and so are hard state and what stands beside it."""
        with self._killable_store(tmp_path) as store:
            store.append(30, term=1)
            for round_ in range(times(8)):
                terms = range(2 + 8 * round_, 10 + 8 * round_)
                batches = [_replacement(store.model.number, term) for term in terms]
                kill_within(store, batches, round_ % 8, round_ / times(8))

    def test_appending_goes_on_after_every_kill(self, tmp_path: Path) -> None:
        random = Random(2)
        with self._killable_store(tmp_path) as store:
            for round_ in range(times(8)):
                kill_while_writing(store, random, 6, round_ % 6, random.random())
                store.write(entries=entries_after(random, store.model.last, 5))
                store.reopen()

    def test_a_purge_and_a_reset_survive_a_kill_as_a_whole(self, tmp_path: Path) -> None:
        random = Random(3)
        with self._killable_store(tmp_path) as store:
            for round_ in range(times(8)):
                store.reset(LogId(1, 10 * (round_ % 3)), run(10 * (round_ % 3) + 1, 20, 1))
                first, number = store.model.first_index, store.model.number
                batches = [
                    WriteBatch(number + 1, anchor=LogId(1, first + 3)),
                    WriteBatch(number + 2, anchor=LogId(1, first + 19)),
                    WriteBatch(number + 3, 1, LogId(5, 500), run(501, 3, 5)),
                    WriteBatch(number + 4, 1, LogId(2, 5), meta=b"rebuilt"),
                ]
                kill_within(store, batches, round_ % 4, random.random())

    def test_a_kill_while_opening_changes_nothing(self, tmp_path: Path) -> None:
        random, directory = Random(4), _new_directory(tmp_path)
        with self.launcher() as launcher, CheckedStore(lambda: launcher.open(directory)) as store:
            for _ in range(times(3)):
                batches = next_batches(random, store.model, 6)
                legal = killed_within(store, batches, random.randint(0, 5), random.random())
                for _ in range(4):
                    launcher.kill_while_opening(directory, random.random())
                store.open_as_one_of(legal)
                store.reopen()

    @contextmanager
    def _killable_store(self, path: Path) -> Generator[CheckedStore[KillableStore]]:
        directory = _new_directory(path)
        with self.launcher() as launcher, CheckedStore(lambda: launcher.open(directory)) as store:
            yield store


class MachineTests(BackendTests):
    """Hypothesis looks for a sequence of operations that the backend and the model answer differently."""

    examples: ClassVar[int] = 20
    """Sequences without kills; a third as many with them, since an opening after a kill may take long."""

    def test_any_sequence_of_operations_matches_the_model(self, tmp_path: Path) -> None:
        run_machine(BackendMachine, self.make, tmp_path, self.examples)

    def test_any_sequence_of_operations_and_kills_matches_the_model(self, tmp_path: Path) -> None:
        with self.launcher() as launcher:
            run_machine(KillingMachine, launcher.open, tmp_path, self.examples // 3)


def _replacement(number: int, term: int) -> WriteBatch:
    """Replaces everything from index 11 on by 13 to 20 entries of `term`, which the hard state names too."""
    return WriteBatch(number + term, 11, None, run(11, 20 - term % 8, term), b"%d" % term)


def _new_directory(path: Path) -> Path:
    directory = path / "store"
    directory.mkdir(mode=0o700)
    return directory
