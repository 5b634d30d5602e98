"""Each method of the crash tests on each backend, briefly: nothing is wrong, and planted bugs are caught.

The whole of it is `python -m raftstore.testing.crash`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest
from raftstore_segmented import SegmentedBackend

from raftstore.batch import WriteBatch
from raftstore.errors import StoreFullError
from raftstore.log import RaftLog
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import Kind, Reporter, decode
from raftstore.testing.crash.faults import KINDS, fail_at, sweep
from raftstore.testing.crash.image import Image, left_by
from raftstore.testing.crash.kill import kill_at_calls, kill_at_random
from raftstore.testing.crash.lab import Fault, Run
from raftstore.testing.crash.lane import Lane, Settings
from raftstore.testing.crash.methods import METHODS, method_named
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import PLANTS, plants_for
from raftstore.testing.crash.powercut import Explorer, Instant
from raftstore.testing.crash.record import CannotRecordError, Op, Record, build_shim
from raftstore.testing.crash.recovery import cut_again
from raftstore.testing.crash.report import load

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("segmented", "lmdb", "rocksdb")]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
segmented = pytest.mark.backend("segmented")
QUICK = ("every call", "power cut", "failed sync", "kill at a call")
"""Methods that need no root and little time."""


def assert_nothing_wrong(bench: Bench) -> None:
    tally = bench.tally
    assert not tally.failures, "\n".join(f"{f.verdict}: {f.where}: {f.words}" for f in tally.failures)
    assert tally.total(Verdict.OK) > 0


@every_backend
@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_workload_without_any_fault_ends_as_the_model_does(
    plain_bench: Bench, backend: str, strategy: str, threads: int
) -> None:
    plan = msgspec.convert(
        {"backend": backend, "seed": 2, "strategy": strategy, "threads": threads, "policy": "Batch"}, Plan
    )
    run = plain_bench.lab.run(plan, plain_bench.lab.arena())
    _, history = plain_bench.judge(plan, run, "no fault", "", killed=False)
    assert_nothing_wrong(plain_bench)
    assert history.promise.durable == plan.steps


@every_backend
def test_a_process_that_is_killed_loses_nothing(plain_bench: Bench, backend: str) -> None:
    for seed in range(3):
        strategy = ("DiskFirst", "MemFirst")[seed % 2]
        plan = msgspec.convert({"backend": backend, "seed": seed, "strategy": strategy}, Plan)
        kill_at_random(plain_bench, plan, Random(seed))
    assert_nothing_wrong(plain_bench)


@segmented
def test_a_process_that_dies_of_something_else_before_it_is_killed_has_crashed(
    plain_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plain_bench.lab.run

    def run(plan: Plan, arena: Path, kill_after_s: float | None = None) -> Run:
        ended = real(plan, arena)
        return ended if kill_after_s is None else msgspec.structs.replace(ended, status=-signal.SIGSEGV)

    monkeypatch.setattr(plain_bench.lab, "run", run)
    kill_at_random(plain_bench, Plan(backend="segmented", seed=2, steps=12), Random(1))
    assert plain_bench.tally.verdicts == {"no fault": {"OK": 1}, "kill": {"CRASH": 1}}


@every_backend
def test_a_process_that_is_killed_at_a_call_loses_nothing(bench: Bench, backend: str) -> None:
    plan = Plan(backend=backend, seed=4, steps=20)
    kill_at_calls(bench, plan, "kill", step=17)
    kill_at_calls(bench, plan, "kill half", step=17)
    assert_nothing_wrong(bench)
    assert bench.tally.kills > 5


@every_backend
@pytest.mark.parametrize("model", ["posix", "ext4"])
def test_a_power_cut_loses_nothing(bench: Bench, backend: str, model: str) -> None:
    plan = Plan(backend=backend, seed=7, steps=12)
    run, records = bench.record(plan)
    assert run.status == 0
    disk = Disk("posix" if model == "posix" else "ext4")
    explorer = Explorer(bench.lab, bench.checker, bench.tally)
    explorer.explore(plan, records, disk, Random(1), per_instant=0, images_max=500)
    assert_nothing_wrong(bench)
    assert bench.tally.unique > 20


@every_backend
def test_a_power_cut_while_recovering_loses_nothing(bench: Bench, backend: str) -> None:
    plan = Plan(backend=backend, seed=8, steps=8)
    _, records = bench.record(plan)
    explorer = Explorer(bench.lab, bench.checker, bench.tally)
    kept: list[tuple[Image, Instant]] = []
    explorer.explore(plan, records, Disk("posix"), Random(1), per_instant=0, images_max=1, keep=kept)
    for image, instant in kept[:1]:
        cut_again(bench, explorer, plan, image, instant, "posix", Random(2))
    assert_nothing_wrong(bench)


@every_backend
@pytest.mark.parametrize("name", ["write EIO", "write short", "sync EIO", "any ENOSPC"])
def test_a_call_that_fails_loses_nothing(bench: Bench, backend: str, name: str) -> None:
    plan = Plan(backend=backend, seed=9, steps=12, mix="plain")
    sweep(bench, plan, name, sticky=False, step=23, first=11)
    assert_nothing_wrong(bench)


@segmented
def test_a_disk_that_stays_full_ends_a_workload_whose_entries_wait_in_memory(bench: Bench) -> None:
    plan = Plan(backend="segmented", seed=32000048, steps=45, threads=4, strategy="MemFirst", policy="Batch")
    for call in range(60, 90, 5):
        fail_at(bench, plan, "any ENOSPC", call, sticky=True)
    assert_nothing_wrong(bench)


@pytest.mark.parametrize(
    ("backend", "method", "name"),
    [
        pytest.param(backend, method.name, plant.name, marks=pytest.mark.backend(backend))
        for backend in ("segmented", "lmdb", "rocksdb")
        for method in METHODS
        for plant in plants_for(backend)
        if plant.name in method.plants and method.name in QUICK
    ],
)
def test_a_planted_bug_is_caught(bench: Bench, backend: str, method: str, name: str) -> None:
    lane = Lane(Settings(backend=backend), bench)
    lane.catch(method_named(method), next(p for p in plants_for(backend) if p.name == name))
    assert [planted.verdict for planted in bench.tally.planted] != [None]
    assert not bench.tally.failures


def test_every_bug_that_can_be_planted_must_be_found_by_some_method() -> None:
    assert {name for method in METHODS for name in method.plants} == {plant.name for plant in PLANTS}


@segmented
def test_a_log_that_a_full_disk_keeps_open_is_closed_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(backend="segmented", seed=1, steps=3, mix="plain")
    assert "reopen" not in {step.call for step in plan.workload().steps}
    honest, refusals = RaftLog.close, [StoreFullError("no room")]

    def close(log: RaftLog) -> None:
        if refusals:
            raise refusals.pop()
        honest(log)

    monkeypatch.setattr(RaftLog, "close", close)
    reporter = Reporter(tmp_path / "events")
    drive(plan, tmp_path / "store", reporter)
    os.close(reporter.fd)
    kinds = [event.kind for event in decode((tmp_path / "events").read_bytes())]
    assert kinds[-2:] == [Kind.REFUSED, Kind.CLOSED]


@segmented
def test_a_workload_whose_threads_all_wait_for_a_disk_that_stays_full_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(backend="segmented", seed=16, steps=1, threads=4, strategy="MemFirst", mix="votes")
    assert [step.call for step in plan.workload().steps] == ["open", "append"]
    honest, close, is_full = SegmentedBackend.write, RaftLog.close, [True]

    def write(backend: SegmentedBackend, batch: WriteBatch) -> None:
        if batch.entries and is_full:
            raise OSError(errno.ENOSPC, "no room")
        honest(backend, batch)

    def close_with_room(log: RaftLog) -> None:
        is_full.clear()
        close(log)

    monkeypatch.setattr(SegmentedBackend, "write", write)
    monkeypatch.setattr(RaftLog, "close", close_with_room)
    monkeypatch.setattr("raftstore.testing.crash.driver.WAIT_S", 0.1)
    reporter = Reporter(tmp_path / "events")
    drive(plan, tmp_path / "store", reporter)
    os.close(reporter.fd)
    kinds = [event.kind for event in decode((tmp_path / "events").read_bytes())]
    assert kinds[-1] == Kind.CLOSED
    assert not {Kind.BROKEN, Kind.RECEIPT} & set(kinds)


@segmented
def test_a_process_that_hangs_is_told_from_one_that_dies(bench: Bench) -> None:
    plan = Plan(backend="segmented", seed=1, steps=5, mix="plain")
    run = bench.lab.run(plan, bench.lab.arena(), fault=Fault(KINDS["sync EIO"].kinds, 3, "stop"), timeout_s=1)
    assert bench.judge(plan, run, "hang", "", killed=False)[0] is Verdict.HANG


@segmented
def test_a_fault_happens_at_the_call_that_was_chosen(bench: Bench) -> None:
    plan = Plan(backend="segmented", seed=1, steps=5, mix="plain")
    assert fail_at(bench, plan, "write EIO", 3, sticky=False)
    assert not fail_at(bench, plan, "write EIO", 10_000, sticky=False)
    fault = Fault(KINDS["write EIO"].kinds, 3, "fail", errno.EIO)
    run, records = bench.record(plan, fault)
    assert Kind.FIRED in {event.kind for event in run.events}
    writes = [record for record in records if record.op is Op.WRITE]
    assert len(writes) >= 2


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRecordError, match="no C compiler"):
        build_shim(tmp_path)


@pytest.mark.parametrize("name", ["a b", "a:b"])
def test_in_a_directory_from_which_nothing_can_be_preloaded_it_says_so(tmp_path: Path, name: str) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")
    (tmp_path / name).mkdir()
    with pytest.raises(CannotRecordError, match="set TMPDIR"):
        build_shim(tmp_path / name)


@segmented
def test_the_command_prints_numbers_and_writes_a_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "raftstore.testing.crash", "--backend", "segmented"]
    command += ["--method", "kill at any time", "--seconds", "0.2", "--kills", "1"]
    command += ["--lanes", "1", "--seed", "3", "--report", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "segmented: seed 3" in done.stdout
    whole, images = load(file)
    assert [outcome.backend for outcome in whole.outcomes] == list(images) == ["segmented"]
    assert whole.outcomes[0].tally.total(Verdict.OK) > 0


def assert_recorded(records: list[Record], arena: Path) -> None:
    """What was recorded, all of it kept, is what is on the disk, but for what was written through `mmap`."""
    disk = Disk("posix")
    for record in records:
        disk.apply(record)
    image = left_by(disk, lambda change: True)
    kept = {path: content.ljust(size, b"\0") for path, content, size in image.files}
    files = {str(f.relative_to(arena)): f.read_bytes() for f in arena.rglob("*") if f.is_file()}
    for name in [name for name in (*kept, *files) if name.endswith("lock.mdb")]:
        kept.pop(name, None)
        files.pop(name, None)
    assert sorted(kept) == sorted(files)
    assert kept == files


@every_backend
@pytest.mark.parametrize("threads", [1, 4])
def test_what_the_shim_recorded_is_what_is_on_the_disk(bench: Bench, backend: str, threads: int) -> None:
    run, records = bench.record(Plan(backend=backend, seed=12, steps=40, threads=threads))
    assert run.status == 0
    assert_recorded(records, bench.lab.scratch / "arena")


@every_backend
def test_what_strace_recorded_is_what_is_on_the_disk(plain_bench: Bench, backend: str) -> None:
    if not plain_bench.can_record:
        pytest.skip("there is no strace")
    run, records = plain_bench.record(Plan(backend=backend, seed=12, steps=15))
    assert run.status == 0
    assert_recorded(records, plain_bench.lab.scratch / "arena")
    events = [event for record in records if record.op is Op.EVENT for event in decode(record.data)]
    assert events == run.events
