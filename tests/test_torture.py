"""`raftstore torture`: it loses nothing on a disk that keeps what it got, and says so when one does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raftstore.cli import main
from raftstore.compare.machine import Machine
from raftstore.storeconfig import StoreConfig
from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import Event, Kind
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import PLANTS
from raftstore.testing.tools import eventually, in_threads
from raftstore.testing.torture import powerloss
from raftstore.testing.torture.ledger import Chapter, Ledger, LedgerError, read_ledger
from raftstore.testing.torture.powerloss import DIRECTORY
from raftstore.testing.torture.report import Report, sentence_of
from raftstore.testing.torture.rounds import Settings
from raftstore.testing.torture.syncs import Syncs, measure_syncs, warnings_of

pytestmark = [
    pytest.mark.skipif(find_spec("typer") is None, reason="the command needs the extra cli"),
    pytest.mark.backend("segmented"),
]


class Ended(NamedTuple):
    """How a command ended."""

    status: object
    out: str
    err: str


SLOW = Syncs(100, 5.0, 6.0, 7.0, 8.0)
LOSES = "acknowledged before written"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory where syncs take no time, if there is one: other tests need the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="raftstore-test-", dir=memory) as directory:
        yield Path(directory)


def torture(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from raftstore.cli import main; main()", "torture", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """As `torture`, in this process: for what is told at once."""

    def run(path: Path, *options: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["raftstore", "torture", str(path), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(ended.value.code, out, err)

    return run


def machine(filesystem: str) -> Machine:
    return Machine("Linux", 2, "3.11", {}, filesystem)


# --- kills and power cuts ----------------------------------------------------------------------------------


def test_a_disk_that_keeps_what_it_got_loses_nothing_and_is_left_as_it_was(disk: Path) -> None:
    done = torture(disk / "not there yet", "--seconds", "1", "--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["good"]
    assert report["verdicts"]["OK"] > 0
    assert report["seed"] == 7
    assert report["syncs"]["count"] > 1
    assert not list(disk.iterdir())


def test_no_parent_of_the_directory_is_made_and_nothing_stays_of_one_that_was(
    here: Callable[..., Ended], disk: Path
) -> None:
    ended = here(disk / "mount" / "n1", "--seconds", "1")
    assert ended.status == 2
    assert "No such file or directory" in ended.err
    ended = here(disk / "n1", "--write", "--ledger", str(disk / "ledger"))
    assert ended.status == 2
    assert "is on the disk that it is to judge" in ended.err
    assert not list(disk.iterdir())


def test_an_early_acknowledgement_is_a_loss_and_the_exit_status_says_so(disk: Path) -> None:
    assert LOSES in [plant.name for plant in PLANTS]
    slow_flushes = ("--flush-policy", "Batch:100000:60")
    done = torture(disk, "--seconds", "100", "--seed", "7", *slow_flushes, "--plant", LOSES)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "LOST" in done.stdout
    assert "broke a promise" in done.stdout
    assert not list(disk.iterdir())


@pytest.mark.parametrize(("acknowledged", "words"), [(0, "nothing is shown"), (9, "Nothing was lost in 5")])
def test_crashes_before_anything_was_acknowledged_show_nothing(acknowledged: int, words: str) -> None:
    report = Report(
        path="/there",
        store="segmented:///there",
        seed=1,
        seconds=1.0,
        machine=machine("ext4 rw"),
        syncs=SLOW,
        warnings=(),
        stores=4,
        kills=5,
        power_cuts=0,
        acknowledged=acknowledged,
        verdicts={"OK": 5},
        failures=(),
    )
    assert report.is_good == (acknowledged > 0)
    assert words in sentence_of(report)


def test_the_configuration_of_a_node_is_what_is_tortured(disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[raftstore]\npath = "/nowhere/raft"\ncreate = false\nstrategy = "MemFirst"\n'
        "[raftstore.backends.segmented]\nsegment_bytes = 65536\n"
    )
    done = torture(disk, "--config", str(file), "--seconds", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    store: str = json.loads(done.stdout)["store"]
    assert "strategy=MemFirst" in store
    assert "segment_bytes=" in store


def test_what_cannot_run_says_why(here: Callable[..., Ended], tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[raftstore]\npath = "/nowhere"\n')
    for options, words in (
        (("--backend", "tape"), "tape"),
        (("--config", str(file), "--backend", "segmented"), "--config excludes"),
        (("--check",), "--check needs --ledger"),
        (("--write",), "--write needs --ledger"),
        (("--write", "--check"), "exclude each other"),
        (("--write", "--ledger", str(tmp_path / "ledger")), "is on the disk that it is to judge"),
        (("--check", "--ledger", str(file)), "is no ledger"),
    ):
        done = here(tmp_path, *options)
        assert done.status == 2, done.out + done.err
        assert words in done.err
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_was_never_written_to_is_not_called_a_liar(
    here: Callable[..., Ended], tmp_path: Path
) -> None:
    with Ledger(str(tmp_path / "ledger")) as ledger:
        ledger.announce("store-000000", Plan(backend="segmented", seed=1))
        ledger.tell(Kind.OPENED, 0)
    elsewhere = tmp_path / "not mounted"
    elsewhere.mkdir()
    done = here(elsewhere, "--check", "--ledger", str(tmp_path / "ledger"))
    assert done.status == 2, done.out + done.err
    assert "is it mounted?" in done.err
    assert not list(elsewhere.iterdir())


def test_the_directory_of_the_stores_is_durable_before_the_first_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(powerloss, "sync_directory", synced.append)
    settings = Settings(path=tmp_path, store=StoreConfig(path=tmp_path), seconds=0, seed=1)
    with Ledger(str(tmp_path / "ledger")) as ledger:
        powerloss.write(settings, ledger, lambda _: None)
    assert synced == [tmp_path]
    assert (tmp_path / DIRECTORY).is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="power cuts need root")
def test_the_power_of_file_systems_in_files_there_is_cut(disk: Path) -> None:
    done = torture(disk, "--seconds", "1", "--seed", "7", "--power-cuts", "--json")
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["power_cuts"] > 0
    assert report["verdicts"]["OK"] > 0
    assert not list(disk.iterdir())


def test_a_disk_too_small_for_copies_is_told_in_one_sentence(
    tmp_path: Path, here: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left"), ("c", "d", "[Errno 28] No space left")])

    monkeypatch.setattr("raftstore.cli.torture.torture", copy)
    ended = here(tmp_path)
    assert ended.status == 2
    assert ended.err == "it could not run: [Errno 28] No space left\n"


def test_a_path_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    done = torture(tmp_path / os.fsdecode(b"\xff"), "--seconds", "1")
    assert done.returncode == 2
    assert "\\udcff is not UTF-8" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing_behind(disk: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-c", "from raftstore.cli import main; main()", "torture", str(disk)]
    with subprocess.Popen(
        [*command, "--seconds", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        eventually(lambda: any(disk.glob("raftstore-crash-*/events")), "a workload runs")
        if stop is signal.SIGINT:  # from a terminal: everybody gets it
            os.killpg(process.pid, stop)
        else:
            process.send_signal(stop)
        _, words = process.communicate(timeout=600)
    assert process.returncode == 130
    assert b"stopped; no process and no mount was left behind" in words
    assert not list(disk.iterdir())


# --- syncs -------------------------------------------------------------------------------------------------


def test_syncs_are_measured_and_leave_no_file(tmp_path: Path) -> None:
    syncs = measure_syncs(tmp_path)
    assert syncs.count > 1
    assert 0 < syncs.p50_ms <= syncs.p90_ms <= syncs.p99_ms <= syncs.max_ms
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("filesystem", "p50_ms", "is_rotating", "words"),
    [
        ("tmpfs rw", 0.001, False, "is memory"),
        ("nfs4 rw,vers=4.2", 2.0, False, "network file system"),
        ("fuse.sshfs rw", 2.0, False, "network file system"),
        ("overlay rw", 2.0, False, "container"),
        ("ext4 rw", 0.002, False, "no disk is so fast"),
        ("ext4 rw", 0.4, True, "spinning"),
    ],
)
def test_what_makes_syncs_doubtful_is_said(
    filesystem: str, p50_ms: float, is_rotating: bool, words: str
) -> None:
    (warning,) = warnings_of(machine(filesystem), Syncs(9, p50_ms, 9, 9, 9), is_rotating=is_rotating)
    assert words in warning


def test_a_disk_beyond_doubt_has_no_warning() -> None:
    assert warnings_of(machine("ext4 rw"), SLOW, is_rotating=True) == []
    assert warnings_of(machine("xfs rw"), Syncs(9, 0.3, 9, 9, 9), is_rotating=False) == []


# --- a real loss of power ----------------------------------------------------------------------------------


@contextmanager
def listening(file: Path) -> Generator[str]:
    """What another machine does: it keeps in `file` what comes to the address. Complete after the block."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def keep() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                file.write_bytes(stream.read())

        thread = threading.Thread(target=keep)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join(120)


