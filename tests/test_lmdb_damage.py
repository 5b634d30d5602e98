"""A damaged LMDB store is refused or told, wherever the damage lies, and never read as something else."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

pytest.importorskip("lmdb")

import lmdb
import msgspec
from lmdb_tools import opened, value_of
from raftstore_lmdb import LmdbBackend, _examine
from raftstore_lmdb._checksums import checksum
from raftstore_lmdb._head import read_head
from raftstore_lmdb._records import (
    BOUNDS,
    ENTRY_OVERHEAD,
    Bounds,
    decode_bounds,
    decode_entry,
    encode_bounds,
    encode_key,
)

from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.errors import CorruptionError, FormatError

pytestmark = pytest.mark.backend("lmdb")

PAGE = 4096
TRANSACTION_ID = 16 + 24 + 2 * 48 + 8
"""Where it lies in a meta page."""
OVERFLOW = 4
"""The flag of a page that holds a large value, or begins one."""
ENTRIES = 60


@pytest.fixture
def path(path: Path) -> Path:
    """A store of 60 entries of three terms, half of them larger than a page, after a purge and a vote."""
    fill(path)
    return path


def fill(path: Path) -> None:
    with closing(opened(path)) as backend:
        for number in range(1, 31):
            pair = [entry(2 * number - 1), entry(2 * number)]
            backend.write(WriteBatch(number, entries=pair, hard_state=b"vote %d" % number, meta=b"m" * 3000))
        backend.write(WriteBatch(31, anchor=entry(10).id))


def entry(index: int) -> Entry:
    return Entry(1 + 2 * (index // 25), index, Random(index).randbytes(50 if index % 2 else 5000), index % 3)


def data(path: Path) -> Path:
    return path / "data.mdb"


def places(path: Path, content: bytes) -> list[int]:
    """Where in the data file `content` lies; there may be stale copies."""
    return [match.start() for match in re.finditer(re.escape(content), data(path).read_bytes())]


def overwrite(file: Path, offset: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(content)


LOOK_AT_DAMAGED_COPIES = """
import sys
from pathlib import Path
from random import Random
from zlib import crc32
from raftstore.errors import CorruptionError, FormatError
from raftstore_lmdb import LmdbBackend
from test_lmdb_damage import OVERFLOW, PAGE, entry

def look(path):
    "True if every byte was right, False if something was refused. Anything else is an error."
    try:
        backend = LmdbBackend(path, ballast_bytes=2**16)
    except (CorruptionError, FormatError):
        return False
    try:
        found = backend.recovery
        if found.number != 31:
            assert found.number == 30 and not found.end_is_proved, "an older state, silently"
            return False
        assert (found.anchor, found.last) == (entry(10).id, entry(60).id), "other bounds"
        assert (found.hard_state, found.meta) == (b"vote 30", b"m" * 3000), "other blobs"
        assert [run.term for run in found.term_runs] == [1, 3, 5], "other terms"
        return all([read(backend, index) for index in range(11, 61)])
    finally:
        backend.close()

def read(backend, index):
    try:
        assert backend.read(index, index + 1, None) == [entry(index)], "another entry"
    except CorruptionError:
        return False
    return True

def damages(original, pages, kind):
    random = Random(5)
    for page in range(2 if kind != "meta" else 0, pages if kind != "meta" else 2):
        begin = page * PAGE
        if kind == "meta":
            for bit in random.sample(range(8 * 168), 120):
                yield begin + bit // 8, bytes([original[begin + bit // 8] ^ 1 << bit % 8])
        elif kind == "zero":
            yield begin, bytes(PAGE)
        elif kind == "random":
            yield begin, random.randbytes(PAGE)
        elif kind == "other page":
            other = random.randrange(pages) * PAGE
            yield begin, original[other : other + PAGE]
        else:
            for _ in range(4):
                place = begin + random.randrange(16 if kind == "header" else PAGE)
                if kind == "header" or original[begin + 10] == OVERFLOW:
                    yield place, bytes([original[place] ^ 1 << random.randrange(8)])

path, pages, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
file = path / "data.mdb"
original = file.read_bytes()
told = count = 0
for place, content in damages(original, pages, kind):
    print("damage at", place, flush=True)
    file.write_bytes(original[:place] + content + original[place + len(content) :])
    told += not look(path)
    count += 1
