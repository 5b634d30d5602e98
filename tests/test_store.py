"""The directory of a store: how it is made, opened, locked and doubted."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftstore import registry
from raftstore.backend import BackendStats, DiskBackend, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.errors import (
    BackendMissingError,
    ConfigError,
    CorruptionError,
    FormatError,
    RaftStoreError,
    StoreFullError,
    StoreLockedError,
)
from raftstore.store import FORMAT, LOCK, WITNESS, Store, open_store
from raftstore.storeconfig import Limits, StoreConfig
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.witness import SLOT_BYTES, read_witness

FAST = Limits(lock_timeout_ms=60)


class Counter(DiskBackend):
    """Keeps nothing but the number of its last write, in a file."""

    torn_bytes = 0
    end_is_proved = False
    tail_is_visible = True
    closings = 0

    def __init__(self, path: Path) -> None:
        self.file = path / "number"
        if not self.file.exists():
            self.file.write_text("0")
        number = int(self.file.read_text())
        self.found = Recovery(
            number=number,
            torn_bytes=self.torn_bytes,
            end_is_proved=self.end_is_proved,
            tail_is_visible=self.tail_is_visible,
        )

    @property
    def recovery(self) -> Recovery:
        return self.found

    def write(self, batch: WriteBatch) -> None:
        self.file.write_text(str(batch.number))

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        raise LookupError(start)

    def maintain(self) -> None:
        raise NotImplementedError

    def stats(self) -> BackendStats:
        return BackendStats(0, 0, 1)

    def close(self) -> None:
        type(self).closings += 1

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Counter]:
    """A backend class of this test's own, registered under every name."""

    class Engine(Counter):
        pass

    monkeypatch.setattr(registry, "backend_class", lambda _: Engine)
    monkeypatch.setattr(registry, "backend_names", lambda: ["counter", "other"])
    return Engine


@pytest.fixture
def config(tmp_path: Path) -> StoreConfig:
    return StoreConfig(path=tmp_path / "store", backend="counter", limits=FAST)


def with_(config: StoreConfig, **changes: Any) -> StoreConfig:
    return msgspec.structs.replace(config, **changes)


def session(config: StoreConfig, upto: int, *, noted: int | None = None, clean: bool = True) -> None:
    """Open, write up to `upto`, note `noted` and stop: cleanly, or as a kill does."""
    store = open_store(config)
    store.backend.write(WriteBatch(upto))
    store.witness(upto if noted is None else noted, clean=clean)
    store.close()


def opened(config: StoreConfig) -> Store:
    store = open_store(config)
    store.close()
    return store


def open_files() -> set[Path]:
    """Some of them may be garbage of another test, and be gone at any time."""
    return set(Path("/proc/self/fd").iterdir())


def snapshot(path: Path) -> dict[str, bytes | None]:
    return {
        str(child.relative_to(path)): child.read_bytes() if child.is_file() else None
        for child in path.rglob("*")
    }


# --- making a store ---------------------------------------------------------------------------------------


def test_a_new_store_has_exactly_the_documented_files_and_nobody_else_may_read_them(
    config: StoreConfig,
) -> None:
    old = os.umask(0)
    try:
        store = opened(config)
    finally:
        os.umask(old)
    assert sorted(child.name for child in config.path.iterdir()) == [FORMAT, LOCK, WITNESS, "counter"]
    assert store.created
    assert store.acknowledged_missing == "no"
    assert not opened(config).created
    for name, mode in ((".", 0o700), ("counter", 0o700), (FORMAT, 0o600), (LOCK, 0o600), (WITNESS, 0o600)):
        assert (config.path / name).stat().st_mode & 0o777 == mode, name


def test_missing_parents_are_made_private_even_if_the_umask_would_take_the_owners_bits(
    tmp_path: Path,
) -> None:
    old = os.umask(0o777)
    try:
        opened(StoreConfig(path=tmp_path / "a" / "b" / "c", backend="counter"))
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b" / "c" / FORMAT).stat().st_mode & 0o777 == 0o600


