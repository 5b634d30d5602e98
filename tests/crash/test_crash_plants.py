"""What counts as having caught a planted bug: what the bug must produce, and nothing else that went wrong."""

from __future__ import annotations

import pytest

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.lane import Lane, Settings
from raftstore.testing.crash.method import Method, Round
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plants import PLANTS, Plant
from raftstore.testing.crash.tally import FAILURES_MAX, Failure, Planted, Tally

UNSYNCED = next(plant for plant in PLANTS if plant.name == "no fsync")
PURGED = next(plant for plant in PLANTS if plant.name == "purged before its anchor is durable")
TRIES = 3
LOST = (Verdict.LOST, "the state after step 1")


def caught(bench: Bench, plant: Plant, *failures: tuple[Verdict, str]) -> Planted:
    """How a method that finds these, round after round, catches the bug."""

    def run(round_: Round) -> None:
        for verdict, words in failures:
            round_.bench.tally.fail(verdict, "somewhere", words)

    Lane(Settings(backend="segmented"), bench).catch(
        Method(name="any", about="", run=run, tries=TRIES), plant
    )
    assert not bench.tally.failures
    return bench.tally.planted[-1]


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.CRASH, Verdict.HANG, Verdict.MIXED])
def test_what_the_bug_need_not_produce_is_no_sign_of_it(plain_bench: Bench, verdict: Verdict) -> None:
    found = caught(plain_bench, UNSYNCED, (verdict, "something else"))
    assert (found.verdict, found.rounds) == (None, TRIES)
    assert found.words == f"{verdict}: something else"


def test_what_the_bug_must_produce_is_found_behind_any_number_of_other_failures(plain_bench: Bench) -> None:
    others = [(Verdict.REFUSED, "no room")] * (2 * FAILURES_MAX)
    found = caught(plain_bench, UNSYNCED, *others, LOST)
    assert (found.verdict, found.words, found.rounds) == (*LOST, 1)


def test_a_refusal_is_a_sign_only_in_the_words_that_the_bug_provokes(plain_bench: Bench) -> None:
    missing = (Verdict.REFUSED, "CorruptionError: a segment of the log is missing (file 1.seg)")
    assert caught(plain_bench, PURGED, (Verdict.REFUSED, "StoreLockedError"), LOST).verdict is None
    assert caught(plain_bench, PURGED, missing).verdict is Verdict.REFUSED
    assert caught(plain_bench, UNSYNCED, missing).verdict is None


def test_a_loss_that_the_store_noticed_is_a_sign_of_a_bug_that_loses_only(plain_bench: Bench) -> None:
    noticed = (Verdict.REFUSED, "CorruptionError: the log ends at write 3, but write 24 was durable")
    assert caught(plain_bench, UNSYNCED, noticed).verdict is Verdict.REFUSED
    assert caught(plain_bench, PURGED, noticed).verdict is None


def test_every_planted_bug_has_a_sign() -> None:
    assert [plant.name for plant in PLANTS if not plant.shows and not plant.refused] == []
    assert {verdict for plant in PLANTS for verdict in plant.shows} <= {Verdict.LOST, Verdict.MIXED}


def test_of_each_verdict_the_first_failures_are_kept_when_tallies_are_merged() -> None:
    whole = Tally(failures=[Failure(Verdict.REFUSED, "", "")] * FAILURES_MAX)
    whole.merge(Tally(failures=[Failure(Verdict.REFUSED, "", "one more"), Failure(*LOST, "")]))
    assert [failure.verdict for failure in whole.failures[FAILURES_MAX:]] == [Verdict.LOST]
