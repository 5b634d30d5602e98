"""Power cuts by LazyFS: what is said to it and what it answers, and all of it where the program is there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
import pytest

from raftstore.testing.crash import lazyfs_mount
from raftstore.testing.crash.block_mount import is_mounted
from raftstore.testing.crash.lazyfs import TORN_FILES, choose_torn
from raftstore.testing.crash.lazyfs_mount import (
    STORES,
    VARIABLE,
    LazyFs,
    LazyFsError,
    Torn,
    command,
    configuration,
    lacking,
)
from raftstore.testing.crash.report import Report
from raftstore.testing.tools import eventually

ANSWERING = """#!{python}
import tomllib
with open("config", "rb") as stream:
    faults = tomllib.load(stream)["faults"]
with open("told", "wb", 0) as told, open(faults["fifo_path"], "rb", 0) as asked:
    with open(faults["fifo_path_completed"], "wb", 0) as answered:
        for line in asked:
            told.write(line)
            answered.write(b"finished::clear-cache\\n")
"""
DYING = """#!{python}
import tomllib
with open("config", "rb") as stream:
    fifo = tomllib.load(stream)["faults"]["fifo_path"]
with open(fifo, "rb", 0) as asked:
    asked.readline()
print("no cache at all")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a program that is started instead of LazyFS, and mounts nothing; its directory."""
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv: install util-linux")

    def make(text: str) -> Path:
        program = tmp_path / "lazyfs-stand-in"
        program.write_text(text.replace("{python}", sys.executable))
        program.chmod(0o700)
        monkeypatch.setenv(VARIABLE, str(program))
        monkeypatch.setattr(lazyfs_mount, "is_mounted", pretended)
        return tmp_path

    asked: list[Path] = []

    def pretended(place: Path) -> bool:
        """Mounted when that is asked first, and not when it is asked at the end."""
        asked.append(place)
        return len(asked) == 1

    return make


def test_the_cache_is_cleared_by_a_line_to_one_fifo_and_an_answer_from_the_other(
    stand_in: Callable[[str], Path],
) -> None:
    place = stand_in(ANSWERING)
    with LazyFs(place) as disk:
        for _ in range(3):
            disk.clear()
        assert (place / "lazyfs" / "told").read_bytes() == 3 * b"lazyfs::clear-cache\n"
    assert not (place / "lazyfs").exists()
    assert not disk.is_alive


def test_a_program_that_dies_before_it_answers_is_told_with_its_last_words(
    stand_in: Callable[[str], Path],
) -> None:
    with LazyFs(stand_in(DYING)) as disk, pytest.raises(LazyFsError, match="no cache at all"):
        disk.clear()


def test_the_configuration_says_where_the_fifos_are_and_what_is_to_be_torn() -> None:
    torn = Torn([Path("/disk/store/1.seg"), Path("/disk/store/2.seg")], 7, 3, [1, 3])
    read = tomllib.loads(configuration(Path("/a/asked"), Path("/a/answered"), torn))
    assert read["faults"] == {"fifo_path": "/a/asked", "fifo_path_completed": "/a/answered"}
    fault = {"type": "torn-op", "occurrence": 7, "parts": 3, "persist": [1, 3]}
    assert read["injection"] == [{**fault, "file": f"/disk/store/{number}.seg"} for number in (1, 2)]
    assert "injection" not in tomllib.loads(configuration(Path("/a/asked"), Path("/a/answered"), None))


def test_nothing_before_its_options_looks_like_one_to_lazyfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a path that contains `-o` for an option, as a random name may."""
    monkeypatch.setenv(VARIABLE, sys.executable)
    line = command(Path("/tmp/crash-ox/mount"), Path("/tmp/crash-ox/root"))
    assert line[line.index("--config-path") + 1] == "config"
    assert line[-2:] == ["-o", "modules=subdir,subdir=/tmp/crash-ox/root,auto_unmount"]


def test_without_the_program_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere/lazyfs")
    words = lacking()
    assert words is not None
    assert "RAFTSTORE_LAZYFS" in words
    assert "libtoml11-dev" in words


def test_a_run_without_the_program_says_that_it_skipped_it() -> None:
    done = crash("--seconds", "0.1", program="/nowhere/lazyfs")
    assert done.returncode == 0, done.stderr
    (outcome,) = msgspec.json.decode(done.stdout, type=Report).outcomes
    assert [note for note in outcome.tally.notes if note.startswith("lazyfs: needs the program lazyfs")]