print(told, count)
"""


@pytest.mark.parametrize("kind", ["meta", "zero", "random", "other page", "header", "payload"])
def test_no_damage_is_read_as_something_else_or_kills_the_process(path: Path, kind: str) -> None:
    """Free pages may be damaged without a word, and a few fields of LMDB's that opening does not use."""
    pages = read_head(data(path)).pages_used
    command = [sys.executable, "-c", LOOK_AT_DAMAGED_COPIES, str(path), str(pages), kind]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-100:] + done.stderr[-1000:]
    told, count = map(int, done.stdout.splitlines()[-1].split())
    assert told > count / 5


@pytest.mark.parametrize("missing", [1, PAGE, 20 * PAGE])
def test_a_file_shorter_than_its_meta_pages_say_is_refused(path: Path, missing: int) -> None:
    """LMDB would map it, and the first touch behind its end would kill the process."""
    os.truncate(data(path), read_head(data(path)).pages_used * PAGE - missing)
    with pytest.raises(CorruptionError, match="bytes are left") as caught:
        LmdbBackend(path)
    assert caught.value.file == data(path)
    assert caught.value.offset is not None


@pytest.mark.parametrize("size", [0, 1, 100, PAGE, PAGE + 20])
def test_a_stump_of_a_file_is_refused(path: Path, size: int) -> None:
    os.truncate(data(path), size)
    with pytest.raises(CorruptionError):
        LmdbBackend(path)
    assert LmdbBackend.examine(path, deep=True).damage


def newer_slot(path: Path) -> int:
    return read_head(data(path)).transaction % 2


@pytest.mark.parametrize("both", [True, False])
def test_a_zeroed_meta_page_is_refused(path: Path, both: bool) -> None:
    for slot in (0, 1) if both else (newer_slot(path),):
        overwrite(data(path), slot * PAGE, bytes(PAGE))
    with pytest.raises(CorruptionError):
        LmdbBackend(path)


@pytest.mark.parametrize("change", [-8, -6, -4, 2, 4, 1, -1])
def test_meta_pages_whose_transactions_do_not_follow_each_other_are_refused(path: Path, change: int) -> None:
    before = read_head(data(path)).transaction
    place = before % 2 * PAGE + TRANSACTION_ID
    overwrite(data(path), place, (before + change).to_bytes(8, sys.byteorder))
    with pytest.raises(CorruptionError):
        LmdbBackend(path)


def test_a_transaction_id_lowered_by_damage_is_not_taken_as_the_end(tmp_path: Path) -> None:
    """LMDB takes the page with the higher id. One bit makes a 10 an 8, and 9 follows upon 8, too."""
    with closing(LmdbBackend(tmp_path)) as backend:
        number = 0
        while backend._environment.info()["last_txnid"] < 10:
            number += 1
            backend.write(WriteBatch(number, hard_state=b"%d" % number))
    assert read_head(data(tmp_path)).transaction == 10
    overwrite(data(tmp_path), TRANSACTION_ID, (8).to_bytes(8, sys.byteorder))
    with closing(LmdbBackend(tmp_path)) as backend:
        assert backend.recovery.number == number - 1
        assert not backend.recovery.end_is_proved
        assert "the last write is lost" in backend.recovery.notes[0]


def test_a_missing_data_file_is_no_new_store(path: Path) -> None:
    data(path).unlink()
    with pytest.raises(CorruptionError, match=r"data\.mdb is missing"):
        LmdbBackend(path)
    assert LmdbBackend.examine(path, deep=False).recovery is None


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_plain_file_is_refused_without_touching_it(path: Path, name: str, kind: str) -> None:
    away = path.parent / "away"
    (path / name).rename(away)
    before = away.read_bytes()
    make = {"symlink": lambda at: at.symlink_to(away), "fifo": os.mkfifo, "directory": Path.mkdir}
    make[kind](path / name)
    with pytest.raises(CorruptionError, match="not a plain file"):
        LmdbBackend(path)
    assert LmdbBackend.examine(path, deep=True).damage
    assert away.read_bytes() == before


