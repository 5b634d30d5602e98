"""Journals that PySyncObj itself has written become stores, or nothing does."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pysyncobj")

import pysyncobj  # type: ignore[import-untyped,unused-ignore]
from pysyncobj.journal import FileJournal  # type: ignore[import-untyped,unused-ignore]
from pysyncobj_tools import StoreWords, Words, free_addresses, tick_until

import raftstore
from raftstore.adapters.pysyncobj import RaftStoreJournal, import_journal, importing
from raftstore.adapters.pysyncobj.journal_file import read_entries, read_hard_state
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import (
    ConfigError,
    CorruptionError,
    EntryTooLargeError,
    FormatError,
    StoreLockedError,
)

OPTIONS = {"segmented": "segment_bytes=64KiB&", "lmdb": "map_bytes=16MiB&ballast_bytes=64KiB&", "rocksdb": ""}
BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in OPTIONS]
HEADER_BYTES = 40
SIZE = struct.Struct("<I")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The first entry of term 0, nineteen of term 2, five of term 4; 21 are committed; n2 got the vote."""
    return written(tmp_path / "journal")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"segmented://{tmp_path}/stores/n1?segment_bytes=64KiB"


def written(path: Path, *, change: Callable[[Any], object] = lambda file: None) -> Path:
    file = FileJournal(str(path))
    for index in range(1, 26):
        file.add(b"command %d" % index, index, 0 if index == 1 else 2 if index <= 20 else 4)
    file.setRaftCommitIndex(21)
    file.setCurrentTerm(5, "n2:4321")
    change(file)
    file._destroy()
    return path


def contents(file: Any) -> tuple[object, ...]:
    """All that PySyncObj asks a journal for."""
    return [*file[:]], file.getCurrentTerm(), file.getVotedForNodeId(), file.getRaftCommitIndex()


def contents_of_file(path: Path) -> tuple[object, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # PySyncObj leaves its .meta open
        file = FileJournal(str(path))
    found = contents(file)
    file._destroy()
    return found


def contents_of_store(url: str) -> tuple[object, ...]:
    file = RaftStoreJournal(url)
    found = contents(file)
    file._destroy()
    return found


def meta(path: Path) -> Path:
    return path.with_name(path.name + ".meta")


def offset_of(path: Path, index: int) -> int:
    """Where the entry at `index` begins."""
    data, offset = path.read_bytes(), HEADER_BYTES
    for _ in range(1, index):
        offset += SIZE.unpack_from(data, offset)[0] + 2 * SIZE.size
    return offset


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in root.glob("journal*")}


def nothing_made(root: Path) -> bool:
    return not [*root.glob("stores/*")]


# --- what moves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
def test_log_term_vote_and_commit_index_move_and_the_files_stay(
    tmp_path: Path, journal: Path, backend: str, strategy: str
) -> None:
    url = f"{backend}://{tmp_path}/stores/n1?{OPTIONS[backend]}strategy={strategy}"
    before = snapshot(tmp_path)
    found = import_journal(journal, url)
    assert snapshot(tmp_path) == before
    assert contents_of_store(url) == contents_of_file(journal)
    assert (found.path, found.entries, found.last) == (tmp_path / "stores" / "n1", 25, LogId(4, 25))
    assert found.hard_state == HardState(5, "n2:4321", 21)
    assert [file.name for file in (tmp_path / "stores").iterdir()] == ["n1"]


def test_a_compacted_journal_keeps_its_indexes(tmp_path: Path, url: str) -> None:
    journal = written(tmp_path / "journal", change=lambda file: file.deleteEntriesTo(9))
    found = import_journal(journal, url)
    assert contents_of_store(url) == contents_of_file(journal)
    assert (found.anchor, found.entries) == (LogId(0, 9), 16)


def test_what_was_deleted_at_the_end_does_not_come_back(tmp_path: Path, url: str) -> None:
    journal = written(tmp_path / "journal", change=lambda file: file.deleteEntriesFrom(22))
    assert import_journal(journal, url).last == LogId(4, 22)
    assert contents_of_store(url) == contents_of_file(journal)


