"""`raftstore inspect` and `raftstore verify`, and the frame of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftstore import registry
from raftstore.backend import BackendStats, Damage, DiskBackend, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.cli import main
from raftstore.cli.ending import interruptible
from raftstore.config import load
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import BackendMissingError, CorruptionError, FormatError, StoreLockedError
from raftstore.hardstate import encode_hard_state, encode_meta
from raftstore.lock import StoreLock, held_shared
from raftstore.store import FORMAT, LOCK, WITNESS, open_store
from raftstore.witness import SLOT_BYTES

pytest.importorskip("typer")
pytest.importorskip("rich")

Run = Callable[..., tuple[int, str, str]]

OPTIONS = {"segmented": "segment_bytes=1MiB", "lmdb": "map_bytes=16MiB&ballast_bytes=64KiB", "rocksdb": ""}
REAL = [pytest.param(name, marks=pytest.mark.backend(name)) for name in OPTIONS]
PAYLOAD = bytes(range(64, 128))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raftstore", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_the_version_is_that_of_the_installed_package(run: Run) -> None:
    assert run("--version") == (0, f"raftstore {version('raftstore')}\n", "")


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-W", "error", "-m", "raftstore", "inspect"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Missing argument" in done.stderr


def fill(path: Path, backend: str, *, clean: bool = True) -> None:
    """A store of 40 entries in two terms, ten of them purged, with hard state and metadata."""
    store = open_store(load(f"{backend}://{path}?{OPTIONS.get(backend, '')}"))
    entries = [Entry(1 if index <= 20 else 3, index, PAYLOAD * 4) for index in range(1, 41)]
    state, meta = encode_hard_state(HardState(3, "n2", 12)), encode_meta({"node": b"12345"})
    store.backend.write(WriteBatch(1, entries=entries))
    store.backend.write(WriteBatch(2, anchor=LogId(1, 10), hard_state=state, meta=meta))
    if clean:
        store.backend.maintain()
    store.witness(2, clean=clean)
    store.close()


def snapshot(path: Path) -> dict[str, tuple[int, int, bytes | None]]:
    return {
        str(child.relative_to(path)): (
            child.lstat().st_mtime_ns,
            child.lstat().st_ino,
            child.read_bytes() if child.is_file() else None,
        )
        for child in [path, *path.rglob("*")]
    }


# --- real stores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", REAL)
def test_verify_of_a_sound_store_checks_every_entry_and_exits_with_0(
    tmp_path: Path, run: Run, backend: str
) -> None:
    fill(tmp_path / "s", backend)
    status, out, err = run("verify", tmp_path / "s")
    assert (status, err) == (0, "")
    assert out.startswith(f"clean: {tmp_path / 's'} ({backend}), 30 entries checked")


@pytest.mark.parametrize("backend", REAL)
def test_inspect_shows_what_a_store_holds(tmp_path: Path, run: Run, backend: str) -> None:
    fill(tmp_path / "s", backend)
    status, out, _ = run("inspect", tmp_path / "s")
    assert status == 0
    for text in (
        f"{backend}, layout version 1",
        "30, indexes 11..40",
        "up to index 10, term 1",
        "1 from index 11, 3 from index 21",
        "3, voted for n2",
        "node (5 bytes)",
        "write 2 was durable, closed cleanly",
    ):
        assert text in out


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("backend", REAL)
def test_scripts_get_the_same_json_from_every_backend(
    tmp_path: Path, run: Run, backend: str, command: str
) -> None:
    fill(tmp_path / "s", backend)
    status, out, _ = run(command, tmp_path / "s", "--json")
    shown = json.loads(out)
    assert status == 0
    assert {key: shown[key] for key in ("path", "state", "backend", "version", "damage")} == {
        "path": str(tmp_path / "s"),
        "state": "clean",
        "backend": backend,
        "version": 1,
        "damage": [],
    }
    assert shown["hard_state"] == {"term": 3, "voted_for": "n2", "commit": 12}
    assert shown["meta_bytes"] == {"node": 5}
    assert shown["acknowledged_missing"] == "no"
    assert shown["log"]["anchor"] == {"term": 1, "index": 10}
    assert shown["log"]["last"] == {"term": 3, "index": 40}
    assert (shown["log"]["first_index"], shown["log"]["entries"], shown["log"]["write_number"]) == (11, 30, 2)
    assert shown["log"]["term_runs"] == [{"term": 1, "index": 11}, {"term": 3, "index": 21}]
    assert (shown["witness"]["number"], shown["witness"]["clean"]) == (2, True)
    assert shown["stats"]["files"] > 0
    assert command == "inspect" or shown["entries_checked"] == 30


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("backend", REAL)
def test_looking_changes_not_a_byte_nor_a_time_nor_a_name(
    tmp_path: Path, run: Run, backend: str, clean: bool
) -> None:
    fill(tmp_path / "s", backend, clean=clean)
    before = snapshot(tmp_path)
    assert run("verify", tmp_path / "s")[0] == 0
    assert run("inspect", tmp_path / "s")[0] == 0
    assert snapshot(tmp_path) == before


def flip(root: Path, pattern: bytes) -> None:
    """Change one bit in every place below `root` that holds `pattern`."""
    found = 0
    for file in filter(Path.is_file, root.rglob("*")):
        data = bytearray(file.read_bytes())
        at = data.find(pattern)
        while at >= 0:
            found += 1
            data[at] ^= 1
            at = data.find(pattern, at + 1)
        file.write_bytes(data)
    assert found


@pytest.mark.parametrize("backend", REAL)
def test_a_flipped_bit_of_a_payload_is_found_by_verify_and_changes_nothing(
    tmp_path: Path, run: Run, backend: str
) -> None:
    fill(tmp_path / "s", backend)
    flip(tmp_path / "s" / backend, PAYLOAD)
    before = snapshot(tmp_path)
    status, out, _ = run("verify", tmp_path / "s")
    assert status == 1
    assert "damaged" in out
    assert "Nothing was changed" in out
    assert snapshot(tmp_path) == before
    status, out, _ = run("verify", tmp_path / "s", "--json")
    assert status == 1
    assert json.loads(out)["state"] == "damaged"
    assert json.loads(out)["damage"][0]["message"]


@pytest.mark.parametrize("backend", REAL)
def test_a_store_that_is_open_cannot_be_looked_at_and_its_process_is_named(
    tmp_path: Path, run: Run, backend: str
) -> None:
    fill(tmp_path / "s", backend)
    store = open_store(load(f"{backend}://{tmp_path}/s?{OPTIONS[backend]}"))
    try:
        status, out, _ = run("verify", tmp_path / "s", "--json")
        assert status == 2
        assert json.loads(out)["pid"] == os.getpid()
        assert json.loads(out)["state"] == "could not look"
        status, out, err = run("inspect", tmp_path / "s")
        assert (status, out) == (2, "")
        assert err.startswith("could not look: ")
    finally:
        store.close()


# --- what surrounds an engine -----------------------------------------------------------------------------


class Told(DiskBackend):
    """An engine of one empty file, which examination says of what the test wants."""

    answer: Examination | Exception

    def __init__(self, path: Path) -> None:
        (path / "data").touch()

    @property
    def recovery(self) -> Recovery:
        return Recovery(number=2)

    def write(self, batch: WriteBatch) -> None:
        pass

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        raise LookupError(start)

    def maintain(self) -> None:
        pass

    def stats(self) -> BackendStats:
        return BackendStats(0, 0, 1)

    def close(self) -> None:
        pass

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        if isinstance(cls.answer, Exception):
            raise cls.answer
        return cls.answer


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    class Engine(Told):
        answer = sound()

    monkeypatch.setattr(registry, "backend_class", lambda _: Engine)
    monkeypatch.setattr(registry, "backend_names", lambda: ["told"])
    return Engine


@pytest.fixture
def store(tmp_path: Path, told: type[Told]) -> Path:
    fill(tmp_path / "s", "told")
    return tmp_path / "s"


def sound(**changes: Any) -> Examination:
    recovery = msgspec.structs.replace(Recovery(number=2, end_is_proved=True), **changes)
    return Examination(recovery, BackendStats(100, 10, 1))


def damage_of(run: Run, path: Path) -> list[dict[str, Any]]:
    """What verify says is damaged, in both forms."""
    status, out, _ = run("verify", path, "--json")
    shown = json.loads(out)
    assert shown["state"] == ("damaged" if status == 1 else "clean")
    assert run("verify", path)[0] == run("inspect", path)[0] == status
    found: list[dict[str, Any]] = shown["damage"]
    assert bool(found) == (status == 1)
    return found


def test_a_sound_store_of_any_registered_backend_is_clean(store: Path, run: Run) -> None:
    assert damage_of(run, store) == []


def test_a_damaged_format_file_is_damage(store: Path, run: Run) -> None:
    (store / FORMAT).write_bytes(b"{}")
    assert "FORMAT" in damage_of(run, store)[0]["file"]


def test_data_without_its_format_file_is_damage(store: Path, run: Run) -> None:
    (store / FORMAT).unlink()
    assert "FORMAT is missing" in damage_of(run, store)[0]["message"]


def test_a_format_file_without_its_data_is_damage(store: Path, run: Run) -> None:
    (store / "told" / "data").unlink()
    (store / "told").rmdir()
    assert "not the data" in damage_of(run, store)[0]["message"]


def test_a_store_whose_making_was_cut_short_is_clean_and_says_so(store: Path, run: Run) -> None:
    (store / "told").rename(store / "told.new")
    assert damage_of(run, store) == []
    assert "cut short" in run("verify", store)[1]


@pytest.mark.parametrize("name", [LOCK, FORMAT, WITNESS, "told"])
def test_a_link_in_a_store_is_damage_and_not_followed(
    store: Path, tmp_path: Path, run: Run, name: str
) -> None:
    (store / f"{name}.new").mkdir()
    (store / name).rename(tmp_path / "elsewhere")
    (store / name).symlink_to(tmp_path / "elsewhere")
    assert damage_of(run, store)


def test_a_missing_witness_is_damage(store: Path, run: Run) -> None:
    (store / WITNESS).unlink()
    assert "WITNESS" in damage_of(run, store)[0]["file"]


def test_a_witness_without_a_readable_slot_is_damage(store: Path, run: Run) -> None:
    (store / WITNESS).write_bytes(b"\xff" * 2 * SLOT_BYTES)
    assert "no slot" in damage_of(run, store)[0]["message"]


def test_one_unreadable_slot_of_the_witness_is_told_and_is_no_damage(store: Path, run: Run) -> None:
    with (store / WITNESS).open("r+b") as file:
        file.write(b"\xff")
    assert damage_of(run, store) == []
    assert "one slot" in run("verify", store)[1]


def test_a_log_that_ends_below_its_witness_is_damage(store: Path, told: type[Told], run: Run) -> None:
    told.answer = sound(number=1)
    assert "write 1, but write 2" in damage_of(run, store)[0]["message"]


def test_a_hard_state_that_cannot_be_decoded_is_damage(store: Path, told: type[Told], run: Run) -> None:
    for data in (b"", b"\x94\x01\x05\xa1\xff\x00", encode_hard_state(HardState(-1)), b"\xc1"):
        told.answer = sound(hard_state=data)
        assert "hard state" in damage_of(run, store)[0]["message"]


def test_metadata_that_cannot_be_decoded_is_damage(store: Path, told: type[Told], run: Run) -> None:
    for data in (b"", b"\x92\x01\x81\xa1\xff\xc4\x00"):
        told.answer = sound(meta=data)
        assert "metadata" in damage_of(run, store)[0]["message"]


def test_damage_that_the_engine_raises_keeps_its_place(store: Path, told: type[Told], run: Run) -> None:
    told.answer = CorruptionError("bad page", file=Path("data.mdb"), offset=7, first_index=3, last_index=5)
    (found,) = damage_of(run, store)
    assert (found["file"], found["offset"], found["first_index"], found["last_index"]) == (
        "data.mdb",
        7,
        3,
        5,
    )


def test_an_engine_that_would_refuse_without_a_word_is_damage(
    store: Path, told: type[Told], run: Run
) -> None:
    told.answer = Examination(None, BackendStats(0, 0, 0))
    assert "without saying why" in damage_of(run, store)[0]["message"]


def test_many_damaged_places_are_counted_and_json_names_them_all(
    store: Path, told: type[Told], run: Run
) -> None:
    places = [Damage(f"place {number}", "data", number, number) for number in range(50)]
    told.answer = msgspec.structs.replace(sound(), damage=places)
    assert len(damage_of(run, store)) == 50
    out = run("verify", store)[1]
    assert "place 19" in out
    assert "place 20" not in out
    assert "30 more" in out


def test_a_torn_tail_is_no_damage(store: Path, told: type[Told], run: Run) -> None:
    told.answer = sound(torn_bytes=99, end_is_proved=False)
    assert damage_of(run, store) == []
    assert "torn tail of 99 bytes" in run("verify", store)[1]


def test_text_from_a_store_cannot_steer_the_terminal(store: Path, told: type[Told], run: Run) -> None:
    evil = "[red]\x1b[2J\n\udcff"
    told.answer = msgspec.structs.replace(sound(notes=[evil]), damage=[Damage(evil, evil)])
    for command in ("verify", "inspect"):
        status, out, _ = run(command, store)
        assert status == 1
        assert "\x1b" not in out
        assert "[red]\\x1b[2J\\n\\udcff" in out
    assert json.loads(run("verify", store, "--json")[1])["notes"] == [evil]


# --- could not look ---------------------------------------------------------------------------------------


def test_where_there_is_no_store_nothing_can_be_said(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "file", "empty"):
        status, out, err = run("verify", tmp_path / name)
        assert (status, out) == (2, "")
        assert name in err
    assert sorted(child.name for child in tmp_path.iterdir()) == ["empty", "file"]
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "error", [FormatError("version 9"), BackendMissingError("pip install x"), PermissionError(13, "denied")]
)
def test_an_engine_that_cannot_be_looked_at_exits_with_2(
    store: Path, told: type[Told], run: Run, error: Exception
) -> None:
    told.answer = error
    status, out, err = run("verify", store)
    assert (status, out) == (2, "")
    assert str(error) in err
    status, out, _ = run("inspect", store, "--json")
    assert status == 2
    assert json.loads(out) == {
        "path": str(store),
        "state": "could not look",
        "reason": str(error),
        "pid": None,
    }


def test_lookers_share_a_store_and_keep_writers_out(store: Path) -> None:
    with held_shared(store / LOCK), held_shared(store / LOCK), pytest.raises(StoreLockedError):
        StoreLock(store / LOCK, 0)
    StoreLock(store / LOCK, 0).release()


def test_a_store_without_a_lock_file_can_be_looked_at_and_gets_none(store: Path, run: Run) -> None:
    (store / LOCK).unlink()
    assert damage_of(run, store) == []
    assert not (store / LOCK).exists()


# --- the frame --------------------------------------------------------------------------------------------


def test_no_argument_and_a_wrong_one_exit_with_2(run: Run) -> None:
    for arguments in ((), ("nosuch",), ("verify",), ("verify", "--nosuch", "/"), ("inspect", "/", "/")):
        assert run(*arguments)[0] == 2


def test_help_names_every_subcommand_without_importing_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    app = import_module("raftstore.cli.app")
    for name in app.COMMANDS:
        monkeypatch.setitem(sys.modules, f"raftstore.cli.{name}", None)
    status, out, _ = run("--help")
    assert status == 0
    for name in ("inspect", "verify", "demo", "compare"):
        assert name in app.COMMANDS
        assert f" {name} " in out


@pytest.mark.parametrize("name", ["inspect", "verify", "demo", "compare"])
def test_every_subcommand_has_its_own_help(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"raftstore {name}" in out
    assert "--json" in out


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_libraries_the_command_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.delitem(sys.modules, "raftstore.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    status, out, err = run("verify", "/")
    assert (status, out) == (2, "")
    assert err == f"the command raftstore needs {library}: pip install 'raftstore[cli]'\n"


def test_a_subcommand_without_its_library_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "raftstore.cli.verify", raising=False)
    monkeypatch.setitem(sys.modules, "raftstore.cli.looking", None)
    status, _, err = run("verify", "/")
    assert status == 2
    assert "pip install 'raftstore[all]'" in err


def test_an_error_that_nobody_foresaw_is_not_taken_for_damage(
    store: Path, told: type[Told], run: Run
) -> None:
    told.answer = RuntimeError("a bug")
    status, _, err = run("verify", store)
    assert status == 2
    assert "RuntimeError: a bug" in err


@pytest.mark.parametrize("command", ["demo", "torture", "compare", "verify"])
def test_a_terminal_that_lacks_a_character_still_shows_the_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from raftstore.cli import main; main()", command, "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "100"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Exit status: 0" in done.stdout


# --- ending early -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop_is_interrupted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop_twice_at_once_removes_what_it_made(number: signal.Signals) -> None:
    """As `timeout` and a terminal that is closed do it."""
    removed: list[str] = []

    def command() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            removed.append("it")

    with pytest.raises(KeyboardInterrupt), interruptible():
        command()
    assert removed


def test_a_command_under_nohup_goes_on_when_its_terminal_is_closed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
