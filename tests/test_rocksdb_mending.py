"""What a power cut leaves of RocksDB's manifest and RocksDB refuses: mended if nothing is lost by it."""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from errno import ENOSPC
from functools import cached_property
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("rocksdict")
pytest.importorskip("crc32c", reason="nothing is mended without it: pip install 'raftstore[rocksdb]'")

from disk_tools import small_disk, take_the_rest
from raftstore_rocksdb import RocksdbBackend, mending
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.layout import entry_key
from raftstore_rocksdb.manifest import Manifest, UnreadableError, read_manifest
from raftstore_rocksdb.mending import mend_current, mend_manifest, reach
from raftstore_rocksdb.records import whole_records
from rocksdb_tools import SMALL, append, fill, flip, kill_with_a_log, opened, stop_uncleanly

from raftstore.batch import WriteBatch
from raftstore.errors import CorruptionError

pytestmark = pytest.mark.backend("rocksdb")

WRITES = 30
RESERVE_BYTES = 4 << 20


def manifest_of(path: Path) -> Path:
    return path / "db" / (path / "db" / "CURRENT").read_text().strip()


def engine_of(backend: RocksdbBackend) -> Engine:
    assert backend._engine is not None
    return backend._engine


def torn_after(stop: int, manifest: Path) -> bytes:
    """The manifest with the next record after `stop` torn as a disk tears it: its end never arrived."""
    data = manifest.read_bytes()
    record = next(end for end, _ in whole_records(BytesIO(data)) if end > stop)
    half = (stop + record) // 2
    return data[:half] + bytes(record - half)


def torn_while(path: Path, step: Callable[[Engine], None], first: Callable[[Engine], None]) -> Path:
    """A store whose power was cut while RocksDB wrote to its manifest what `step` did; the torn manifest.

    Half of the writes were done before RocksDB was opened last, the others before `first`. What `step` made,
    and named in the manifest, is there. These are too few sorted files for RocksDB to compact them by itself.
    """
    backend, image = opened(path), path.with_name("image")
    fill(backend, WRITES)
    stop_uncleanly(backend)
    backend = opened(path)
    for number in range(WRITES, 2 * WRITES):
        backend.write(append(number, number))
    first(engine_of(backend))
    shutil.copytree(path, image)
    stop = manifest_of(path).stat().st_size
    step(engine_of(backend))
    for made in (path / "db").glob("*.sst"):
        if not (image / "db" / made.name).exists():
            shutil.copy(made, image / "db")
    manifest_of(image).write_bytes(torn_after(stop, manifest_of(path)))
    stop_uncleanly(backend)
    shutil.rmtree(path)
    image.rename(path)
    return manifest_of(path)


def nothing(_: Engine) -> None:
    pass


def logs(path: Path) -> list[Path]:
    return sorted(file for file in (path / "db").glob("*.log") if file.stat().st_size)


class Images:
    """Stores as a crash left them, each made when it is first asked for. Nobody may change them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.newest_log = ""
        """The log that RocksDB began when it wrote what the manifest of `torn` was to name."""

    @cached_property
    def torn(self) -> Path:
        """Its power was cut while RocksDB named a new sorted file in its manifest."""
        path = self._new("torn")

        def flush(engine: Engine) -> None:
            engine.flush()
            self.newest_log = max((path / "db").glob("*.log")).name

        torn_while(path, flush, nothing)
        return path

    @cached_property
    def compacting(self) -> Path:
        """Its power was cut while RocksDB named in its manifest what it had compacted."""
        path = self._new("compacting")
        torn_while(path, lambda engine: engine.compact(b"", b"\xff"), Engine.flush)
        return path

    @cached_property
    def killed(self) -> Path:
        """Its last writes are only in RocksDB's log."""
        path = self._new("killed")
        kill_with_a_log(path, WRITES)
        return path

    @cached_property
    def out_of_order(self) -> Path:
        """It was killed, and opened: the sorted file which that made lost its name in a power cut, the
        manifest that names it and CURRENT did not."""
        path, after = self._new("out-of-order"), self._new("after")
        copied(self.killed, path)
        copied(self.killed, after)
        stop_uncleanly(opened(after))
        for new in (manifest_of(after), after / "db" / "CURRENT"):
            shutil.copy(new, path / "db")
        return path

    def _new(self, name: str) -> Path:
        path = self._home / name
        path.mkdir(mode=0o700)
        return path