def test_an_existing_empty_directory_becomes_a_store(config: StoreConfig) -> None:
    config.path.mkdir()
    (config.path / "lost+found").mkdir()
    assert opened(config).created


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_with_create_false_an_absent_store_is_an_error_and_nothing_is_made(
    config: StoreConfig, make: Callable[[Path], None]
) -> None:
    make(config.path)
    existed = config.path.exists()
    with pytest.raises(ConfigError, match="create"):
        open_store(with_(config, create=False))
    assert config.path.exists() == existed
    assert not existed or not list(config.path.iterdir())


def test_with_create_false_an_existing_store_opens(config: StoreConfig) -> None:
    opened(config)
    assert not opened(with_(config, create=False)).created


@pytest.mark.parametrize("name", ["notes.txt", "counter", "counter.new", WITNESS])
def test_a_directory_of_somebody_else_is_refused_and_not_touched(config: StoreConfig, name: str) -> None:
    config.path.mkdir()
    (config.path / name).write_text("precious")
    with pytest.raises(ConfigError, match="directory of its own"):
        open_store(config)
    assert snapshot(config.path) == {name: b"precious"}


def test_a_file_in_place_of_the_directory_is_a_config_error(config: StoreConfig) -> None:
    config.path.write_text("")
    with pytest.raises(ConfigError, match="not a directory"):
        open_store(config)


