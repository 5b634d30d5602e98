"""Every decoder of what stands on a disk: whatever the bytes, a typed error, soon, and little memory.

Checksums are no defence against somebody who can compute them: here most of what lies is sealed again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hostile_tools import LIES, attempt, edits, hostile, many
from hypothesis import given
from hypothesis import strategies as st

from raftstore.config import load
from raftstore.entry import HardState, LogId
from raftstore.errors import BackendMissingError, ConfigError, CorruptionError, FormatError
from raftstore.formatfile import read_format, write_format
from raftstore.hardstate import decode_hard_state, decode_meta, encode_hard_state, encode_meta
from raftstore.lock import Holder, read_holder
from raftstore.testing.fuzz.core import seal_format, seal_witness
from raftstore.witness import create_witness, read_witness

HARD_STATES = [encode_hard_state(HardState(7, vote, 3)) for vote in (None, "n1")]
METAS = [encode_meta({}), encode_meta({"a": b"x" * 40, "peers": b""})]


class Format(NamedTuple):
    """A file format: what it looks like, how it is read, how to make its checksums right again."""

    samples: list[bytes]
    read: Callable[[Path], object]
    seal: Callable[[bytes], bytes] = bytes
    refusals: tuple[type[Exception], ...] = (CorruptionError, FormatError)


def written(write: Callable[[Path], object]) -> bytes:
    place = Path(os.environ["TMPDIR"], "sample")
    write(place)
    data = place.read_bytes()
    place.unlink()
    return data


HOLDER = msgspec.json.encode(Holder(1, "host", 1.5))


@pytest.fixture
def formats(private_tmp: Path) -> dict[str, Format]:
    return {
        "FORMAT": Format([written(lambda path: write_format(path, "lmdb"))], read_format, seal_format),
        "WITNESS": Format([written(lambda path: create_witness(path, 7))], read_witness, seal_witness),
        "LOCK": Format([HOLDER, b"[" * 4000, b'{"pid":' + b"9" * 400 + b"}"], read_holder, refusals=()),
    }


@pytest.mark.parametrize("name", ["FORMAT", "WITNESS", "LOCK"])
def test_no_small_file_of_a_store_is_believed_beyond_what_it_may_say(
    name: str, formats: dict[str, Format], tmp_path: Path
) -> None:
    chosen = formats[name]
    file = tmp_path / name

    @many(150)
    @given(hostile(chosen.samples), st.booleans())
    def look(data: bytes, sealed: bool) -> None:
        file.write_bytes(chosen.seal(data) if sealed else data)
        attempt(lambda: chosen.read(file), len(data), *chosen.refusals)

    look()


@pytest.mark.parametrize("name", ["FORMAT", "WITNESS", "LOCK"])
def test_a_file_as_large_as_the_disk_is_not_read_whole(
    name: str, formats: dict[str, Format], tmp_path: Path
) -> None:
    chosen, file = formats[name], tmp_path / name
    file.write_bytes(chosen.samples[0])
    os.truncate(file, 1 << 40)
    attempt(lambda: chosen.read(file), len(chosen.samples[0]), *chosen.refusals)


@many(300)
@given(hostile(HARD_STATES))
def test_a_hard_state_is_in_range_or_refused(data: bytes) -> None:
    state = attempt(lambda: decode_hard_state(data), len(data), CorruptionError)
    assert state is None or (0 <= state.term < 1 << 63 and 0 <= state.commit < 1 << 63)


@many(200)
@given(hostile(METAS))
def test_metadata_are_strings_with_bytes_or_refused(data: bytes) -> None:
    values = attempt(lambda: decode_meta(data), len(data), CorruptionError)
    assert values is None or all(
        isinstance(key, str) and isinstance(value, bytes) for key, value in values.items()
    )


def test_a_term_below_zero_is_no_hard_state() -> None:
    """It would be below every term that can be asked for: a second vote."""
    for numbers in ([1, -1, "n1", 0], [1, 1 << 63, "n1", 0], [1, 1, None, -5]):
        with pytest.raises(CorruptionError, match="range"):
            decode_hard_state(msgspec.msgpack.encode(numbers))


# --- configs ----------------------------------------------------------------------------------------------

TOML = b"""
[raftstore]
path = "/nowhere/raft"
backend = "segmented"
strategy = { MemFirst = { sync_on_commit = true } }
flush_policy = { Batch = { threshold = 1000, interval = 10 } }
[raftstore.limits]
cache_bytes = "64MiB"
[raftstore.backends.segmented]
segment_bytes = "64MiB"
[raft.persistence]
strategy = "MemFirst"
"""
URL = "segmented:///nowhere/raft?strategy=MemFirst&flush_policy=Batch:1000:10&pending_bytes_max=1MiB"
SPELLINGS = [b"9" * 30, b"[" * 200, b"{a=" * 50, b"Batch:1:1:1", b"\xff", b"%00", b"1e999", b"nan", b"../.."]
words = st.sampled_from([*SPELLINGS, *LIES]) | st.binary(max_size=9)


@many(250)
@given(st.data())
def test_a_config_is_loaded_or_refused_as_such(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "raftstore.toml"
    file.write_bytes(TOML)
    load(file, {})  # what is imported for the first config does not count for another
    changes = data.draw(st.lists(st.tuples(st.integers(0, 600), words, st.booleans()), max_size=3))
    text = TOML
    for place, word, inserted in changes:
        at = place % len(text)
        text = text[:at] + word + text[at if inserted else at + len(word) :]
    file.write_bytes(text)
    attempt(lambda: load(file, {}), len(text), ConfigError, BackendMissingError, spare_bytes=1 << 21)


@many(250)
@given(st.lists(st.tuples(st.integers(0, 200), words, st.booleans()), max_size=3))
def test_a_url_is_loaded_or_refused_as_such(changes: list[tuple[int, bytes, bool]]) -> None:
    text = URL.encode()
    for place, word, inserted in changes:
        at = place % len(text)
        text = text[:at] + word + text[at if inserted else at + len(word) :]
    url = text.decode(errors="surrogateescape")
    if "://" in url:  # else it is the path of a file
        attempt(lambda: load(url), len(url), ConfigError, BackendMissingError, spare_bytes=1 << 21)


@pytest.mark.parametrize("nested", [b"a=" + b"[" * 100_000, b"a=" + b"{b=" * 50_000, b"[a" + b" .b" * 99_000])
def test_a_config_nested_beyond_reason_is_refused(nested: bytes, tmp_path: Path) -> None:
    file = tmp_path / "raftstore.toml"
    file.write_bytes(b"[raftstore]\n" + nested)
    with pytest.raises(ConfigError):
        load(file, {})


@pytest.mark.parametrize(
    "deep", [b"a." * 300_000 + b"b=1", b'["' + b'a" . "' * 9000 + b'b"]', b"k={" + b"a." * 9000 + b"b=1}"]
)
def test_a_key_of_many_parts_takes_no_memory_by_their_square(deep: bytes, tmp_path: Path) -> None:
    """The parser of the standard library takes 5 GB for 30,000 of them."""
    file = tmp_path / "raftstore.toml"
    file.write_bytes(deep)

    def refused() -> None:
        with pytest.raises(ConfigError, match="parts"):
            load(file, {})

    attempt(refused, len(deep), spare_bytes=1 << 21)


def test_a_url_that_is_no_utf_8_is_refused_as_a_config() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        load("segmented:///nowhere/\udc80")


def test_dots_that_are_not_in_keys_are_no_matter(tmp_path: Path) -> None:
    file, letters = tmp_path / "raftstore.toml", ".".join("abcdefghijklmnopqrst")
    file.write_text(
        f'[raftstore]\npath = "/{letters}"\n# {letters}\n[other]\nx = ["{letters}", 1.5, "{letters}"]'
    )
    assert str(load(file, {}).path) == f"/{letters}"


# --- lmdb -------------------------------------------------------------------------------------------------


@pytest.mark.backend("lmdb")
def test_no_record_in_lmdb_is_believed_beyond_what_it_may_say() -> None:
    records: Any = pytest.importorskip("raftstore_lmdb._records")
    bounds = records.Bounds(checksum=1, number=9, runs=2, hard_state=1, meta=2)
    samples = [records.encode_bounds(bounds), records.encode_key(7)]

    def sealed(data: bytes) -> bytes:
        return zlib.crc32(data[4:]).to_bytes(4, "big") + data[4:]

    @many(300)
    @given(hostile(samples), st.booleans())
    def look(data: bytes, seal: bool) -> None:
        record = sealed(data) if seal else data
        refusals = CorruptionError, FormatError
        attempt(lambda: records.decode_bounds(record), len(data), *refusals)
        attempt(lambda: records.decode_key(data), len(data), *refusals)
        view = memoryview(data)
        attempt(lambda: records.decode_entry(5, view, zlib.crc32, Path()), len(data), *refusals)
        attempt(lambda: records.decode_runs([(view[:8], view[8:])], bounds), len(data), *refusals)
        attempt(lambda: records.open_blob(b"meta", view, 7, zlib.crc32), len(data), *refusals)

    look()


@pytest.mark.backend("lmdb")
@pytest.mark.parametrize(
    "field", [{"number": 1 << 63}, {"last": LogId(1 << 63, 1)}, {"anchor": LogId(1, 1 << 63)}]
)
def test_a_bounds_record_of_lmdb_beyond_every_index_is_refused(field: dict[str, Any]) -> None:
    records: Any = pytest.importorskip("raftstore_lmdb._records")
    with pytest.raises(CorruptionError, match="range"):
        records.decode_bounds(records.encode_bounds(records.Bounds(checksum=1, **field)))


@pytest.mark.backend("lmdb")
def test_the_head_of_a_data_file_is_checked_before_lmdb_believes_it(tmp_path: Path) -> None:
    head: Any = pytest.importorskip("raftstore_lmdb._head")
    datafile: Any = pytest.importorskip("raftstore_lmdb._datafile")
    datafile.create(tmp_path, 1)
    file = tmp_path / "data.mdb"
    sample = file.read_bytes()
    copy = tmp_path / "copy"
    meta = st.tuples(st.integers(0, 1), st.integers(0, 168), st.sampled_from(LIES) | st.binary(max_size=9))

    @many(200)
    @given(st.lists(meta, min_size=1, max_size=4), edits)
    def look(metas: list[tuple[int, int, bytes]], others: list[tuple[int, bytes, bool]]) -> None:
        data = bytearray(sample)
        for page, at, piece in metas:
            data[4096 * page + at : 4096 * page + at + len(piece)] = piece
        for place, piece, deep in others:
            if deep:
                data[8192 + place : 8192 + place + len(piece)] = piece
        copy.write_bytes(data)
        attempt(lambda: head.read_head(copy), len(data), CorruptionError, FormatError)

    look()


# --- rocksdb ----------------------------------------------------------------------------------------------


class Rows:
    """What `read_state` needs of an engine: records, all of them sealed."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, start: bytes, stop: bytes) -> Any:
        yield from ((key, self._rows[key]) for key in sorted(self._rows) if start <= key < stop)