def copied(image: Path, path: Path) -> Path:
    """Copy the store to `path`, an empty directory. The manifest of the copy."""
    shutil.copytree(image, path, dirs_exist_ok=True)
    return manifest_of(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def torn(images: Images, path: Path) -> Path:
    """The torn manifest of a store at `path`."""
    return copied(images.torn, path)


def test_a_manifest_torn_at_its_unsynced_end_loses_nothing(torn: Path, path: Path) -> None:
    before = torn.read_bytes()
    assert not RocksdbBackend.examine(path, deep=True).damage
    assert torn.read_bytes() == before, "looking changed the store"
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == 2 * WRITES - 1
        assert len(backend.read(1, 2 * WRITES, None)) == 2 * WRITES - 1
        assert any(torn.name in note for note in backend.recovery.notes)
        assert backend.recovery.kept_at == path / "kept"
        assert not backend.recovery.end_is_proved
        assert (path / "kept" / torn.name).read_bytes() == before
        backend.write(append(2 * WRITES, 2 * WRITES))
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == 2 * WRITES
        assert not backend.recovery.notes


def test_a_torn_manifest_whose_log_is_gone_is_refused_and_left_alone(torn: Path, path: Path) -> None:
    """As when the record was synced, RocksDB removed the log, and the record rotted."""
    before = torn.read_bytes()
    for log in logs(path):
        log.unlink()
    with pytest.raises(CorruptionError, match="MANIFEST"):
        opened(path)
    assert torn.read_bytes() == before
    assert RocksdbBackend.examine(path, deep=False).damage


def test_a_torn_manifest_is_refused_if_a_log_between_is_gone(torn: Path, path: Path) -> None:
    [log] = logs(path)
    later = log.with_name(f"{int(log.stem) + 90:06}.log")
    [(_, first), *_] = whole_records(BytesIO(log.read_bytes()))
    sequence, count = struct.unpack_from("<QI", first)
    state = read_manifest(torn)
    assert reach(path / "db", state) == state.last_sequence + count * WRITES
    assert sequence == state.last_sequence + 1
    state.last_sequence -= 1
    assert reach(path / "db", state) is None, "the change before the first one of the log is nowhere"
    log.rename(later)
    assert reach(path / "db", read_manifest(torn)) == read_manifest(torn).last_sequence, (
        "another log's records"
    )


def test_a_torn_manifest_that_names_a_sorted_file_which_is_gone_is_refused(torn: Path, path: Path) -> None:
    (path / "db" / f"{min(read_manifest(torn).files):06}.sst").unlink()
    assert mend_manifest(path / "db") is None
    with pytest.raises(CorruptionError):
        opened(path)


def test_a_manifest_torn_while_files_were_compacted_loses_nothing(images: Images, path: Path) -> None:
    torn = copied(images.compacting, path)
    assert read_manifest(torn).torn_moves_only
    with pytest.raises(CorruptionError, match="MANIFEST"):
        Engine.read_only(path / "db")
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == 2 * WRITES - 1
        assert len(backend.read(1, 2 * WRITES, None)) == 2 * WRITES - 1


def test_an_empty_newest_log_does_not_prove_that_the_one_before_it_is_there(torn: Path, path: Path) -> None:
    """RocksDB keeps the oldest of the logs that it needs no more, and removes those after it."""
    assert manifest_of(path) == torn
    last = max(int(number) for file in (path / "db").iterdir() for number in re.findall(r"\d{6}", file.name))
    (path / "db" / f"{last + 2:06}.log").touch()
    assert mend_manifest(path / "db") is None, f"nothing tells that there was no {last + 1:06}.log"


def test_a_manifest_torn_while_the_log_was_idle_is_mended(images: Images, torn: Path, path: Path) -> None:
    """Then the newest log, which was made for what comes next, is empty."""
    newest = path / "db" / images.newest_log
    assert len(logs(path)) == 1
    assert not newest.exists()
    newest.touch()
    assert torn.name in (mend_manifest(path / "db") or "")
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == 2 * WRITES - 1


def test_a_torn_record_of_a_compaction_tells_nothing_of_what_followed_it(images: Images, path: Path) -> None:
    torn = copied(images.compacting, path)
    torn.write_bytes(torn.read_bytes() + bytes(100))
    assert not read_manifest(torn).torn_moves_only
    assert mend_manifest(path / "db") is None


def test_without_the_library_for_its_checksums_nothing_is_mended(
    torn: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torn.read_bytes()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "crc32c", None)
        with pytest.raises(CorruptionError, match="MANIFEST"):
            opened(path)
        assert torn.read_bytes() == before
        torn.rename(torn.with_name("MANIFEST-000001"))
        assert mend_current(path / "db") is None
        torn.with_name("MANIFEST-000001").rename(torn)
    opened(path).close()


def test_what_only_has_the_name_of_a_file_of_rocksdb_stops_no_mending(torn: Path, path: Path) -> None:
    """A pipe would be waited for, without end."""
    os.mkfifo(path / "db" / "000099.log")
    (path / "db" / "000098.log").mkdir()
    (path / "db" / "MANIFEST-000001").mkdir()
    assert torn.name in (mend_manifest(path / "db") or "")


def put_current_aside(path: Path) -> None:
    """CURRENT names a manifest whose own name a power cut has lost."""
    number = int(manifest_of(path).name.partition("-")[2])
    (path / "db" / "CURRENT").write_text(f"MANIFEST-{number + 2:06}\n")


@pytest.mark.parametrize("damage", ["torn", "compacting", "out of order", "no manifest"])
def test_on_a_full_disk_a_manifest_is_mended_with_the_room_of_the_reserve(
    images: Images, tmp_path: Path, damage: str
) -> None:
    disk, path = tmp_path / "disk", tmp_path / "disk" / "store"
    stores = {"torn": images.torn, "compacting": images.compacting, "out of order": images.out_of_order}
    with small_disk(disk, "48m"):
        copied(stores.get(damage, images.killed), path)
        if damage == "no manifest":
            put_current_aside(path)
        (path / "ballast").write_bytes(bytes(RESERVE_BYTES))
        take_the_rest(disk / "others")
        with closing(opened(path, ballast_bytes=RESERVE_BYTES)) as backend:
            last = backend.recovery.last.index
            assert last == (2 * WRITES - 1 if damage in ("torn", "compacting") else WRITES)
            assert any("MANIFEST" in note for note in backend.recovery.notes)
            assert not any("without a trial" in note for note in backend.recovery.notes)
            assert not (path / "ballast").exists()
            assert len(backend.read(1, last + 1, None)) == last
            backend.write(WriteBatch(last + 1, hard_state=b"voted"))
        (disk / "others").unlink()
        with closing(opened(path, ballast_bytes=RESERVE_BYTES)) as backend:
            assert (backend.recovery.last.index, backend.recovery.hard_state) == (last, b"voted")
            assert (path / "ballast").stat().st_size == RESERVE_BYTES


def test_no_room_to_look_at_a_store_is_no_damage(torn: Path, path: Path, tmp_path: Path) -> None:
    """The trial mends among its links, where temporary files go."""
    with small_disk(tmp_path / "disk", "1m"), pytest.MonkeyPatch.context() as patch:
        take_the_rest(tmp_path / "disk" / "others")
        patch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
        with pytest.raises(OSError, match="no room to look") as refused:
            RocksdbBackend.examine(path, deep=False)
    assert refused.value.errno == ENOSPC
    assert not RocksdbBackend.examine(path, deep=False).damage
    assert torn.exists()


def test_damage_before_the_end_of_a_manifest_is_not_cut_off(images: Images, path: Path) -> None:
    manifest = copied(images.killed, path)
    stops = [stop for stop, _ in whole_records(BytesIO(manifest.read_bytes()))]
    flip(manifest, stops[-3] + 10)
    damaged = manifest.read_bytes()
    with pytest.raises(UnreadableError, match="follows"):
        read_manifest(manifest)
    with pytest.raises(CorruptionError, match="MANIFEST"):
        opened(path)
    assert manifest.read_bytes() == damaged


def test_a_power_cut_that_lost_the_name_of_the_newest_sorted_file_loses_nothing(
    images: Images, path: Path
) -> None:
    names = [f"{number:06}.sst" for number in read_manifest(copied(images.out_of_order, path)).files]
    [name] = [name for name in names if not (path / "db" / name).exists()]
    assert not RocksdbBackend.examine(path, deep=True).damage
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == WRITES
        assert len(backend.read(1, WRITES + 1, None)) == WRITES
        assert any(name in note for note in backend.recovery.notes)
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == WRITES
        assert not any(name in note for note in backend.recovery.notes)


@pytest.mark.parametrize("lost", ["*.log", "older"])
def test_a_lost_sorted_file_is_refused_if_nothing_else_holds_what_it_held(
    images: Images, lost: str, path: Path
) -> None:
    copied(images.out_of_order, path)
    manifests = sorted((path / "db").glob("MANIFEST-*"))
    for file in logs(path) if lost == "*.log" else manifests[:-1]:
        file.unlink()
    current = (path / "db" / "CURRENT").read_text()
    with pytest.raises(CorruptionError):
        opened(path)
    assert (path / "db" / "CURRENT").read_text() == current
    assert RocksdbBackend.examine(path, deep=False).damage


def test_current_is_not_set_to_a_manifest_that_a_second_power_cut_left_without_its_end(
    images: Images, path: Path, tmp_path: Path
) -> None:
    """Of a new manifest that was never synced, any number of its first records may be there."""
    whole = copied(images.killed, path)
    number, data = int(whole.name.partition("-")[2]), whole.read_bytes()
    begun = whole.with_name(f"MANIFEST-{number + 2:06}")
    ends = [0, *(end for end, _ in whole_records(BytesIO(data)))]
    refused = [end for end in ends if not is_enough_for_rocksdb(path, data[:end], tmp_path / "trial")]
    assert len(refused) > 1, "RocksDB is content with any record"
    for end in refused:
        begun.write_bytes(data[:end])
        (path / "db" / "CURRENT").write_text(f"MANIFEST-{number + 4:06}\n")
        assert mend_current(path / "db"), end
        assert (path / "db" / "CURRENT").read_text() == f"{whole.name}\n", end
    assert not RocksdbBackend.examine(path, deep=True).damage
    with closing(opened(path)) as backend:
        assert backend.recovery.last.index == WRITES


def is_enough_for_rocksdb(path: Path, manifest: bytes, trial: Path) -> bool:
    """Whether RocksDB opens a copy of the store at `path` that has no more of its `manifest`."""
    copied(path, trial).write_bytes(manifest)
    try:
        Engine(trial / "db", write_buffer_bytes=SMALL).close()
    except CorruptionError:
        return False
    finally:
        shutil.rmtree(trial)
    return True


def test_no_number_of_old_manifests_makes_mending_endless(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, looked = path / "db", list[Path]()
    db.mkdir()
    (db / "CURRENT").write_text("MANIFEST-1000000\n")
    for number in range(999_900, 1_000_000):
        (db / f"MANIFEST-{number}").touch()

    def read(file: Path) -> Manifest:
        looked.append(file)
        return read_manifest(file)

    monkeypatch.setattr(mending, "read_manifest", read)
    assert mend_current(db) is None
    assert [file.name for file in looked] == [f"MANIFEST-{999_999 - n}" for n in range(mending.OLDER_MAX)]


def test_a_manifest_counts_the_changes_in_sorted_files_and_none_that_only_a_log_has(path: Path) -> None:
    """What the proof rests on that no log is missing."""
    with closing(opened(path)) as backend:
        for number in range(1, WRITES):
            backend.write(append(number, number))
            if number in (WRITES // 2, WRITES - 1):
                engine_of(backend).flush()
        before = read_manifest(manifest_of(path))
        for number in range(WRITES, 2 * WRITES):
            backend.write(append(number, number))
        engine_of(backend).compact(entry_key(1), entry_key(WRITES - 1))
        after = read_manifest(manifest_of(path))
        assert after.files != before.files, "nothing was compacted"
        assert after.last_sequence == before.last_sequence
        assert (reach(path / "db", after) or 0) >= before.last_sequence + WRITES


def test_a_record_of_a_log_of_another_number_does_not_count(images: Images, path: Path) -> None:
    copied(images.killed, path)
    [log] = logs(path)
    data = log.read_bytes()
    assert len(list(whole_records(BytesIO(data), int(log.stem)))) == WRITES
    assert not list(whole_records(BytesIO(data), int(log.stem) + 1))
    assert len(list(whole_records(BytesIO(data[:-1]), int(log.stem)))) == WRITES - 1


def test_a_manifest_that_is_no_manifest_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "MANIFEST-000001"
    file.write_bytes(b"")
    assert read_manifest(file) == Manifest()
    file.write_bytes(os.urandom(20_000))
    with pytest.raises(UnreadableError):
        read_manifest(file)
