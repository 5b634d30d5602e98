"""A store becomes a journal that PySyncObj itself reads, or nothing does; and programs run with `install`."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pysyncobj")

from pysyncobj.journal import FileJournal  # type: ignore[import-untyped,unused-ignore]

import raftstore
from raftstore.adapters.pysyncobj import RaftStoreJournal, export_journal, exporting, import_journal
from raftstore.adapters.pysyncobj.journal_file import meta_path, read_entries
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import ConfigError, CorruptionError, EntryTooLargeError, FormatError, StoreLockedError

pytestmark = pytest.mark.backend("segmented")
TIMEOUT_S = 600


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"segmented://{tmp_path}/raft?segment_bytes=64KiB&lock_timeout_ms=50"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "n1.journal"


def written(url: str, *, first: int = 1) -> None:
    """The first entry of term 0, the others of 2 and 4; 21 are committed; n2 got the vote."""
    journal = RaftStoreJournal(url)
    for index in range(first, 26):
        journal.add(b"command %d" % index, index, 0 if index == 1 else 2 if index <= 20 else 4)
    journal.setCurrentTerm(5, "n2:4321")
    journal.setRaftCommitIndex(21)
    journal._destroy()


def contents(journal: Any) -> tuple[object, ...]:
    """All that PySyncObj asks a journal for."""
    found = [*journal[:]], journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()
    journal._destroy()
    return found


def contents_of_file(path: Path) -> tuple[object, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # PySyncObj leaves its .meta open
        return contents(FileJournal(str(path)))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", [1, 12], ids=["whole", "compacted"])
def test_what_is_exported_is_what_pysyncobj_reads_and_what_comes_back(
    tmp_path: Path, url: str, target: Path, first: int
) -> None:
    written(url, first=first)
    found = export_journal(url, target)
    assert (found.path, found.anchor.index, found.last) == (target, first - 1, LogId(4, 25))
    assert found.hard_state == HardState(5, "n2:4321", 21)
    assert contents_of_file(target) == contents(RaftStoreJournal(url))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1.journal", "n1.journal.meta", "raft"]
    again = f"segmented://{tmp_path}/again"
    import_journal(target, again)
    assert contents(RaftStoreJournal(again)) == contents(RaftStoreJournal(url))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_without_entries_keeps_term_and_vote(url: str, target: Path) -> None:
    journal = RaftStoreJournal(url)
    journal.setCurrentTerm(3, None)
    journal._destroy()
    export_journal(url, target)
    assert contents_of_file(target) == ([], 3, None, 1)


@pytest.mark.parametrize("name", ["n1.journal", "n1.journal.meta", "n1.journal.exporting"])
def test_a_file_that_is_there_is_not_touched(tmp_path: Path, url: str, target: Path, name: str) -> None:
    written(url)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="there is something at"):
        export_journal(url, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "raft"])
    assert (tmp_path / name).read_bytes() == b"mine"


def nothing_made(target: Path) -> bool:
    return not [path for path in target.parent.iterdir() if path.name.startswith(target.name)]


def test_a_journal_that_cannot_take_its_name_leaves_no_meta_behind(
    url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySyncObj would start empty beside it, and export would refuse to try again."""
    rename = Path.rename

    def refuse(source: Path, to: Path) -> Path:
        if to == target:
            raise OSError("no")
        return rename(source, to)

    written(url)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        export_journal(url, target)
    assert nothing_made(target)


@pytest.mark.parametrize("has_dump", [True, False])
def test_the_command_says_where_the_dump_is_without_which_the_beginning_is_gone(
    tmp_path: Path, url: str, target: Path, has_dump: bool
) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from raftstore.cli.app import app

    written(url, first=12)
    dump = tmp_path / "raft.dump"
    if has_dump:
        dump.write_bytes(b"a dump")
    done = CliRunner().invoke(app, ["export-pysyncobj", url, str(target)])
    assert done.exit_code == 0, done.output
    assert (str(dump) in done.output) == has_dump
    assert "fullDumpFile" in done.output


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, url: str, target: Path) -> None:
    with pytest.raises(ConfigError):
        export_journal(url, target)
    assert [*tmp_path.iterdir()] == []


def test_a_store_whose_node_runs_is_refused(url: str, target: Path) -> None:
    with raftstore.open(url), pytest.raises(StoreLockedError):
        export_journal(url, target)
    assert nothing_made(target)


