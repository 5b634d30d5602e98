"""A fault in the files of a store at rest is told, or does no harm: never silently less, other, or worse."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from raftstore_segmented import SegmentedBackend
from raftstore_segmented.header import FRAMES_AT

from raftstore.batch import WriteBatch
from raftstore.config import load
from raftstore.entry import Entry
from raftstore.log import open as open_log
from raftstore.registry import backend_names
from raftstore.store import open_store
from raftstore.testing.profile import thorough
from raftstore.testing.rot.damage import KINDS, PAGE, choose
from raftstore.testing.rot.judge import Outcome
from raftstore.testing.rot.plants import PLANTS, plants_for
from raftstore.testing.rot.run import Result, examine_rot
from raftstore.witness import Note, judge

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
PLANTED = [
    pytest.param(name, bug, marks=pytest.mark.backend(name))
    for name in backend_names()
    for bug in plants_for(name)
]
CASES = 3000 if thorough() else 120
VERIFY_EVERY = {"segmented": 2, "lmdb": 10, "rocksdb": 4}
"""Looking at every page of an LMDB file takes longer than all the rest."""


def told(result: Result) -> str:
    return "\n".join(
        f"{f.outcome}: {f.rest} {f.store}/{f.number} {f.kind}, {f.words}" for f in result.failures
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.timeout(3000)
def test_one_fault_in_a_store_at_rest_never_loses_anything_silently(backend: str) -> None:
    result = examine_rot(backend, cases=CASES, seed=7, verify_every=VERIFY_EVERY.get(backend, 1))
    assert result.bad == 0, told(result)
    assert result.cases == CASES
    assert result.outcomes[Outcome.TOLD] > CASES / 10, "the faults hit nothing"
    assert set(result.by_rest) == {"closed", "idle", "killed"}


@pytest.mark.parametrize(("backend", "bug"), PLANTED)
def test_a_planted_bug_is_found(backend: str, bug: str) -> None:
    kinds = PLANTS[bug].kinds
    result = examine_rot(
        backend, cases=240, seed=1, plant=bug, kinds=kinds, verify_every=10**9, until_bad=True
    )
    assert result.bad, f"{result.cases} faults, and {bug!r} got through"
    assert result.failures[0].outcome in (Outcome.LOST, Outcome.WRONG)


def test_there_is_a_bug_for_every_backend_of_ours() -> None:
    assert {name for plant in PLANTS.values() for name in plant.backends} == {"segmented", "lmdb", "rocksdb"}


@pytest.mark.backend("rocksdb")
def test_unwitnessed_writes_that_rocksdb_dropped_from_its_damaged_log_are_not_denied(tmp_path: Path) -> None:
    """RocksDB stops at a record that it cannot read and does not say what follows. Write 5 has a witness."""
    payloads = [Random(number).randbytes(500) for number in range(11)]
    store = open_store(load(f"rocksdb://{tmp_path}/store?ballast_bytes=64KiB"))
    for number in range(1, 11):
        store.backend.write(WriteBatch(number, entries=[Entry(1, number, payloads[number])]))
        if number == 5:
            store.witness(5)
    shutil.copytree(tmp_path / "store", tmp_path / "killed")
    store.close()
    logs = (tmp_path / "killed/rocksdb/db").glob("*.log")
    log = next(log for log in logs if payloads[6] in log.read_bytes())
    data = log.read_bytes()
    log.write_bytes(data.replace(payloads[6], payloads[6][:-1] + b"?"))
    with open_log(f"rocksdb://{tmp_path}/killed?ballast_bytes=64KiB") as opened:
        assert opened.last_index == 5
        assert opened.recovery.acknowledged_missing == "unknown"


NESTED = """
import os, signal, time
from raftstore.testing.rot.quick import forked

def inner():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)

print(forked(lambda: str(forked(inner, 3600)).encode(), 3600))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_what_a_killed_child_had_forked_ends_with_it_and_is_not_waited_for() -> None:
    """It holds the pipe on which the answer was to come: the death would be taken for a hang."""
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("(-9, b'')\n", "")


def store(seed: int) -> dict[str, bytes]:
    random = Random(seed)
    return {f"file {n}": random.randbytes(size) for n, size in enumerate([100, PAGE, 3 * PAGE, 5000])}


def test_every_kind_of_fault_is_made_and_changes_something() -> None:
    now, before = store(1), {**store(2), "gone": b"once"}
    seen: Counter[str] = Counter()
    for number in range(500):
        fault = choose(now, [before], Random(number))
        assert any(now.get(name) != data for name, data in fault.changes.items())
        assert len(fault.changes) <= 2
        seen[fault.kind] += 1
    assert set(seen) == set(KINDS)


def test_the_same_case_is_the_same_fault() -> None:
    assert choose(store(1), [], Random(5)) == choose(store(1), [], Random(5))


def test_a_failed_case_can_be_kept(tmp_path: Path) -> None:
    result = examine_rot(
        "segmented",
        cases=600,
        seed=1,
        plant="no checksums",
        keep=tmp_path,
        until_bad=True,
        verify_every=10**9,
    )
    [kept] = tmp_path.iterdir()
    assert kept.name.endswith(f"-{result.failures[0].number}")
    assert (kept / "FORMAT").exists()


def _begun_segments(store: Path) -> list[Path]:
    return [file for file in sorted(store.glob("*.seg")) if any(file.read_bytes()[FRAMES_AT:])]


@pytest.mark.backend("segmented")
def test_the_loss_of_the_newest_segment_of_a_killed_store_is_not_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was begun, and the one before it not sealed yet: nothing left tells that it was there."""
    monkeypatch.setattr("raftstore_segmented.backend.seal", lambda *_: None)
    store, killed = tmp_path / "store", tmp_path / "killed"
    store.mkdir()
    with closing(SegmentedBackend(store, segment_bytes=16384)) as backend:
        for number in range(1, 100):
            backend.write(WriteBatch(number, entries=[Entry(1, number, bytes(3000))]))
            if begun := _begun_segments(store)[1:]:
                break
        shutil.copytree(store, killed, ignore=shutil.ignore_patterns("spare*"))  # these come and go
    for file in killed.glob("*.seg"):
        if file.name >= begun[0].name:  # The next one may have been prepared by now.
            file.unlink()
    with closing(SegmentedBackend(killed, segment_bytes=16384)) as backend:
        found = backend.recovery
    assert found.number == number - 1
    note = Note(1, found.number, clean=False, volatile=False)
    assert judge(note, found, is_whole=True, engine=killed) == "unknown"