@pytest.mark.parametrize("backend", ["segmented", "rocksdb"])
def test_of_a_torn_write_some_part_is_kept_and_some_part_is_lost(tmp_path: Path, backend: str) -> None:
    newest = TORN_FILES[backend].replace("*", "000009")
    for name in (newest, TORN_FILES[backend].replace("*", "000002")):
        (tmp_path / name).touch()
    found = [torn for seed in range(50) if (torn := choose_torn(Random(seed), backend, tmp_path)) is not None]
    assert 5 < len(found) < 45
    assert {torn.files[0].name for torn in found} == {newest}
    assert {torn.files[1].name for torn in found} == {TORN_FILES[backend].replace("*", "000010")}
    assert all(0 < len(torn.persist) < torn.parts for torn in found)
    assert all(set(torn.persist) <= set(range(1, torn.parts + 1)) for torn in found)


def test_nothing_is_torn_where_a_backend_counts_on_whole_sectors(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").touch()
    assert {choose_torn(Random(seed), "lmdb", tmp_path) for seed in range(20)} == {None}


# --- with the program --------------------------------------------------------------------------------------


def crash(*arguments: str, program: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command, for this method on segmented."""
    line = [sys.executable, "-m", "raftstore.testing.crash", "--backend", "segmented", "--method", "lazyfs"]
    environment = dict(os.environ) if program is None else {**os.environ, VARIABLE: program}
    return subprocess.run(
        [*line, "--lanes", "1", "--seed", "3", "--json", *arguments],
        capture_output=True,
        check=False,
        timeout=600,
        env=environment,
    )


needs_lazyfs = pytest.mark.skipif(lacking() is not None, reason=f"needs {lacking()}")


@needs_lazyfs
@pytest.mark.backend("segmented")
def test_what_lazyfs_drops_was_not_acknowledged_and_planted_bugs_are_caught() -> None:
    done = crash("--seconds", "1")
    assert done.returncode == 0, done.stdout
    (outcome,) = msgspec.json.decode(done.stdout, type=Report).outcomes
    assert outcome.tally.done["power cuts by LazyFS"] > 0
    assert {planted.name for planted in outcome.tally.planted} >= {"no fsync"}


@needs_lazyfs
def test_what_was_not_synced_is_gone_and_what_was_is_there(tmp_path: Path) -> None:
    with LazyFs(tmp_path) as disk:
        for name, is_synced in (("synced", True), ("not", False)):
            fd = os.open(disk.path / name, os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"words")
            if is_synced:
                os.fsync(fd)
            os.close(fd)
        disk.clear()
        assert (disk.path / "synced").read_bytes() == b"words"
        assert (disk.path / "not").read_bytes() == b""


@needs_lazyfs
def test_where_lazyfs_is_gone_nobody_can_make_a_new_store(tmp_path: Path) -> None:
    with LazyFs(tmp_path) as disk:
        disk.unmount()
        for name in STORES:
            with pytest.raises(NotADirectoryError):
                (disk.path / name / "store").mkdir(parents=True)


@needs_lazyfs
def test_a_torn_write_ends_the_program_and_leaves_its_parts(tmp_path: Path) -> None:
    with LazyFs(tmp_path) as disk:
        disk.unmount()
        disk.mount(Torn([disk.root / "other", disk.root / "file"], 2, 2, [2]))
        fd = os.open(disk.path / "file", os.O_CREAT | os.O_WRONLY)
        os.pwrite(fd, b"before", 0)
        with suppress(OSError):
            os.pwrite(fd, b"1" * 100 + b"2" * 100, 6)
        with suppress(OSError):
            os.close(fd)
        eventually(lambda: not disk.is_alive, "LazyFS died")
        assert (disk.root / "file").read_bytes() == bytes(106) + b"2" * 100


PROGRAM = """
import signal, sys, time
from pathlib import Path
from raftstore.testing.crash.lazyfs_mount import LazyFs
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
with LazyFs(Path(sys.argv[1])):
    print("mounted", flush=True)
    time.sleep(100)
"""


@needs_lazyfs
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_process_nothing_stays_mounted(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        assert is_mounted(tmp_path / "lazyfs" / "mount")
        process.send_signal(number)
        process.wait(600)
    eventually(lambda: not is_mounted(tmp_path / "lazyfs" / "mount"), "it was unmounted")
    eventually(lambda: not running_below(tmp_path), "the program ended")


def running_below(directory: Path) -> list[str]:
    """Processes whose command names a path there."""
    lines: list[str] = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_text(errors="replace"))
        except OSError:  # it has just ended
            continue
    return [line for line in lines if str(directory) in line]