def test_a_backend_without_its_library_leaves_no_trace(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> type[DiskBackend]:
        raise BackendMissingError("pip install it")

    monkeypatch.setattr(registry, "backend_class", refuse)
    with pytest.raises(BackendMissingError):
        open_store(config)
    assert not config.path.exists()


def test_where_durability_is_not_understood_opening_is_refused(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RaftStoreError, match="Linux and macOS"):
        open_store(config)
    assert not config.path.exists()


def test_of_many_that_open_an_absent_store_at_once_one_makes_it_and_the_others_wait(
    config: StoreConfig,
) -> None:
    config = with_(config, path=config.path / "a" / "b", limits=Limits(lock_timeout_ms=120_000))
    started = threading.Barrier(8)

    def make() -> bool:
        started.wait()
        return opened(config).created

    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            made = [future.result() for future in [pool.submit(make) for _ in range(8)]]
        assert made.count(True) == 1
        lose(config.path.parents[1])


# --- a crash while the store is made ----------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


class Disk:
    """Counts the steps that change a disk, ends the process at one of them, and remembers unsynced names.

    It stands in front of the calls of `os`; a name counts as durable when its directory was synced.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None, *, after: bool) -> None:
        self.steps: list[str] = []
        self.undo: list[tuple[Path, Callable[[], None]]] = []
        self.stop_at, self.after, self.monkeypatch = stop_at, after, monkeypatch
        for name in (
            "mkdir",
            "rename",
            "fsync",
            "fdatasync",
            "open",
            "pwrite",
            "ftruncate",
            "unlink",
            "rmdir",
        ):
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            new = name == "open" and args[1] & os.O_CREAT and not Path(args[0]).exists()
            if (name == "open" and not new) or kwargs.get("dir_fd") is not None:
                return call(*args, **kwargs)
            number = len(self.steps)
            self.steps.append(f"{name} {file_of(args[0])}")
            if number == self.stop_at and not self.after:
                raise Crash
            result = call(*args, **kwargs)
            self.remember("create" if new else name, args)
            if number == self.stop_at:
                if new:
                    os.close(result)
                raise Crash
            return result

        return step

    def remember(self, name: str, args: tuple[Any, ...]) -> None:
        if name in ("create", "mkdir"):
            made = Path(args[0])
            self.undo.append((made.parent, lambda: lose(made)))
        elif name == "rename":
            source, target = Path(args[0]), Path(args[1])
            self.undo.append((source.parent, lambda: unname(target, source)))
        elif name == "fsync":
            synced = Path(file_of(args[0]))
            self.undo = [item for item in self.undo if item[0] != synced]

    def power_cut(self, kept: tuple[bool, ...]) -> None:
        """Take back the unsynced names that are not `kept`, newest first."""
        self.monkeypatch.undo()
        for keep, (_, undo) in reversed(list(zip(kept, self.undo, strict=True))):
            if not keep:
                undo()


def file_of(target: Any) -> str:
    return str(Path(f"/proc/self/fd/{target}").readlink()) if isinstance(target, int) else str(target)


def lose(path: Path) -> None:
    if path.is_dir():
        for child in sorted(path.rglob("*"), reverse=True):
            child.rmdir() if child.is_dir() else child.unlink()
        path.rmdir()
    elif path.exists():
        path.unlink()


def unname(target: Path, source: Path) -> None:
    if target.exists():
        target.rename(source)


def creation_steps(config: StoreConfig) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, None, after=False)
        open_store(config).close()
    return disk.steps


def crash_images(base: Path) -> Iterator[tuple[StoreConfig, str]]:
    """Stores whose making was cut at every step, with every choice of the unsynced names that survived."""
    total = len(creation_steps(StoreConfig(path=base / "whole" / "s", backend="counter", limits=FAST)))
    for step, after in itertools.product(range(total), (False, True)):
        for choice in itertools.count():
            config = StoreConfig(path=base / f"{step}-{after}-{choice}" / "s", backend="counter", limits=FAST)
            with pytest.MonkeyPatch.context() as patch:
                disk = Disk(patch, step, after=after)
                with pytest.raises(Crash):
                    open_store(config)
                choices = list(itertools.product((True, False), repeat=len(disk.undo)))
                assert len(choices) <= 64, disk.undo
                disk.power_cut(choices[choice])
            yield config, f"{disk.steps[-1]} {after=} kept={choices[choice]}"
            if choice + 1 == len(choices):
                break


def test_making_a_store_that_a_crash_cut_at_any_step_is_finished_by_the_next_opening(tmp_path: Path) -> None:
    images = 0
    for config, where in crash_images(tmp_path):
        images += 1
        store = open_store(config)
        assert store.acknowledged_missing == "no", where
        assert store.backend.recovery.number == 0
        store.close()
        names = sorted(child.name for child in config.path.iterdir())
        assert names == [FORMAT, LOCK, WITNESS, "counter"], where
    assert images > 40


def test_everything_that_the_new_engine_wrote_is_synced_before_the_store_exists(config: StoreConfig) -> None:
    steps = creation_steps(config)
    exists = steps.index(f"rename {config.path / FORMAT}.new")
    assert f"fdatasync {config.path / 'counter.new' / 'number'}" in steps[:exists]
    assert f"fsync {config.path / 'counter.new'}" in steps[:exists]


def test_a_second_crash_while_the_leftovers_of_the_first_are_swept_away_is_survived(tmp_path: Path) -> None:
    steps = creation_steps(StoreConfig(path=tmp_path / "whole", backend="counter", limits=FAST))
    first = next(number for number, step in enumerate(steps) if step.startswith("rename"))
    for second in itertools.count():
        config = StoreConfig(path=tmp_path / str(second), backend="counter", limits=FAST)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, first, after=False)
            with pytest.raises(Crash):
                open_store(config)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, second, after=True)
            try:
                open_store(config).close()
            except Crash:
                pass
            else:
                break
        assert opened(config).backend.recovery.number == 0
    assert second > 10


def test_the_leftovers_of_a_creation_are_not_opened_as_a_store_when_create_is_false(
    config: StoreConfig,
) -> None:
    config.path.mkdir()
    for name in (LOCK, WITNESS):
        (config.path / name).touch()
    (config.path / "other.new").mkdir()
    before = snapshot(config.path)
    with pytest.raises(ConfigError, match="create"):
        open_store(with_(config, create=False))
    assert snapshot(config.path) == before
    assert opened(config).created


# --- what must never become an empty log ------------------------------------------------------------------


def test_a_format_file_without_its_data_is_corruption_and_no_new_engine_is_made(config: StoreConfig) -> None:
    session(config, 5)
    (config.path / "counter").rename(config.path.parent / "elsewhere")
    with pytest.raises(CorruptionError, match="not the data"):
        open_store(config)
    assert not (config.path / "counter").exists()


@pytest.mark.parametrize("backend", ["counter", "other"])
def test_data_without_its_format_file_is_corruption(config: StoreConfig, backend: str) -> None:
    session(config, 5)
    (config.path / FORMAT).unlink()
    for _ in range(2):
        with pytest.raises(CorruptionError, match="FORMAT is missing"):
            open_store(with_(config, backend=backend))
    assert (config.path / "counter" / "number").read_text() == "5"


def test_a_witness_of_writes_forbids_making_the_store_anew(config: StoreConfig) -> None:
    session(config, 5)
    (config.path / FORMAT).unlink()
    lose(config.path / "counter")
    with pytest.raises(CorruptionError, match="was in use"):
        open_store(config)


def test_a_store_is_not_opened_as_another_backend(config: StoreConfig) -> None:
    session(config, 5)
    before = snapshot(config.path / "counter")
    with pytest.raises(ConfigError, match="use migrate"):
        open_store(with_(config, backend="other"))
    assert snapshot(config.path / "counter") == before


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_link_in_place_of_the_engine_is_not_followed(
    config: StoreConfig, tmp_path: Path, unfinished: bool
) -> None:
    session(config, 5)
    if unfinished:
        (config.path / "counter.new").mkdir()
    (config.path / "counter").rename(tmp_path / "elsewhere")
    (config.path / "counter").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptionError):
        open_store(config)


@pytest.mark.parametrize("name", [FORMAT, LOCK, WITNESS])
@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_a_file_of_the_store_that_is_no_file_is_refused_at_once(
    config: StoreConfig, tmp_path: Path, name: str, kind: str
) -> None:
    opened(config)
    file = config.path / name
    file.rename(tmp_path / "target")
    if kind == "symlink":
        file.symlink_to(tmp_path / "target")
    elif kind == "directory":
        file.mkdir()
    else:
        os.mkfifo(file)
    with pytest.raises(CorruptionError, match="not a regular file"):
        open_store(config)  # ... and does not wait for ever, as the open of a pipe does.


# --- FORMAT -----------------------------------------------------------------------------------------------


def signed(store: str) -> bytes:
    return b'{"store":%s,"crc32":%d}' % (store.encode(), zlib.crc32(store.encode()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"[" * 3000,
        b"{" * 5000,
        b"null",
        b'{"store":{"version":1,"backend":"counter"},"crc32":1}',
        b'{"store":{"version":1,"backend":"counter"},"crc32":1e400}',
        signed("7"),
        signed('{"version":"1","backend":"counter"}'),
        signed('{"version":1,"backend":"../../etc"}'),
        signed('{"version":1,"backend":"FORMAT"}'),
        signed('{"version":1}'),
        signed('{"version":1,"backend":"counter","more":1}'),
        signed('{"version":1,"backend":"counter"}') + b"x" * 5000,
    ],
)
def test_a_format_file_that_was_never_written_is_corruption(config: StoreConfig, content: bytes) -> None:
    opened(config)
    (config.path / FORMAT).write_bytes(content)
    with pytest.raises(CorruptionError, match="FORMAT"):
        open_store(config)


def test_every_flipped_bit_of_the_format_file_is_noticed(config: StoreConfig) -> None:
    opened(config)
    good = (config.path / FORMAT).read_bytes()
    assert json.loads(good)["store"] == {"version": 1, "backend": "counter"}
    for bit in range(8 * good.index(b"\n")):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (config.path / FORMAT).write_bytes(bad)
        with pytest.raises(CorruptionError):
            open_store(config)


def test_a_newer_version_is_refused_and_both_versions_are_named(config: StoreConfig) -> None:
    opened(config)
    (config.path / FORMAT).write_bytes(signed('{"version":7,"backend":"counter","color":"green"}'))
    with pytest.raises(FormatError, match=r"version 7.* reads 1"):
        open_store(config)


# --- LOCK -------------------------------------------------------------------------------------------------


def test_a_second_open_in_the_same_process_is_refused_and_names_it(config: StoreConfig) -> None:
    store = open_store(config)
    with pytest.raises(StoreLockedError, match="this process") as caught:
        open_store(config)
    assert caught.value.pid == os.getpid()
    store.close()
    opened(config)


CHILD = """
import sys, time
from raftstore.lock import StoreLock
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
lock = StoreLock(Path(sys.argv[1]), 0)
print("held", flush=True)
time.sleep(600)
"""


def holder_of(config: StoreConfig) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, config.path / LOCK], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_another_process_that_holds_the_store_is_named_by_its_pid(config: StoreConfig) -> None:
    opened(config)
    child = holder_of(config)
    try:
        with pytest.raises(StoreLockedError) as caught:
            open_store(config)
        assert caught.value.pid == child.pid
    finally:
        end(child)
    opened(config)


def test_opening_waits_for_a_holder_that_is_dying(config: StoreConfig) -> None:
    opened(config)
    child = holder_of(config)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -{signal.SIGKILL} {child.pid}"])
    try:
        opened(with_(config, limits=Limits(lock_timeout_ms=120_000)))
    finally:
        killer.wait()
        end(child)


@pytest.mark.parametrize("text", [b"", b"\xff" * 100, b'{"pid":-1,"host":"x","started":0}', b"{" * 9999])
def test_nonsense_in_the_lock_file_does_not_matter(config: StoreConfig, text: bytes) -> None:
    store = open_store(config)
    (config.path / LOCK).write_bytes(text)
    with pytest.raises(StoreLockedError) as caught:
        open_store(config)
    assert caught.value.pid is None
    store.close()
    opened(config)


def test_an_interrupt_lets_nobody_in_while_the_backend_is_not_closed(
    config: StoreConfig, engine: type[Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still write: the next close goes on there."""
    store = open_store(config)

    def interrupted(_engine: Counter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    before = engine.closings
    with pytest.raises(StoreLockedError):
        open_store(config)
    store.close()
    assert engine.closings == before + 1
    opened(config)


def test_a_lock_file_that_was_removed_before_it_was_locked_guards_nothing(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock, file = fcntl.flock, config.path / LOCK
    opened(config)

    def remove_first(fd: int, operation: int) -> None:
        monkeypatch.undo()
        file.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    monkeypatch.setattr(registry, "backend_class", lambda _: Counter)
    from raftstore.lock import StoreLock

    lock = StoreLock(file, 1000)
    with pytest.raises(StoreLockedError):
        StoreLock(file, 0)
    lock.release()


def test_a_failed_opening_releases_the_lock_and_closes_the_backend(
    config: StoreConfig, engine: type[Counter]
) -> None:
    session(config, 5)
    (config.path / "counter" / "number").write_text("4")
    before = open_files()
    engine.closings = 0
    with pytest.raises(CorruptionError):
        open_store(config)
    assert engine.closings == 1
    assert open_files() <= before
    (config.path / "counter" / "number").write_text("5")
    opened(config)


def test_closing_twice_leaves_no_descriptor_open_and_spares_those_of_others(config: StoreConfig) -> None:
    opened(config)
    before = open_files()
    store = open_store(config)
    store.close()
    assert open_files() <= before
    with (config.path / FORMAT).open("rb") as other:
        store.close()
        store.abandon_in_child()
        assert other.read()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_that_knows_nothing_does_not_keep_the_lock_that_its_parent_gave_back(
    config: StoreConfig,
) -> None:
    store = open_store(config)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        store.close()
        opened(config)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_that_abandons_the_store_neither_frees_nor_keeps_the_lock(config: StoreConfig) -> None:
    store = open_store(config)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        store.abandon_in_child()
        os.write(tell, b"x")
        time.sleep(600)
        os._exit(0)
    try:
        os.read(told, 1)
        with pytest.raises(StoreLockedError):
            open_store(config)
        store.close()
        opened(config)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


# --- WITNESS ----------------------------------------------------------------------------------------------


def test_a_log_that_ends_below_its_witness_is_corruption_and_both_numbers_are_named(
    config: StoreConfig,
) -> None:
    session(config, 9, clean=False)
    (config.path / "counter" / "number").write_text("7")
    with pytest.raises(CorruptionError, match=r"write 7\b.*write 9\b") as caught:
        open_store(config)
    assert caught.value.file == config.path / "counter"


CASES = [
    # strategy, written, noted, clean, torn bytes, end proved -> missing
    (DiskFirst(), 9, 9, True, 0, False, "no"),
    (DiskFirst(), 9, 9, False, 0, False, "no"),
    (DiskFirst(), 9, 9, True, 3, False, "no"),
    (DiskFirst(), 9, 9, False, 3, False, "unknown"),
    (DiskFirst(), 9, 8, False, 0, False, "unknown"),
    (DiskFirst(), 9, 8, False, 0, True, "no"),
    (DiskFirst(), 9, 9, False, 3, True, "no"),
    (MemFirst(), 9, 9, True, 0, False, "no"),
    (MemFirst(), 9, 9, False, 0, False, "unknown"),
    (MemFirst(), 9, 9, False, 0, True, "unknown"),
    (MemFirst(), 9, 8, False, 0, True, "unknown"),
]


@pytest.mark.parametrize(("strategy", "written", "noted", "clean", "torn", "proved", "missing"), CASES)
def test_what_may_be_missing_follows_from_witness_and_recovery(
    config: StoreConfig,
    engine: type[Counter],
    strategy: Strategy,
    written: int,
    noted: int,
    clean: bool,
    torn: int,
    proved: bool,
    missing: str,
) -> None:
    session(with_(config, strategy=strategy), written, noted=noted, clean=clean)
    engine.torn_bytes, engine.end_is_proved = torn, proved
    assert opened(config).acknowledged_missing == missing


@pytest.mark.parametrize(("clean", "proved", "missing"), [(0, 0, "unknown"), (1, 0, "no"), (0, 1, "no")])
def test_of_a_backend_that_may_drop_writes_unseen_a_kill_proves_nothing(
    config: StoreConfig, engine: type[Counter], clean: bool, proved: bool, missing: str
) -> None:
    engine.tail_is_visible, engine.end_is_proved = False, bool(proved)
    session(config, 9, clean=bool(clean))
    assert opened(config).acknowledged_missing == missing


def test_a_kill_before_the_first_note_is_not_taken_for_the_clean_close_before_it(config: StoreConfig) -> None:
    config = with_(config, strategy=MemFirst())
    session(config, 9)
    opened(config)
    assert opened(config).acknowledged_missing == "unknown"


def test_a_damaged_slot_that_may_have_said_in_use_leaves_no_clean_close(
    config: StoreConfig, engine: type[Counter]
) -> None:
    config, engine.end_is_proved = with_(config, strategy=MemFirst()), True
    session(config, 9)
    in_use = (1 + read_sequence(config)) % 2
    opened(config)
    damage(config, in_use)
    assert opened(config).acknowledged_missing == "unknown"


def read_sequence(config: StoreConfig) -> int:
    note = read_witness(config.path / WITNESS).note
    assert note is not None
    return note.sequence


@pytest.mark.parametrize("part", [1, 16, 31])
def test_a_short_write_of_a_note_is_completed(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    config, real = with_(config, strategy=MemFirst()), os.pwrite
    store = open_store(config)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:part], offset))
    store.witness(9, clean=False)
    store.close()
    testimony = read_witness(config.path / WITNESS)
    assert testimony.is_whole
    assert testimony.note is not None
    assert (testimony.note.number, testimony.note.volatile) == (9, True)


def test_a_note_of_which_nothing_can_be_written_ends_the_notes(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(config)
    before = read_witness(config.path / WITNESS)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    store.witness(9, clean=True)
    store.close()
    assert read_witness(config.path / WITNESS) == before


def test_a_missing_witness_is_made_again_and_told(config: StoreConfig) -> None:
    session(config, 9)
    (config.path / WITNESS).unlink()
    store = opened(config)
    assert store.acknowledged_missing == "unknown"
    assert "made again" in store.notes[0]
    again = opened(config)
    assert again.acknowledged_missing == "no"
    assert again.notes == ()


@pytest.mark.parametrize("content", [b"", b"\0" * 2 * SLOT_BYTES, b"\xff" * 100, b"x" * 99_999])
def test_a_wholly_damaged_witness_is_made_again_and_told(config: StoreConfig, content: bytes) -> None:
    session(config, 9)
    (config.path / WITNESS).write_bytes(content)
    store = opened(config)
    assert store.acknowledged_missing == "unknown"
    assert "made again" in store.notes[0]
    testimony = read_witness(config.path / WITNESS)
    assert testimony.note is not None
    assert testimony.note.number == 9


@pytest.mark.parametrize("slot", [0, 1])
def test_one_damaged_slot_of_the_witness_leaves_the_other_but_nothing_is_sure(
    config: StoreConfig, slot: int
) -> None:
    session(config, 9)
    damage(config, slot)
    assert opened(config).acknowledged_missing == "unknown"
    assert read_witness(config.path / WITNESS).is_whole


def test_the_slot_that_is_left_still_finds_a_log_that_is_too_short(config: StoreConfig) -> None:
    session(config, 9, clean=False)
    session(config, 9)
    for slot in (0, 1):
        good = (config.path / WITNESS).read_bytes()
        damage(config, slot)
        (config.path / "counter" / "number").write_text("8")
        with pytest.raises(CorruptionError):
            open_store(config)
        (config.path / WITNESS).write_bytes(good)


def damage(config: StoreConfig, slot: int) -> None:
    with (config.path / WITNESS).open("r+b") as file:
        file.seek(slot * SLOT_BYTES + 16)
        file.write(b"\x55")


def test_every_flipped_bit_of_a_slot_is_noticed(config: StoreConfig) -> None:
    opened(config)
    good = (config.path / WITNESS).read_bytes()
    for bit in range(8 * 32):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (config.path / WITNESS).write_bytes(bad)
        assert not read_witness(config.path / WITNESS).is_whole


def count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    syncs: list[int] = []
    fdatasync = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    return syncs


def test_a_note_costs_one_sync_and_one_that_says_nothing_new_costs_none(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(config)
    syncs = count_syncs(monkeypatch)
    for number, expected in ((0, 0), (1, 1), (1, 1), (2, 2)):
        store.witness(number)
        assert len(syncs) == expected
    store.witness(2, clean=True)
    assert len(syncs) == 3
    store.close()
    store.witness(3)
    assert len(syncs) == 3


def test_the_witness_never_goes_back(config: StoreConfig) -> None:
    store = open_store(config)
    store.witness(7)
    store.witness(3, clean=True)
    store.close()
    testimony = read_witness(config.path / WITNESS)
    assert testimony.note is not None
    assert (testimony.note.number, testimony.note.clean) == (7, True)


def test_a_note_does_not_change_the_length_of_the_file(config: StoreConfig) -> None:
    session(config, 1)
    assert (config.path / WITNESS).stat().st_size == 2 * SLOT_BYTES


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_under_a_note_ends_the_notes_and_harms_nobody(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    store = open_store(config)
    store.backend.write(WriteBatch(2))
    store.witness(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: fail(code))
        store.witness(2)
    store.witness(2, clean=True)
    store.close()
    assert "no more notes" in caplog.text
    testimony = read_witness(config.path / WITNESS)
    assert testimony.note is not None
    assert not testimony.note.clean
    assert opened(config).backend.recovery.number == 2


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("step", ["make_path", "StoreLock"])
def test_a_disk_without_room_for_the_first_name_of_a_store_is_called_full(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"raftstore.store.{step}", lambda *_: fail(errno.ENOSPC))
        with pytest.raises(StoreFullError, match="nothing was made"):
            open_store(config)
    session(config, 3)
    assert opened(config).backend.recovery.number == 3


def test_a_disk_that_fails_while_the_store_is_marked_as_open_fails_the_opening(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(config, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: fail(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            open_store(config)
    opened(config)