def test_a_ledger_in_which_nothing_is_acknowledged_shows_nothing(
    here: Callable[..., Ended], tmp_path: Path
) -> None:
    with Ledger(str(tmp_path / "ledger")) as ledger:
        ledger.announce("store-000000", Plan(backend="segmented", seed=7))
        ledger.tell(Kind.STARTED, 1)
    (tmp_path / DIRECTORY).mkdir()
    ended = here(tmp_path, "--check", "--ledger", str(tmp_path / "ledger"))
    assert ended.status == 1
    assert "so nothing is shown" in ended.out


def test_after_a_loss_of_power_the_ledger_tells_what_is_missing(
    here: Callable[..., Ended], disk: Path, tmp_path: Path
) -> None:
    place, ledger = disk / "place", tmp_path / "ledger"
    place.mkdir()
    with listening(ledger) as address:
        done = torture(place, "--write", "--ledger", address, "--seconds", "1", "--seed", "7")
    assert done.returncode == 0, done.stderr
    with listening(tmp_path / "other") as address:
        assert here(place, "--write", "--ledger", address).status == 2
    for _ in range(2):
        ended = here(place, "--check", "--ledger", str(ledger))
        assert ended.status == 0, ended.out + ended.err
        assert "Everything acknowledged is there." in ended.out
    told = [*read_ledger(ledger)][-1]
    assert f"{told.store}: {told.plan.steps} of {told.plan.steps} operations acknowledged: OK" in ended.out
    shutil.rmtree(max((place / DIRECTORY).iterdir()))
    ended = here(place, "--check", "--ledger", str(ledger), "--json")
    assert ended.status == 1, ended.out + ended.err
    assert json.loads(ended.out)["stores"][-1]["verdict"] == "LOST"


