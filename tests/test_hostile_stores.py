"""Links that lead out of a store, and any umask: nothing outside is touched, nobody else may read."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from raftstore.config import load
from raftstore.entry import Entry
from raftstore.errors import CorruptionError, RaftStoreError
from raftstore.examine import examine_store
from raftstore.log import open as open_log
from raftstore.registry import backend_names
from raftstore.storeconfig import Limits, StoreConfig
from raftstore.testing.crash.plan import SMALL_OPTIONS
from raftstore.testing.crash.workload import apply, generate
from raftstore.testing.tools import eventually

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]

TO_COME = {
    "segmented": [
        "{next}.seg",
        "spare-{next}",
        "spare-{following}",
        "spare-reserve",
        "spare-retired",
        "reserve",
        "torn-0000000000000001-000000000128",
    ],
    "lmdb": ["new", "new/data.mdb", "lock.mdb"],
    "rocksdb": ["CLEAN.new", "ballast", "creating", "kept", "db/LOG", "db/{wal}.log", "db/CURRENT.dbtmp"],
}
"""Names that a store gives to files one day."""
CORE_TO_COME = ["WITNESS.new", "FORMAT.new", "{backend}.new"]


def config(path: Path, backend: str) -> StoreConfig:
    options = {backend: dict(SMALL_OPTIONS.get(backend, {}))}
    return load(StoreConfig(path=path, backend=backend, backends=options, limits=Limits(lock_timeout_ms=50)))


def use(path: Path, backend: str, seed: int) -> None:
    """Everything that a log can do, on a store that may be there already; then it is closed."""
    with open_log(config(path, backend)) as log:
        term, index = max(log.last.term, log.hard_state.term) + 1, log.next_index
        payloads = [Random(seed + n).randbytes(700) for n in range(30)]
        log.append([Entry(term, index + n, data) for n, data in enumerate(payloads)])
        log.purge(index + 10)
        log.put_meta("a", b"x" * 100)


def examine(path: Path, _backend: str, _seed: int) -> None:
    examine_store(path, deep=True)


def everything(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that a look could not change: modes, times of change, contents."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for file in sorted(path.rglob("*")):
        known = file.lstat()
        content = file.read_bytes() if stat.S_ISREG(known.st_mode) else b""
        found[str(file.relative_to(path))] = known.st_mode, known.st_mtime_ns, content
    return found


def try_all(path: Path, backend: str, *, verify: bool) -> list[str]:
    """What verifying, if wanted, and using the store say; only errors of ours may come."""
    said: list[str] = []
    for call in (examine, use) if verify else (use,):
        try:
            call(path, backend, 7)
        except RaftStoreError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_link_in_place_of_a_file_or_directory_is_followed(backend: str, tmp_path: Path) -> None:
    pristine, store, outside = tmp_path / "pristine", tmp_path / "store", tmp_path / "outside"
    use(pristine, backend, 1)
    names = [str(name.relative_to(pristine)) for name in sorted(pristine.rglob("*"))]
    assert {"FORMAT", "LOCK", "WITNESS", backend} < set(names)
    for position, name in enumerate(names):
        shutil.copytree(pristine, store)
        outside.mkdir()
        (store / name).rename(outside / "target")
        (store / name).symlink_to(outside / "target")
        before = everything(outside)
        said = try_all(store, backend, verify=position % 4 == 0)
        assert everything(outside) == before, f"{name} was followed; {said}"
        if name in ("FORMAT", "LOCK", "WITNESS", backend):
            assert any("CorruptionError" in words and name in words for words in said), f"{name}: {said}"
        shutil.rmtree(store)
        shutil.rmtree(outside)


def names_to_come(pristine: Path, backend: str) -> Iterator[str]:
    ids = [int(file.stem) for file in pristine.rglob("*.seg")]
    logs = [int(file.stem) for file in pristine.rglob("*.log")]
    known = {
        "next": f"{max(ids, default=0) + 1:016d}",
        "following": f"{max(ids, default=0) + 2:016d}",
        "wal": f"{max(logs, default=0) + 1:06d}",
        "backend": backend,
    }
    yield from (name.format(**known) for name in CORE_TO_COME)
    yield from (f"{backend}/{name.format(**known)}" for name in TO_COME.get(backend, []))


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_link_under_a_name_to_come_is_written_through(
    backend: str, dangling: bool, tmp_path: Path
) -> None:
    pristine, store, outside = tmp_path / "pristine", tmp_path / "store", tmp_path / "outside"
    use(pristine, backend, 1)
    for name in names_to_come(pristine, backend):
        shutil.copytree(pristine, store)
        outside.mkdir()
        place = store / name
        if place.exists() or not place.parent.is_dir():
            shutil.rmtree(store)
            shutil.rmtree(outside)
            continue
        if not dangling:
            (outside / "target").write_bytes(b"not ours")
        place.symlink_to(outside / "target")
        (store / "WITNESS").unlink()  # it is made again, by way of WITNESS.new
        before = everything(outside)
        said = try_all(store, backend, verify=dangling)
        assert everything(outside) == before, f"{name} was followed; {said}"
        shutil.rmtree(store)
        shutil.rmtree(outside)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["FORMAT", "LOCK", "WITNESS"])
def test_a_pipe_or_a_directory_in_place_of_a_file_is_told_at_once(
    backend: str, name: str, tmp_path: Path
) -> None:
    for kind in (os.mkfifo, os.mkdir):
        store = tmp_path / kind.__name__
        use(store, backend, 1)
        (store / name).unlink()
        kind(store / name)
        with pytest.raises(CorruptionError, match=name):
            open_log(config(store, backend))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_owner_may_read_whatever_the_umask(backend: str, umask: int, tmp_path: Path) -> None:
    if umask == 0o777 and os.geteuid():
        pytest.skip("only root opens what was made with that umask")
    store, copy = tmp_path / "a" / "store", tmp_path / "copy"
    steps = generate(Random(5), 60, "plain").steps[1:]
    old = os.umask(umask)
    try:
        for part in (steps[:40], steps[40:]):
            with open_log(config(store, backend)) as log:
                for step in part:
                    apply(cast("Any", log), step.call, step.arguments)
                assert_private(store, inside=False)
                copy_living(store, copy)  # as a kill leaves it
        use(copy, backend, 3)
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    for place in (store, copy):  # an engine cannot do without its owner's rights
        assert_private(place, inside=umask != 0o777)


def copy_living(store: Path, copy: Path) -> None:
    """Copy a store whose log is open, as it was at one moment: threads behind it may change it meanwhile."""

    def copied() -> bool:
        shutil.rmtree(copy, ignore_errors=True)
        with suppress(shutil.Error, FileNotFoundError):
            shutil.copytree(store, copy)
            return contents(copy) == contents(store)
        return False

    eventually(copied, f"{store} stands still for a moment")


def contents(path: Path) -> dict[Path, bytes]:
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_private(path: Path, *, inside: bool) -> None:
    """`inside`: below the engine's directory too, which keeps everybody else out all by itself."""
    for name in [path, *(path.rglob("*") if inside else path.glob("*"))]:
        mode = name.lstat().st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert mode & 0o777 == wanted, f"{name.relative_to(path.parent)} has mode {mode & 0o777:o}"