@pytest.mark.parametrize("kind", ["entry", "emptied"])
def test_a_store_of_another_library_is_refused(url: str, target: Path, kind: str) -> None:
    with raftstore.open(url) as log:
        log.append([Entry(1, 1, b"x", kind=1 if kind == "entry" else 0)])
        if kind == "emptied":
            log.purge(1)
    with pytest.raises(FormatError):
        export_journal(url, target)
    assert nothing_made(target)


def test_a_log_that_pysyncobjs_file_cannot_hold_is_refused_before_anything_is_written(
    url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(url)
    monkeypatch.setattr(exporting, "_write", None)
    monkeypatch.setattr(exporting, "FILE_BYTES_MAX", 40 + 25 * (24 + 9))
    with pytest.raises(EntryTooLargeError, match="write a dump"):
        export_journal(url, target)
    assert nothing_made(target)


def test_the_size_that_is_foreseen_is_the_one_that_is_written(
    url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(url)
    export_journal(url, target)
    end = exporting.HEADER_BYTES + sum(
        exporting.ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in read_entries(target)
    )
    assert int.from_bytes(target.read_bytes()[36:40], "little") == end


@pytest.mark.parametrize("damage", ["entry", "vote"])
def test_a_file_that_reads_back_otherwise_never_appears(
    url: str, target: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    written(url)
    write = exporting._write

    def write_wrongly(log: raftstore.RaftLog, building: Path) -> None:
        write(log, building)
        path = building if damage == "entry" else meta_path(building)
        text = b"command 20" if damage == "entry" else b"n2:4321"
        path.write_bytes(path.read_bytes().replace(text, text[:-1] + b"X"))

    monkeypatch.setattr(exporting, "_write", write_wrongly)
    with pytest.raises(CorruptionError, match="read back"):
        export_journal(url, target)
    assert nothing_made(target)


# --- from the shell -----------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_the_command_says_what_was_moved(url: str, target: Path) -> None:
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    written(url)
    command = ["-c", "from raftstore.cli import main; main()", "export-pysyncobj"]
    done = run(*command, url, target)
    assert done.returncode == 0, done.stderr
    assert "entries 1..25, term 5, vote n2:4321, commit index 21" in done.stdout
    again = run(*command, url, target)
    assert (again.returncode, again.stdout) == (2, "")
    assert "nothing was exported: there is something at" in again.stderr


PROGRAM = """
import sys, time, pysyncobj
class Word(pysyncobj.SyncObj):
    word = None
    @pysyncobj.replicated
    def put(self, word): self.word = word
assert __name__ == "__main__" and sys.argv[1:] == ["--store", "mine"], sys.argv
node = Word("127.0.0.1:%d", [], pysyncobj.SyncObjConf(journalFile=%r, autoTick=False, bindAddress=None))
node.put("green")
while node.word is None: node.doTick()
node.destroy()
"""


def test_a_program_is_run_unchanged_with_its_journal_in_a_store(tmp_path: Path) -> None:
    from raftstore.demo.cluster import free_ports

    program, journal = tmp_path / "program.py", tmp_path / "n1.journal"
    program.write_text(PROGRAM % (free_ports(1)[0], str(journal)))
    wrapper = ["-m", "raftstore.adapters.pysyncobj", "--store", f"segmented://{tmp_path}/{{name}}.store"]
    done = run(*wrapper, program, "--store", "mine")
    assert done.returncode == 0, done.stderr
    assert not journal.exists()
    with raftstore.open(f"segmented://{journal}.store?create=false") as log:
        assert any(b"green" in entry.data for entry in log.scan())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-program"], "there is no program no-such-program"),
        (["/no/such/program"], "there is no program /no/such/program"),
        (["--store", "nonsense://{path}", __file__], "nonsense"),
        (["--store", "segmented://{path}?no_such_option=1", __file__], "no_such_option"),
    ],
)
def test_what_cannot_be_run_exits_with_2_and_says_why(arguments: list[str], message: str) -> None:
    done = run("-m", "raftstore.adapters.pysyncobj", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_command_is_found_beside_the_python_that_runs(tmp_path: Path) -> None:
    done = run("-m", "raftstore.adapters.pysyncobj", "syncobj_admin", "-help")
    assert "usage" in (done.stdout + done.stderr).lower()