@pytest.mark.parametrize("threads", [1, 4])
def test_a_ledger_has_every_event_of_a_workload(disk: Path, threads: int) -> None:
    told: list[Event] = []

    class Overheard(Ledger):
        def tell(self, kind: Kind, step: int, value: int = 0) -> None:
            told.append(Event(kind, step, value))
            super().tell(kind, step, value)

    plan = Plan(backend="segmented", seed=3, steps=20, threads=threads)
    with Overheard(str(disk / "ledger")) as ledger:
        ledger.announce("store", plan)
        drive(plan, disk / "store", ledger)
        ledger.check()
    (chapter,) = read_ledger(disk / "ledger")
    assert Counter(chapter.events) == Counter(told)
    assert {Kind.OPENED, Kind.RETURNED, Kind.CLOSED} <= {event.kind for event in told}


def test_an_acknowledgement_after_a_failure_is_a_loss_though_everything_is_there(
    here: Callable[..., Ended], disk: Path
) -> None:
    stores, plan = disk / DIRECTORY, Plan(backend="segmented", seed=3, steps=5)
    stores.mkdir()
    with Ledger(str(disk / "ledger")) as ledger:
        ledger.announce("store-000000", plan)
        drive(plan, stores / "store-000000", ledger)
        ledger.tell(Kind.LIED, 3)
    ended = here(disk, "--check", "--ledger", str(disk / "ledger"))
    assert ended.status == 1, ended.out + ended.err
    assert "LOST a write was acknowledged after a failure" in ended.out


