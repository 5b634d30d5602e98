"""The demo: that it finds nothing where nothing is lost, and that it can fail."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("pysyncobj")
pytest.importorskip("typer")
pytest.importorskip("rich")

from patroni_tools import needs_patroni

from raftstore.config import StoreConfig
from raftstore.demo import workplace
from raftstore.demo.cluster import drop_unsynced, free_ports
from raftstore.demo.disk import DiskError, OwnDisk
from raftstore.demo.ledger import Ledger
from raftstore.demo.messages import Answer, Line
from raftstore.demo.process import NodeProcess
from raftstore.demo.report import sentence
from raftstore.demo.schedule import DOWN_S_MAX, plan
from raftstore.demo.session import Outcome, Session, Settings
from raftstore.demo.text import lines
from raftstore.demo.verdict import Verdict, compare
from raftstore.demo.writers import Writers
from raftstore.registry import backend_names
from raftstore.testing.tools import eventually

TIMEOUT_S = 600
OTHER_LIBRARIES = [pytest.param("patroni", marks=needs_patroni), "asyncio"]
BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
DEMO = [sys.executable, "-c", "from raftstore.cli import main; main()", "demo"]


def demo(*arguments: str) -> tuple[int, Any]:
    """Run `raftstore demo --json`; its exit status and what it printed."""
    done = subprocess.run([*DEMO, "--json", *arguments], capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()
    print(done.stdout.decode())
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def disk_of_its_own(tmp_path: Path) -> None:
    """Skip where no power can be cut."""
    try:
        OwnDisk(tmp_path / "disk").close()
    except DiskError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cluster_that_is_killed_loses_nothing(backend: str) -> None:
    strategy = {"lmdb": "MemFirst:sync_on_commit"}.get(backend, "DiskFirst")
    status, found = demo(
        "--backend", backend, "--strategy", strategy, "--seconds", "2", "--kills", "2", "--seed", "7"
    )
    assert (status, found["good"], found["seed"]) == (0, True, 7)
    for verdict in (found["alive"], found["restarted"]):
        assert verdict["acknowledged"] == verdict["recovered"] > 0
        assert verdict["lost"] == 0
    assert found["restarted"]["acknowledged"] >= found["alive"]["acknowledged"]
    assert found["kills"] == 5
    assert found["fsyncs"] > 0


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("library", OTHER_LIBRARIES)
def test_a_cluster_of_another_library_that_is_killed_loses_nothing(library: str) -> None:
    status, found = demo("--library", library, "--seconds", "2", "--kills", "1")
    assert (status, found["good"], found["library"]) == (0, True, library)
    assert found["restarted"]["acknowledged"] == found["restarted"]["recovered"] > 0
    assert found["fsyncs"] > 0


@pytest.mark.backend("segmented")
@pytest.mark.parametrize(
    ("library", "plant"),
    [
        ("pysyncobj", "late-flush"),
        ("pysyncobj", "forgotten-suffix"),
        pytest.param("patroni", "late-flush", marks=needs_patroni),
        ("asyncio", "forgotten-suffix"),
    ],
)
def test_a_planted_bug_is_found(library: str, plant: str) -> None:
    status, found = demo("--library", library, "--plant", plant, "--seconds", "1", "--kills", "0")
    assert (status, found["good"]) == (1, False)
    assert found["restarted"]["lost"] > 0


@pytest.mark.parametrize("library", ["pysyncobj", pytest.param("patroni", marks=needs_patroni)])
def test_pysyncobjs_own_journal_loses_what_it_acknowledged(library: str) -> None:
    status, found = demo("--library", library, "--journal", "pysyncobj", "--seconds", "2", "--kills", "1")
    assert status == 1
    assert found["restarted"]["lost"] == found["restarted"]["acknowledged"] > 0


@pytest.mark.backend("segmented")
def test_the_table_names_the_seed_and_what_was_lost(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"one line\n\nanother, \xff\n")
    command = [*DEMO, "--input", str(text), "--seconds", "1", "--kills", "0", "--seed", "42", "--nodes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 42" in done.stdout
    assert "Nothing lost" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "survives"),
    [
        pytest.param([], True, marks=pytest.mark.backend("segmented"), id="segmented"),
        pytest.param(["--journal", "pysyncobj"], False, id="pysyncobj"),
    ],
)
def test_a_power_cut_takes_from_pysyncobjs_own_journal_and_not_from_ours(
    arguments: list[str], survives: bool, disk_of_its_own: None
) -> None:
    status, found = demo("--power-cut", "--seconds", "2", "--kills", "1", *arguments)
    assert status == (0 if survives else 1)
    assert (found["restarted"]["lost"] == 0) == survives


@pytest.mark.parametrize(
    "wrong",
    [
        ["--backend", "nonsense"],
        ["--strategy", "X"],
        ["--flush-policy", "Batch"],
        ["--library", "asyncio", "--journal", "pysyncobj"],
        ["--library", "asyncio", "--plant", "late-flush"],
        ["--journal", "pysyncobj", "--plant", "late-flush"],
    ],
)
def test_what_cannot_run_exits_with_2(wrong: list[str]) -> None:
    done = subprocess.run([*DEMO, *wrong], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 2
    assert "could not run" in done.stderr


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_stopped_leaves_no_process_and_no_file(tmp_path: Path, stop: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [*DEMO, "--kills", "0", "--seconds", str(TIMEOUT_S)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        try:
            assert run.stdout is not None
            assert any("the clients begin" in line for line in run.stdout)
            assert [*tmp_path.iterdir()]
            children = _children(run.pid)
            assert len(children) == 3
            run.send_signal(stop)
            run.communicate(timeout=TIMEOUT_S)
        finally:
            run.kill()
    assert run.returncode == 130
    assert [*tmp_path.iterdir()] == []
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.backend("segmented")
def test_the_nodes_of_a_demo_that_was_killed_end_by_themselves(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, env=environment) as run:
        try:
            assert run.stdout is not None
            assert any("the clients begin" in line for line in run.stdout)
            children = _children(run.pid)
        finally:
            run.kill()
    end = time.monotonic() + TIMEOUT_S
    while [pid for pid in children if _is_running(pid)]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_copy_of_the_mount_that_somebody_else_holds_does_not_bring_the_old_disk_back(
    tmp_path: Path, disk_of_its_own: None
) -> None:
    disk = OwnDisk(tmp_path / "disk2")
    line = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"]
    with subprocess.Popen(["unshare", "--mount", *line], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline()
            disk.node_was_killed()
            (disk.path / "file").write_bytes(b"x")
        finally:
            holder.kill()
            disk.close()


def test_a_disk_in_which_somebody_has_a_file_open_for_a_moment_is_given_back(
    tmp_path: Path, disk_of_its_own: None
) -> None:
    disk = OwnDisk(tmp_path / "disk2")
    looking = (disk.path / "file").open("wb")
    leaving = threading.Timer(0.3, looking.close)
    leaving.start()
    disk.close()
    leaving.join()
    assert not disk.path.is_mount()


def test_what_a_demo_that_was_killed_has_mounted_is_removed_by_the_next(
    tmp_path: Path, disk_of_its_own: None
) -> None:
    places = tmp_path / "with blanks"
    places.mkdir()
    environment = {**os.environ, "TMPDIR": str(places)}
    line = [*DEMO, "--journal", "pysyncobj", "--power-cut", "--kills", "0", "--seconds", str(TIMEOUT_S)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as run:
        try:
            assert run.stdout is not None
            assert any("the clients begin" in line for line in run.stdout)
        finally:
            run.kill()
    mounts = workplace._mounts_below(places)
    try:
        assert len(mounts) == 3
        assert len(workplace.remove_leftovers(places)) == 1
        assert not workplace._mounts_below(places)
        assert not [*places.iterdir()]
    finally:
        for mount in workplace._mounts_below(places):
            subprocess.run(["umount", "-l", mount], check=False)


def test_a_directory_that_is_in_use_or_not_a_demos_stays(tmp_path: Path) -> None:
    for name in ("raftstore-demo-unlocked", "other"):
        (tmp_path / name).mkdir()
    elsewhere = tmp_path / "elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        with workplace.workplace() as used:
            (used / "file").touch()
            (tmp_path / "raftstore-demo-link").symlink_to(used)
            assert workplace.remove_leftovers(tmp_path) == []
            shutil.copytree(used, elsewhere)
        assert not used.exists()
    killed = elsewhere.rename(tmp_path / "raftstore-demo-killed")
    assert workplace.remove_leftovers(tmp_path) == [killed]
    left = {"other", "raftstore-demo-link", "raftstore-demo-unlocked"}
    assert {path.name for path in tmp_path.iterdir()} == left


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # A thread that has just ended has none.
            found += map(int, (task / "children").read_text().split())
    return found


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # It was gone, or went while it was read.
        return False
    return state != "Z"


SENT = {1: "a", 2: "b", 3: "c", 4: "d"}
GOOD = [Line(1, "a"), Line(2, "b"), Line(3, "c")]


def judge(**machines: list[Line]) -> Verdict:
    return compare(SENT, {1, 2, 3}, {"n1": GOOD, **machines})


def test_a_line_that_was_not_acknowledged_may_be_there_or_not() -> None:
    assert judge(n2=GOOD).is_good
    assert compare(SENT, {1, 2}, {"n1": GOOD, "n2": GOOD}).unknown_kept == 1


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (GOOD[:2], {"lost": 1, "recovered": 2, "disagreeing": ("n2",)}),
        ([Line(1, "a"), Line(2, "X"), Line(3, "c")], {"lost": 1, "altered": 1, "recovered": 2}),
        ([*GOOD, Line(2, "b")], {"lost": 0, "repeated": 1, "recovered": 2}),
        ([*GOOD, Line(9, "z")], {"lost": 0, "invented": 1, "disagreeing": ("n2",)}),
        ([GOOD[1], GOOD[0], GOOD[2]], {"lost": 0, "recovered": 3, "disagreeing": ("n2",)}),
        ([], {"lost": 3, "recovered": 0}),
    ],
    ids=["missing", "altered", "repeated", "invented", "reordered", "empty"],
)
def test_every_way_to_be_wrong_is_seen(machine: list[Line], expected: dict[str, object]) -> None:
    verdict = judge(n2=machine)
    assert not verdict.is_good
    assert {name: getattr(verdict, name) for name in expected} == expected


def test_a_line_that_is_lost_on_every_node_is_seen() -> None:
    assert compare(SENT, {1, 4}, {"n1": GOOD, "n2": GOOD}).lost == 1


def test_without_any_node_everything_is_lost() -> None:
    assert compare(SENT, {1, 2, 3}, {}, behind=["n1", "n2"]).lost == 3


def test_a_node_that_did_not_catch_up_is_not_good() -> None:
    assert not compare(SENT, {1, 2, 3}, {"n1": GOOD}, behind=["n2"]).is_good


def outcome(verdict: Verdict) -> Outcome:
    return Outcome(
        alive=verdict,
        restarted=verdict,
        kills=1,
        fsyncs=1,
        entries_per_fsync=1,
        latency_p50_ms=1,
        latency_p99_ms=1,
        sent=1,
        seconds=1,
        problem=None,
    )


def test_a_demo_in_which_nothing_was_acknowledged_shows_nothing() -> None:
    nothing, one = compare({1: "a"}, set(), {"n1": []}), compare({1: "a"}, {1}, {"n1": [Line(1, "a")]})
    assert outcome(one).is_good
    assert "Nothing lost: all 1" in sentence(outcome(one))
    assert not outcome(nothing).is_good
    assert "Nothing was acknowledged" in sentence(outcome(nothing))


class OneNode:
    """Answers at once, each line with the next one of the outcomes."""

    status = SimpleNamespace(is_ready=True)

    def __init__(self) -> None:
        self.outcomes: dict[int, str] = {}

    def submit(
        self, kind: str, key: str, value: str, *, timeout_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        said = self.outcomes[int(key)] = ("ok", "ok", "unknown", "failed")[len(self.outcomes) % 4]
        on_answer(Answer(0, cast("Any", said)))


def test_every_line_whose_node_said_so_is_acknowledged_and_no_other() -> None:
    ledger, node = Ledger(), OneNode()
    writers = Writers(lines(None), ledger)
    with writers.writing([cast("NodeProcess", node)]):
        eventually(lambda: len(node.outcomes) > 100, "a hundred lines were sent")
    assert ledger.sent().keys() == node.outcomes.keys()
    assert ledger.acknowledged() == {number for number, said in node.outcomes.items() if said == "ok"}
    assert writers.in_flight == 0


def test_what_ends_a_writer_ends_the_demo() -> None:
    def gone() -> Iterator[str]:
        yield "one line"
        raise OSError("the file is gone")

    node = OneNode()
    with (
        pytest.raises(OSError, match="the file is gone"),
        Writers(gone(), Ledger()).writing([cast("NodeProcess", node)]),
    ):
        eventually(lambda: bool(node.outcomes), "the first line was sent")


def test_a_schedule_follows_from_its_seed_and_kills_both_roles() -> None:
    kills = plan(5, 6, 12.0)
    assert kills == plan(5, 6, 12.0) != plan(6, 6, 12.0)
    assert [kill.role for kill in kills] == ["follower", "leader"] * 3
    assert all(0 < one.at_s < other.at_s < 12 for one, other in itertools.pairwise(kills))
    assert all(0 < kill.down_s <= DOWN_S_MAX and 0 <= kill.pick < 1 for kill in kills)


def test_the_ledger_counts_a_line_once() -> None:
    ledger = Ledger()
    numbers = [ledger.send(text) for text in ("a", "b")]
    ledger.acknowledge(numbers[0])
    ledger.acknowledge(numbers[0])
    assert (ledger.sent(), ledger.acknowledged(), ledger.acknowledged_count) == ({1: "a", 2: "b"}, {1}, 1)
    assert ledger.latency_ms(0.5)[0] >= 0


def test_the_input_never_ends_and_has_no_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"one\n\n two\xff\n")
    assert [*itertools.islice(lines(file), 4)] == ["one", " two\\xff", "one", " two\\xff"]
    assert all(line.strip() for line in itertools.islice(lines(None), 1000))
    file.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="no line"):
        lines(file)
    done = subprocess.run([*DEMO, "--input", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no line to replicate" in done.stderr


def test_the_ports_of_nodes_that_are_not_up_are_given_to_nobody_else_and_a_node_may_listen_there() -> None:
    """Two clusters that were started at the same time could be given the same port."""
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for _ in range(2000):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            assert other.getsockname()[1] not in ports
    with socket.create_server(("127.0.0.1", ports[0])), socket.create_connection(("127.0.0.1", ports[0])):
        pass


def test_clients_write_until_a_line_was_acknowledged_however_slow_the_cluster_is() -> None:
    """A demo of a second or two in which nothing was acknowledged showed nothing."""
    session = Session(Settings(store=StoreConfig(path=Path("/nowhere"))), cast("Any", None))
    number = session._ledger.send("a")
    acknowledging = threading.Timer(0.1, session._ledger.acknowledge, (number,))
    acknowledging.start()
    session._write_until_acknowledged(1)
    assert session._ledger.acknowledged_count == 1
    acknowledging.join()


def test_a_power_cut_leaves_nothing_of_a_journal_that_was_never_synced(tmp_path: Path) -> None:
    for name in ("journal", "journal.meta"):
        (tmp_path / name).write_bytes(b"x")
    drop_unsynced(tmp_path)
    assert [*tmp_path.iterdir()] == []
    drop_unsynced(tmp_path)