def test_a_file_of_lmdb_1_is_a_format_error(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), lib_version=1).close()
    with pytest.raises((FormatError, CorruptionError)):
        LmdbBackend(tmp_path)


def test_a_newer_format_version_is_named_beside_ours() -> None:
    record = bytearray(encode_bounds(Bounds(checksum=1)))
    record[4] = 9
    record[:4] = crc32(record[4:]).to_bytes(4, "big")
    with pytest.raises(FormatError, match="version 9; this version knows 1"):
        decode_bounds(bytes(record))


def test_somebody_elses_lmdb_environment_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as txn:
        txn.put(b"a", b"b")
    with pytest.raises(CorruptionError, match="bounds record"):
        LmdbBackend(tmp_path)


@pytest.mark.parametrize("place", range(len(value_of(Entry(7, 5, b"payload"), crc32))))
def test_an_entry_is_checked_with_its_index_its_term_its_kind_and_its_length(place: int) -> None:
    value = bytearray(value_of(Entry(7, 5, b"payload", 3), crc32))
    assert decode_entry(5, memoryview(value), crc32, Path()) == Entry(7, 5, b"payload", 3)
    with pytest.raises(CorruptionError):
        decode_entry(6, memoryview(value), crc32, Path())
    value[place] ^= 0x10
    with pytest.raises(CorruptionError):
        decode_entry(5, memoryview(value), crc32, Path())


def rewrite(path: Path, database: bytes | None, key: bytes, value: bytes | None) -> None:
    """Change a record behind the backend's back, as one of its own transactions would."""
    with lmdb.open(str(path), max_dbs=2, lib_version=0) as environment:
        handle = environment.open_db(database, create=False)
        with environment.begin(write=True) as txn:
            if value is None:
                txn.delete(key, db=handle)
            else:
                txn.put(key, value, db=handle)
            bounds = decode_bounds(txn.get(BOUNDS) or b"")
            txn.put(BOUNDS, encode_bounds(msgspec.structs.replace(bounds, transaction=txn.id())))


@pytest.mark.parametrize(
    ("database", "key", "value"),
    [
        (b"terms", encode_key(25), (9).to_bytes(8, "big")),
        (b"terms", encode_key(25), (4).to_bytes(8, "big")),
        (b"terms", encode_key(25), None),
        (b"terms", encode_key(30), (3).to_bytes(8, "big")),
        (None, b"hard_state", b"vote 99"),
        (None, b"hard_state", None),
        (None, b"meta", b"m" * 2999),
    ],
)
def test_a_stale_or_lost_record_is_refused_at_opening(
    path: Path, database: bytes | None, key: bytes, value: bytes | None
) -> None:
    """Each of these could be the rest of a lost or a misdirected write of a page."""
    rewrite(path, database, key, value)
    with pytest.raises(CorruptionError):
        LmdbBackend(path)
    found = LmdbBackend.examine(path, deep=True)
    assert found.recovery is None
    assert found.damage


def test_opening_does_not_read_entries(path: Path) -> None:
    """However many there are: with every page of the large ones destroyed it still opens."""
    for index in range(12, 61, 2):
        for place in places(path, entry(index).data):
            overwrite(data(path), place // PAGE * PAGE, bytes(PAGE))
    with closing(LmdbBackend(path)) as backend:
        assert backend.recovery.last == entry(60).id
        with pytest.raises(CorruptionError):
            backend.read(11, 61, None)


def test_what_opening_reads_does_not_grow_with_the_log(tmp_path: Path) -> None:
    with closing(LmdbBackend(tmp_path)) as backend:
        backend.write(WriteBatch(1, entries=[Entry(1, 1, b"")]))
    with closing(LmdbBackend(tmp_path)) as backend:
        few = backend.recovery.bytes_read
        backend.write(WriteBatch(2, entries=[Entry(1, index, b"x" * 100) for index in range(2, 20_000)]))
    with closing(LmdbBackend(tmp_path)) as backend:
        assert backend.recovery.bytes_read == few


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}


def test_examining_a_sound_store_changes_nothing_and_finds_all(path: Path) -> None:
    before = snapshot(path)
    found = LmdbBackend.examine(path, deep=True)
    assert snapshot(path) == before
    assert (found.damage, found.entries_checked) == ([], 50)
    with closing(LmdbBackend(path)) as backend:
        assert found.recovery == backend.recovery
        assert found.stats.bytes_reclaimable <= found.stats.bytes_on_disk
    assert LmdbBackend.examine(path, deep=False).entries_checked == 0