@pytest.mark.backend("rocksdb")
def test_no_record_in_rocksdb_is_believed_beyond_what_it_may_say() -> None:
    pytest.importorskip("rocksdict")
    layout: Any = pytest.importorskip("raftstore_rocksdb.layout")
    state: Any = pytest.importorskip("raftstore_rocksdb.state")
    number = st.sampled_from([0, 1, 2, 5, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    numbers = st.lists(number, min_size=6, max_size=6)
    run = st.tuples(number, st.binary(max_size=9) | number.map(lambda term: term.to_bytes(8, "big")))

    @many(300)
    @given(numbers, st.lists(run, max_size=3), hostile([struct.pack(">HQ", 1, 5), b"\x00\x01" + bytes(48)]))
    def look(bounds: list[int], runs: list[tuple[int, bytes]], body: bytes) -> None:
        packed = layout.seal(layout.BOUNDS, struct.pack(">HQQQQQQ", 1, *bounds))
        rows = {layout.BOUNDS: packed, layout.HARD_STATE: body[:20], layout.META: body}
        rows |= {layout.run_key(index): layout.seal(layout.run_key(index), value) for index, value in runs}
        entry = layout.entry_key(bounds[4])
        rows[entry] = layout.seal(entry, body)
        refusals = CorruptionError, FormatError
        attempt(lambda: state.read_state(Rows(rows)), 1 << 10, *refusals)
        whole = layout.seal(layout.BOUNDS, body)
        attempt(lambda: layout.unpack_bounds(whole), len(body), *refusals)
        attempt(lambda: layout.unpack_run(entry, layout.seal(entry, body)), len(body), *refusals)
        attempt(lambda: layout.unpack_entry(5, entry, layout.seal(entry, body)), len(body), *refusals)

    look()


@pytest.mark.backend("rocksdb")
@pytest.mark.parametrize("field", range(5))
def test_a_bounds_record_of_rocksdb_beyond_every_index_is_refused(field: int) -> None:
    pytest.importorskip("rocksdict")
    layout: Any = pytest.importorskip("raftstore_rocksdb.layout")
    numbers = [1 << 63 if field == position else 0 for position in range(6)]
    with pytest.raises(CorruptionError, match="range"):
        layout.unpack_bounds(layout.seal(layout.BOUNDS, struct.pack(">HQQQQQQ", 1, *numbers)))


@pytest.mark.backend("rocksdb")
def test_the_clean_mark_of_rocksdb_is_a_number_or_nothing(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    files: Any = pytest.importorskip("raftstore_rocksdb.files")
    files.write_clean(tmp_path, 77)
    sample = (tmp_path / "CLEAN").read_bytes()

    @many(100)
    @given(hostile([sample]))
    def look(data: bytes) -> None:
        (tmp_path / "CLEAN").write_bytes(data)
        found = attempt(lambda: files.read_clean(tmp_path), len(data))
        assert found == (77 if data == sample else None)

    look()
