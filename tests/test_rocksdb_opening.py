"""Opening a rocksdb store: whole, new, damaged, killed."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.layout import (
    BOUNDS,
    entry_key,
    run_key,
)
from raftstore_rocksdb.rows import Rows
from rocksdb_tools import (
    SMALL,
    append,
    assert_recovered,
    fill,
    flip,
    kill_with_a_log,
    opened,
    stop_uncleanly,
    value_of,
)

from raftstore.entry import NO_ENTRY, Entry, LogId
from raftstore.errors import CorruptionError
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually

pytestmark = pytest.mark.backend("rocksdb")


def test_a_crash_at_any_step_of_creation_leaves_a_new_store_or_a_whole_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("apply", "sync", "flush", "close"):
        honest = getattr(Engine, step)

        def crash(self: Engine, *arguments: Any, honest: Any = honest) -> None:
            honest(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Engine, step, crash)
            with pytest.raises(KeyboardInterrupt):
                opened(path)
        gc.collect()
        with closing(opened(path)) as backend:
            assert backend.recovery.number == 0
        shutil.rmtree(path)
        path.mkdir(mode=0o700)


def test_a_store_without_its_data_is_refused_and_not_made_anew(path: Path) -> None:
    opened(path).close()
    shutil.rmtree(path / "db")
    with pytest.raises(CorruptionError, match="missing"):
        opened(path)
    found = RocksdbBackend.examine(path, deep=False)
    assert found.recovery is None
    assert "missing" in found.damage[0].message


def test_a_directory_that_would_become_a_new_store_is_examined_as_one(path: Path) -> None:
    found = RocksdbBackend.examine(path, deep=True)
    assert not found.damage
    assert found.recovery is not None
    assert (found.recovery.number, found.recovery.last) == (0, NO_ENTRY)
    assert not any(path.iterdir())


@pytest.mark.parametrize("lost", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_store_that_lost_a_file_is_refused(lost: str, path: Path) -> None:
    backend = opened(path)
    fill(backend, 50)
    backend.close()
    for file in (path / "db").glob(lost):
        file.unlink()
    with pytest.raises(CorruptionError):
        opened(path)


def test_a_cleanly_closed_store_that_ends_at_another_write_is_refused(path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    old = path.with_name("old")
    shutil.copytree(path / "db", old)
    backend = opened(path)
    backend.write(append(5, 5))
    backend.close()
    shutil.rmtree(path / "db")
    old.rename(path / "db")
    for _ in range(2):
        with pytest.raises(CorruptionError, match="closed cleanly after write 5, but write 4"):
            opened(path)
    assert RocksdbBackend.examine(path, deep=False).damage


@pytest.mark.parametrize(
    "rows",
    [
        Rows([(entry_key(9), entry_key(10))], []),
        Rows([(entry_key(1), entry_key(2))], []),
        Rows([(run_key(0), run_key(99))], []),
        Rows([], [(BOUNDS, b"short")]),
        Rows([], [(run_key(5), b"damaged")]),
        Rows([], [(entry_key(9), value_of(Entry(7, 9, b"")))]),
    ],
    ids=["no last entry", "no first entry", "no term runs", "bounds", "a term run", "another last term"],
)
def test_a_store_whose_records_contradict_each_other_is_refused(rows: Rows, path: Path) -> None:
    backend = opened(path)
    fill(backend, 10)
    assert backend._engine is not None
    backend._engine.apply(rows)
    backend.close()
    with pytest.raises(CorruptionError):
        opened(path)
    assert RocksdbBackend.examine(path, deep=False).recovery is None


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"raw_mode": false}'])
def test_rocksdicts_own_unsynced_settings_file_does_not_matter(content: bytes | None, path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    settings = path / "db" / "rocksdict-config.json"
    settings.unlink()
    if content is not None:
        settings.write_bytes(content)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 4)


def test_only_a_clean_close_proves_the_end(path: Path) -> None:
    backend = opened(path)
    assert backend.recovery.end_is_proved
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    backend = opened(path)
    assert not backend.recovery.end_is_proved
    backend.close()
    backend = opened(path)
    assert not backend.recovery.end_is_proved, "closing proved what opening could not"
    backend.write(append(2, 2))
    backend.close()
    with closing(opened(path)) as backend:
        assert backend.recovery.end_is_proved


def test_what_opening_reads_does_not_grow_with_the_log(path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    backend = opened(path)
    small = backend.recovery.bytes_read
    for number in range(5, 300):
        backend.write(append(number, number, size=20_000))
    backend.close()
    with closing(opened(path)) as backend:
        eventually(lambda: backend.stats().bytes_on_disk > 5_000_000, "no file comes or goes")
        assert backend.recovery.bytes_read < small + 4 * SMALL


def test_opening_after_an_unclean_stop_gives_up_on_a_store_that_rocksdb_does_not_come_back_from(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    stuck = path.with_name("stuck")
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", os.fspath(stuck))
        with pytest.raises(CorruptionError, match="did not finish reading"):
            opened(path, open_timeout_s=0.05)
    killed = path.with_name("killed")
    killed.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killed.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", os.fspath(killed))
        with pytest.raises(CorruptionError, match="killed RocksDB, signal 11"):
            opened(path)
        assert "signal 11" in RocksdbBackend.examine(path, deep=True).damage[0].message
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 1)


def test_a_store_whose_manifest_is_damaged_is_tried_first_although_it_was_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped bit may be enough for RocksDB never to come back."""
    with closing(opened(path)) as backend:
        backend.write(append(1, 1))
    stuck = path.with_name("stuck")
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o700)
    monkeypatch.setattr(sys, "executable", os.fspath(stuck))
    opened(path).close()  # Whole: there is no trial.
    (manifest,) = path.glob("db/MANIFEST-*")
    flip(manifest, manifest.stat().st_size // 2)
    with pytest.raises(CorruptionError, match="did not finish reading"):
        opened(path, open_timeout_s=0.05)


def test_opening_does_not_depend_on_a_child_process_that_cannot_work(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 1)
        assert "without a trial" in backend.recovery.notes[0]


VICTIM = """
import sys
from pathlib import Path
from random import Random
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually
from raftstore_rocksdb import RocksdbBackend

path, seed, done = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random, model = Random(seed), Model()
backend = RocksdbBackend(Path(path), write_buffer_bytes=65536, ballast_bytes=65536)
for count in range(100_000):
    batch = next_batch(random, model)
    model.apply(batch)
    if batch.number > done:
        backend.write(batch)
        print(count + 1, flush=True)
        if count % 50 == 0:
            backend.maintain()
"""


def run_and_kill(path: Path, seed: int, done: int, writes: int) -> int:
    """Let a child do the writes of `seed` above `done`, kill it after `writes`; how many are acknowledged."""
    command = [sys.executable, "-c", VICTIM, os.fspath(path), str(seed), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(writes)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
    return acknowledged[-1]


def model_at(seed: int, number: int) -> tuple[Model, int]:
    """The model of the writes of `seed` up to the one with `number`, and how many these are."""
    random, model, count = Random(seed), Model(), 0
    while model.number < number:
        model.apply(next_batch(random, model))
        count += 1
    return model, count


@pytest.mark.parametrize("seed", range(2))
def test_what_a_kill_leaves_is_the_result_of_a_prefix_with_every_write_that_returned(
    seed: int, path: Path
) -> None:
    done = 0
    for round_ in range(3):
        acknowledged = run_and_kill(path, seed, done, writes=40 + 60 * round_)
        with closing(opened(path)) as backend:
            done = backend.recovery.number
            model, count = model_at(seed, done)
            assert acknowledged <= count <= acknowledged + 1
            assert_recovered(backend, model)


def test_what_opening_recovered_is_no_longer_in_rocksdbs_log_alone(path: Path) -> None:
    """After a kill the log may be in the page cache only: what is reported must have been written again."""
    kill_with_a_log(path, 20)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 20)
        copy = path.with_name("copy")
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.log"))
    with closing(opened(copy)) as backend:
        assert backend.recovery.last == LogId(1, 20)


def test_a_log_that_rots_after_a_kill_is_kept_until_the_store_is_accepted_by_a_write(path: Path) -> None:
    kill_with_a_log(path, 20)
    [log] = [file for file in (path / "db").glob("*.log") if file.stat().st_size]
    flip(log, log.stat().st_size // 2)
    rotten = log.read_bytes()
    for _ in range(2):
        with closing(opened(path)) as backend:
            assert 0 < backend.recovery.number < 20
            assert backend.recovery.last.index == backend.recovery.number
            assert not backend.recovery.end_is_proved
            number = backend.recovery.number
        assert (path / "kept" / log.name).read_bytes() == rotten
    with closing(opened(path)) as backend:
        assert backend.recovery.kept_at == path / "kept"
        backend.write(append(number + 1, number + 1))
    assert not (path / "kept").exists()


def test_kept_logs_do_not_pile_up(path: Path) -> None:
    for _ in range(6):
        backend = opened(path)
        backend.write(append(backend.recovery.number + 1, backend.recovery.last.index + 1, size=100_000))
        stop_uncleanly(backend)
    opened(path).close()
    assert len(list((path / "kept").iterdir())) <= 4


def test_a_process_killed_while_it_tries_a_store_leaves_nothing_but_what_the_next_opening_removes(
    path: Path, tmp_path: Path
) -> None:
    kill_with_a_log(path, 20)
    script = "import sys\nfrom pathlib import Path\nfrom raftstore_rocksdb import RocksdbBackend\n"
    command = [sys.executable, "-c", f"{script}RocksdbBackend(Path(sys.argv[1]))", os.fspath(path)]
    environment = {**os.environ, "TMPDIR": os.fspath(tmp_path)}
    with subprocess.Popen(command, env=environment) as opening:
        # On a busy machine it may be over before anybody looks again.
        eventually(
            lambda: any(path.glob("raftstore-look-*")) or opening.poll() is not None, "the trial begins"
        )
        opening.kill()
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 20)
    assert not any(path.glob("raftstore-look-*"))


def test_a_child_that_hangs_dies_even_if_nobody_is_left_to_kill_it(path: Path, tmp_path: Path) -> None:
    opened(path).close()
    links = tmp_path / "links"
    links.mkdir()
    hang = "import raftstore_rocksdb.look as l, sys\nl.look = lambda *a, **k: exec('while True: pass')\n"
    command = [
        sys.executable,
        "-c",
        f"{hang}l.main(sys.argv[1:])",
        os.fspath(path),
        os.fspath(links),
        "deep",
        "1",
    ]
    assert subprocess.run(command, timeout=600, check=False).returncode == -signal.SIGALRM


def rename_without_manifest(path: Path) -> str:
    """Leave what a power cut may leave of an opening where names become durable in any order.

    The manifest that CURRENT names is not there; what it was made from is. Returns its name.
    """
    before = path.with_name("before")
    shutil.copytree(path, before)
    stop_uncleanly(opened(path))
    current = (path / "db" / "CURRENT").read_text()
    shutil.rmtree(path)
    before.rename(path)
    (path / "db" / "CURRENT").write_text(current)
    assert not (path / "db" / current.strip()).exists()
    return current.strip()


@pytest.mark.parametrize("cleanly", [True, False])
def test_a_power_cut_that_kept_current_but_not_its_manifest_loses_nothing(path: Path, cleanly: bool) -> None:
    backend = opened(path)
    fill(backend, 30)
    backend.close() if cleanly else stop_uncleanly(backend)
    missing = rename_without_manifest(path)
    assert not RocksdbBackend.examine(path, deep=True).damage
    backend = opened(path)
    assert backend.recovery.last.index == 29
    assert any(missing in note for note in backend.recovery.notes)
    backend.close()
    with closing(opened(path)) as backend:
        assert not any(missing in note for note in backend.recovery.notes)


def test_a_manifest_that_is_gone_with_all_older_ones_is_corruption(path: Path) -> None:
    backend = opened(path)
    fill(backend, 30)
    backend.close()
    (path / "db" / (path / "db" / "CURRENT").read_text().strip()).unlink()
    with pytest.raises(CorruptionError, match="MANIFEST"):
        opened(path)