def test_lines_of_several_threads_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """A connection whose buffer is full: it takes a few bytes at a time."""

        def __init__(self) -> None:
            self.came = b""

        def sendall(self, data: bytes) -> None:
            for start in range(0, len(data), 3):
                self.came += data[start : start + 3]
                time.sleep(0.0001)

    def tell(number: int) -> None:
        for _ in range(10):
            ledger.tell(Kind.RECEIPT, number)

    slow = Slow()
    with Ledger(str(tmp_path / "ledger")) as ledger, monkeypatch.context() as patch:
        patch.setattr(ledger, "_socket", slow)
        in_threads(4, tell)
    assert Counter(slow.came.splitlines()) == {b"4 %d 0" % number: 10 for number in range(4)}


def test_a_ledger_that_was_cut_short_counts_up_to_its_last_whole_line(tmp_path: Path) -> None:
    file, plan = tmp_path / "ledger", Plan(backend="segmented", seed=1)
    with Ledger(str(file)) as ledger:
        ledger.announce("store-1", plan)
        ledger.tell(Kind.OPENED, 0)
        ledger.tell(Kind.WATERMARK, 3, 12)
        ledger.check()
    events = [Event(Kind.OPENED, 0), Event(Kind.WATERMARK, 3, 12)]
    assert [*read_ledger(file)] == [Chapter("store-1", plan, events)]
    file.write_bytes(file.read_bytes()[:-2])
    assert [*read_ledger(file)] == [Chapter("store-1", plan, events[:1])]
    file.write_bytes(file.read_bytes() + b"\nnonsense\n")
    with pytest.raises(LedgerError, match="no ledger"):
        list(read_ledger(file))


def test_of_a_long_ledger_no_more_than_one_store_is_in_memory(tmp_path: Path) -> None:
    """A disk that holds out for days is judged by the last two of its stores."""
    plan = Plan(backend="segmented", seed=1, steps=1)
    with Ledger(str(tmp_path / "ledger")) as ledger:
        ledger.announce("store-0", plan)
    head, one = (tmp_path / "ledger").read_bytes(), b"%d 1 0\n" % Kind.RETURNED * 1000
    (tmp_path / "ledger").write_bytes((head + one) * 300)
    tracemalloc.start()
    try:
        stores = sum(len(chapter.events) == 1000 for chapter in read_ledger(tmp_path / "ledger"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stores == 300
    assert peak < (tmp_path / "ledger").stat().st_size


def test_a_line_without_end_is_no_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(LedgerError, match="a line of more than 65536 bytes"):
        list(read_ledger(file))


def test_events_of_no_store_are_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b"1 0 0\n")
    with pytest.raises(LedgerError, match="no announcement"):
        list(read_ledger(tmp_path / "ledger"))


def test_a_ledger_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("precious")
    with pytest.raises(LedgerError, match="File exists"):
        Ledger(str(tmp_path / "ledger"))


def test_a_ledger_whose_disk_is_full_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with Ledger(str(tmp_path / "ledger")) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: write(fd, data[:-2]))
            with pytest.raises(OSError, match="No space left"):
                ledger.tell(Kind.OPENED, 0)
        ledger.tell(Kind.RETURNED, 1)
        with pytest.raises(LedgerError, match="gone"):
            ledger.check()
    assert (tmp_path / "ledger").read_bytes() == b"1 0 "


def test_a_ledger_that_is_gone_ends_the_workload(tmp_path: Path) -> None:
    with Ledger(str(tmp_path / "ledger")) as ledger:
        os.close(ledger.fd)
        with pytest.raises(OSError):
            ledger.tell(Kind.OPENED, 0)
        ledger.tell(Kind.BROKEN, 0)
        ledger.fd = os.open(os.devnull, os.O_WRONLY)
        with pytest.raises(LedgerError, match="gone"):
            ledger.check()