def test_a_journal_without_entries_moves_term_and_vote(tmp_path: Path, url: str) -> None:
    file = FileJournal(str(tmp_path / "journal"))
    file.setRaftCommitIndex(1)
    file.setCurrentTerm(3, "n3:1")
    file._destroy()
    assert import_journal(tmp_path / "journal", url).entries == 0
    assert contents_of_store(url) == ([], 3, "n3:1", 1)


def test_entries_are_moved_in_bounded_pieces(
    tmp_path: Path, journal: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [*importing._chunks(read_entries(journal), 25)]
    assert [len(chunk) for chunk in chunks] == [2] * 12 + [1]
    assert [entry for chunk in chunks for entry in chunk] == [*read_entries(journal)]
    monkeypatch.setattr(importing, "CHUNK_ENTRIES", 4)
    assert [len(chunk) for chunk in importing._chunks(read_entries(journal), 10**9)] == [4] * 6 + [1]
    import_journal(journal, url)
    assert contents_of_store(url) == contents_of_file(journal)


def test_a_single_large_entry_is_a_piece_of_its_own() -> None:
    entries = [Entry(1, index, b"x" * 100) for index in (1, 2)]
    assert [*importing._chunks(entries, 10)] == [[entries[0]], [entries[1]]]


def test_the_term_is_never_below_the_last_entry_as_in_pysyncobj(journal: Path, url: str) -> None:
    """Versions before 0.3.16 stored neither term nor vote."""
    meta(journal).write_bytes(pickle.dumps({"raftCommitIndex": 3}, 2))
    assert import_journal(journal, url).hard_state == HardState(4, None, 3)


@pytest.fixture
def address() -> str:
    return free_addresses(1)[0]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_goes_on_in_the_store_where_its_file_ended(tmp_path: Path, url: str, address: str) -> None:
    old = Words(address, [], pysyncobj.SyncObjConf(autoTick=False, journalFile=str(tmp_path / "journal")))
    tick_until([old], old._isLeader)
    for word in ("a", "b", "c"):
        old.put(word)
    tick_until([old], lambda: old.words == ["a", "b", "c"])
    term = old.raftCurrentTerm
    old.destroy()
    import_journal(tmp_path / "journal", url)
    new = StoreWords(address, [], pysyncobj.SyncObjConf(autoTick=False), store=url)
    assert new.raftCurrentTerm == term
    tick_until([new], lambda: new._isLeader() and new.words == ["a", "b", "c"])
    new.put("d")
    tick_until([new], lambda: new.words == ["a", "b", "c", "d"])
    new.destroy()


# --- what is refused ----------------------------------------------------------------------------------------


def cut_at(index: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, offset_of(path, index) + 9)


def overwritten(index: int, at: int, data: bytes) -> Callable[[Path], None]:
    return lambda path: overwrite(path, offset_of(path, index) + at, data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut_at(20), "the header says that entries end at offset"),
    "header lost": (lambda path: overwrite(path, 36, SIZE.pack(3)), "entries end at offset 3"),
    "zeroed": (overwritten(7, 0, bytes(100)), "entry 7 and all after it are missing: its size, 0 bytes"),
    "too long": (overwritten(7, 0, SIZE.pack(10**6)), "entry 7 and all after it are missing: its size"),
    "past the end": (overwritten(25, 0, SIZE.pack(30)), "entry 25 and all after it are missing: its size"),
    "first entry": (overwritten(1, 0, SIZE.pack(2)), "the first entry and all after it are missing"),
    "sizes differ": (
        overwritten(7, 0, SIZE.pack(30)),
        "entry 7 and .*: the sizes before and after it differ",
    ),
    "a hole": (overwritten(7, 4, SIZE.pack(9)), "entry 7 and all after it are missing: index 9 stands there"),
    "no index": (overwritten(1, 4, SIZE.pack(0)), "the first entry .*: it has index 0 and term 0"),
    "huge term": (
        overwritten(7, 12, b"\xff" * 8),
        "entry 7 .*: it has index 7 and term 18446744073709551615",
    ),
    "term goes down": (overwritten(21, 12, SIZE.pack(1)), r"entry 21 .*: its term is 1, after 2; .*0\.3\.16"),
    "no meta": (lambda path: meta(path).unlink(), r"\.meta is missing: .* vote twice"),
    "empty meta": (lambda path: meta(path).write_bytes(b""), "term and vote cannot be read: ValueError"),
    "torn meta": (lambda path: os.truncate(meta(path), 20), "term and vote cannot be read"),
    "huge meta": (lambda path: os.truncate(meta(path), 2 << 20), "more than 1048576 bytes"),
    "list": (lambda path: meta(path).write_bytes(pickle.dumps([1], 2)), "it holds a list"),
    "text": (
        lambda path: meta(path).write_bytes(pickle.dumps({"currentTerm": "5"}, 2)),
        "currentTerm is '5'",
    ),
    "below 0": (
        lambda path: meta(path).write_bytes(pickle.dumps({"currentTerm": -1}, 2)),
        "currentTerm is -1",
    ),
    "vote": (
        lambda path: meta(path).write_bytes(pickle.dumps({"votedForNodeId": [1] * 2 + [...]}, 2)),
        "meta",
    ),
    "committed": (
        lambda path: meta(path).write_bytes(pickle.dumps({"raftCommitIndex": 28}, 2)),
        "entries up to 28 are committed, but those after 25 are missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_named_and_no_store_is_made(
    tmp_path: Path, journal: Path, url: str, name: str
) -> None:
    damage, message = DAMAGES[name]
    damage(journal)
    with pytest.raises(CorruptionError, match=message) as caught:
        import_journal(journal, url)
    assert str(caught.value.file).startswith(str(journal))
    assert nothing_made(tmp_path)


def test_damage_is_told_with_offset_and_index(journal: Path, url: str) -> None:
    overwrite(journal, offset_of(journal, 7), bytes(100))
    with pytest.raises(CorruptionError) as caught:
        import_journal(journal, url)
    assert (caught.value.offset, caught.value.first_index) == (offset_of(journal, 7), 7)


def test_a_journal_that_was_cut_anywhere_is_whole_or_refused(journal: Path) -> None:
    whole = [*read_entries(journal)]
    end = offset_of(journal, 26)
    for length in range(journal.stat().st_size, 0, -7):
        os.truncate(journal, length)
        if length >= end:
            assert [*read_entries(journal)] == whole
        else:
            with pytest.raises((CorruptionError, FormatError)):
                list(read_entries(journal))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL"],)


def test_nothing_in_the_meta_file_is_run(
    tmp_path: Path, journal: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    meta(journal).write_bytes(pickle.dumps({"currentTerm": Evil()}, 2))
    with pytest.raises(CorruptionError, match=r"it names posix\.mkdir, and only plain values are read"):
        import_journal(journal, url)
    assert not (tmp_path / "evil").exists()


def shared(depth: int) -> object:
    """A value of few bytes as a pickle, and of 2 ** `depth` parts when it is written out."""
    value: object = ()
    for _ in range(depth):
        value = (value, value)
    return value


BOMBS = {
    "a place in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a place in the memo, as text": b"(dp2000000000\n.",
    "bytes of a length": b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b"x.",
    "changing bytes of a length": b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b"x.",
    "a vote that shares itself": pickle.dumps({"votedForNodeId": shared(60)}, 4),
    "a term that shares itself": pickle.dumps({"currentTerm": shared(60)}, 4),
    "a vote of many digits": pickle.dumps({"votedForNodeId": 10**9000}, 4),
    "a term of many digits": pickle.dumps({"currentTerm": 10**9000}, 4),
    "a deep vote": b"\x80\x02}U\x0evotedForNodeId" + b"]" * 20_000 + b"a" * 19_999 + b"s.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_meta_file_takes_no_memory_and_no_time_by_what_it_says(journal: Path, name: str) -> None:
    meta(journal).write_bytes(BOMBS[name])
    tracemalloc.start()
    with pytest.raises(CorruptionError, match="term and vote cannot be read"):
        read_hard_state(journal, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize(
    "data", [b"", b"PYSYNCOBJ", b"SQLite format 3\0" * 9], ids=["empty", "short", "other"]
)
def test_another_file_is_no_journal(tmp_path: Path, journal: Path, url: str, data: bytes) -> None:
    journal.write_bytes(data)
    with pytest.raises(FormatError, match="is no journal of PySyncObj"):
        import_journal(journal, url)
    assert nothing_made(tmp_path)


def test_a_newer_journal_format_is_refused(journal: Path, url: str) -> None:
    overwrite(journal, 32, SIZE.pack(2))
    with pytest.raises(FormatError, match="has journal format 2; known is 1"):
        import_journal(journal, url)


def test_a_store_that_exists_is_not_touched(tmp_path: Path, journal: Path, url: str) -> None:
    with raftstore.open(url) as log:
        log.propose(1, [b"mine"])
    with pytest.raises(ConfigError, match="there is something at"):
        import_journal(journal, url)
    with raftstore.open(url) as log:
        assert log.last == LogId(1, 1)


def test_the_place_of_a_file_is_taken_and_that_of_an_empty_directory_is_free(
    tmp_path: Path, journal: Path, url: str
) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match="there is something at"):
        import_journal(journal, f"segmented://{journal}")
    assert snapshot(tmp_path) == before
    (tmp_path / "stores" / "n1").mkdir(parents=True)
    assert import_journal(journal, url).entries == 25


def test_what_an_interrupted_import_left_is_neither_used_nor_removed(
    tmp_path: Path, journal: Path, url: str
) -> None:
    left = tmp_path / "stores" / "n1.importing"
    left.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"n1\.importing is there: another import is running"):
        import_journal(journal, url)
    assert left.exists()
    left.rmdir()
    assert import_journal(journal, url).entries == 25


def test_a_journal_whose_node_still_runs_is_refused(
    tmp_path: Path, journal: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = importing._verify

    def verify_while_the_node_votes(*arguments: Any) -> None:
        verify(*arguments)
        meta(journal).write_bytes(pickle.dumps({"currentTerm": 6, "votedForNodeId": "n1:1"}, 2))

    monkeypatch.setattr(importing, "_verify", verify_while_the_node_votes)
    with pytest.raises(StoreLockedError, match="changed while it was read: stop its node"):
        import_journal(journal, url)
    assert nothing_made(tmp_path)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda entries: [*entries[:6], Entry(2, 7, b"other"), *entries[7:]],
        lambda entries: entries[:-1],
        lambda entries: [*entries, Entry(4, 26, b"more")],
    ],
    ids=["other", "fewer", "more"],
)
def test_a_store_that_reads_back_otherwise_never_appears(
    tmp_path: Path,
    journal: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    spoiled: Callable[[list[Entry]], list[Entry]],
) -> None:
    monkeypatch.setattr(importing, "_chunks", lambda entries, _: [spoiled([*entries])])
    with pytest.raises(CorruptionError, match=r"entry \d+ was read back otherwise"):
        import_journal(journal, url)
    assert nothing_made(tmp_path)


def test_a_vote_that_reads_back_otherwise_never_appears(
    tmp_path: Path, journal: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raftstore.RaftLog, "save_hard_state", lambda log, state: None)
    with pytest.raises(CorruptionError, match="read back was HardState"):
        import_journal(journal, url)
    assert nothing_made(tmp_path)


def test_an_entry_above_the_limits_of_the_store_is_refused(tmp_path: Path, journal: Path, url: str) -> None:
    with pytest.raises(EntryTooLargeError, match="entry_bytes_max is 5"):
        import_journal(journal, f"{url}&entry_bytes_max=5")
    assert nothing_made(tmp_path)


# --- from the shell -----------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    from raftstore.cli import main

    monkeypatch.setattr(sys, "argv", ["raftstore", "import-pysyncobj", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_command_says_what_was_moved(
    tmp_path: Path,
    journal: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, journal, url) == 0
    out, err = capsys.readouterr()
    assert "entries 1..25, term 5, vote n2:4321, commit index 21" in out
    assert (str(tmp_path / "stores" / "n1") in out, err) == (True, "")
    assert contents_of_store(url) == contents_of_file(journal)


def test_the_exit_status_tells_a_damaged_journal_from_one_that_cannot_be_moved(
    journal: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, f"{journal}.none", url) == 2
    assert run(monkeypatch, journal, "nonsense://") == 2
    meta(journal).unlink()
    assert run(monkeypatch, journal, url) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("nothing was imported: ") == 3
    assert "Traceback" not in err