def test_examining_names_every_damaged_entry_and_goes_on(path: Path) -> None:
    for index in (14, 33, 60):
        for place in places(path, entry(index).data):
            overwrite(data(path), place + 20, b"????")
    found = LmdbBackend.examine(path, deep=True)
    assert [damage.first_index for damage in found.damage] == [14, 33, 60]
    assert {damage.file for damage in found.damage} == {"data.mdb"}
    assert found.recovery is not None
    assert not LmdbBackend.examine(path, deep=False).damage


def test_examining_finds_an_entry_of_another_term_and_one_beyond_the_end(path: Path) -> None:
    sums = checksum(read_head(data(path)).bounds.checksum)
    rewrite(path, b"entries", encode_key(40), value_of(Entry(1, 40, b"an older leader's"), sums))
    rewrite(path, b"entries", encode_key(61), value_of(Entry(3, 61, b"stale"), sums))
    messages = [damage.message for damage in LmdbBackend.examine(path, deep=True).damage]
    assert any("entry 40 has term 1" in message for message in messages)
    assert any("above the last one, 60" in message for message in messages)


def test_examining_tells_of_a_lost_root_of_the_entries_and_does_not_fail(path: Path) -> None:
    """No search in them comes to an end then, that for entries above the last one included."""
    original = data(path).read_bytes()
    main = newer_slot(path) * PAGE + 16 + 24 + 48
    (main_root,) = struct.unpack_from("=Q", original, main + 40)
    record = original.index(b"entries", main_root * PAGE, (main_root + 1) * PAGE) + len(b"entries")
    (root,) = struct.unpack_from("=Q", original, record + 40)
    overwrite(data(path), root * PAGE, bytes(PAGE))
    found = LmdbBackend.examine(path, deep=True)
    assert {damage.first_index for damage in found.damage} >= set(range(11, 61))
    assert "wrong type" in found.damage[-1].message


def test_examining_survives_what_kills_a_process_that_reads(path: Path) -> None:
    """The length that LMDB keeps of a large value leads it past the end of the file."""
    node = struct.pack("=HHHH", 5000 + ENTRY_OVERHEAD, 0, 1, 8) + encode_key(14)
    for place in places(path, node):
        overwrite(data(path), place + 2, (0x4000).to_bytes(2, sys.byteorder))
    found = LmdbBackend.examine(path, deep=True)
    assert found.recovery is not None
    assert "kills the process" in found.damage[-1].message
    assert found.damage[-1].first_index == 11
    assert any("overflow" in damage.message for damage in found.damage[:-1])


def test_examining_finds_pages_that_lmdb_lost_or_uses_twice(path: Path) -> None:
    """LMDB's list of free pages is looked at by nothing else before it is used."""
    head = read_head(data(path))
    root = head.transaction % 2 * PAGE + 16 + 24 + 40
    overwrite(data(path), root, (2**64 - 1).to_bytes(8, sys.byteorder))
    assert LmdbBackend.examine(path, deep=True).damage


def test_examining_survives_the_death_of_the_one_who_looks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = "import os, sys; from raftstore_lmdb._walk import main; main(sys.argv[1:]); os.abort()"
    monkeypatch.setattr(_examine, "_CHILD", dying)
    found = LmdbBackend.examine(path, deep=True)
    assert "SIGABRT" in found.damage[-1].message
    assert found.entries_checked == 50


def test_examining_ends_in_bounded_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_examine, "_CHILD", "import time; time.sleep(100)")
    monkeypatch.setattr(_examine, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(_examine, "_BYTES_PER_S", 2**40)
    found = LmdbBackend.examine(path, deep=True)
    assert "does not end" in found.damage[0].message


def test_examining_that_cannot_look_is_an_error_not_a_verdict(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_examine, "_CHILD", "raise SystemExit('no such module')")
    with pytest.raises(OSError, match="no such module") as caught:
        LmdbBackend.examine(path, deep=True)
    assert caught.value.errno == errno.EIO
