"""What holds for every test: nothing stays behind, and backends can be chosen from outside.

`RAFTSTORE_TEST_BACKENDS=segmented,lmdb` runs only the tests marked with one of these backends, and those
marked with none. Tests of a backend whose library is not installed are skipped.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from raftstore.errors import BackendMissingError
from raftstore.registry import backend_class
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.profile import thorough

GRACE_S = 120.0
"""For what a test gave up to be gone: a finalizer only signals. Only a failing test waits so long."""
SHARED = ("/dev/", "/proc/", "/sys/", "/usr/")
"""Of the system. So are the fonts, which matplotlib opens once a process."""


# However slow the machine is; and the same examples in every run, unless there is time to look further.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=not thorough(),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background with this signal ignored, and every child would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "backend(name): needs the disk backend of that name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = os.environ.get("RAFTSTORE_TEST_BACKENDS")
    kept = [item for item in items if chosen is None or _backends(item) <= set(chosen.split(","))]
    dropped = [item for item in items if item not in set(kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    for item in items:
        for reason in filter(None, map(_missing, sorted(_backends(item)))):
            item.add_marker(pytest.mark.skip(reason=reason))


def _backends(item: pytest.Item) -> set[str]:
    return {mark.args[0] for mark in item.iter_markers("backend")}


@cache
def _missing(name: str) -> str | None:
    """Why the backend cannot be used here, or None."""
    try:
        backend_class(name)
    except BackendMissingError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def benchmarks_are_importable() -> Iterator[None]:
    """They are no part of the package. The package that they import is the one that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent))
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def private_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for temporary files that only this session uses."""
    path = tmp_path_factory.mktemp("tmpdir")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(path))
        patch.setattr(tempfile, "tempdir", str(path))
        yield path


@pytest.fixture
def disk() -> MemoryDisk:
    """An empty disk in memory, for `open_log`."""
    return MemoryDisk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty directory, as the core makes one for a store."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    return store


@pytest.fixture(autouse=True)
def nothing_stays_behind(private_tmp: Path) -> Iterator[None]:
    """Fail a test that leaves a file descriptor, one of our threads or a temporary file behind."""
    before = _held(private_tmp)
    yield
    end = time.monotonic() + GRACE_S
    while (left := _held(private_tmp) - before) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert not left, f"the test left behind: {sorted(left)}"


PROBE = re.compile("[a-z0-9_]{8}")


def _held(private_tmp: Path) -> set[str]:
    """The open files below no system directory, our threads and the temporary files, by name."""
    threads = {f"thread {t.name}" for t in threading.enumerate() if t.name.startswith("raftstore")}
    names = {f"temporary file {name}" for name in private_tmp.iterdir() if not _is_probe(name)}
    return threads | names | _open_files()


def _is_probe(file: Path) -> bool:
    """Whether Python made it to see that a directory can be written to, and was killed before it went on."""
    try:
        return PROBE.fullmatch(file.name) is not None and file.read_bytes() in (b"", b"blat")
    except OSError:
        return False


def _open_files() -> set[str]:
    """`fd 7 -> /path` for every descriptor of a file. Pipes and sockets belong to the test runner."""
    found: set[str] = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:  # the descriptor of this listing
            continue
        if target.startswith("/") and not target.startswith(SHARED) and "/mpl-data/" not in target:
            found.add(f"fd {fd.name} -> {target}")
    return found
