"""What the rows share while they are measured: the directory, the limit, and a log of a million entries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import raftstore
from benchmarks.native import PythonLimit, open_limit
from raftstore.compare.payloads import Payloads

TERM: Final = 1
MILLION: Final = 1_000_000
QUICK_SHARE: Final = 10
"""How many times fewer entries and rounds a quick run takes, and how many times shorter ones."""
ENTRY_BYTES: Final = 100
FILL_BATCH: Final = 1000
PATIENCE_MS: Final = 60_000


class Bench:
    """One run on one directory, which it leaves as it found it. Use it as a context manager."""

    def __init__(self, directory: Path, *, quick: bool, share: int = 1) -> None:
        """`share`: how many times fewer rounds to take, quick or not."""
        self.quick = quick
        self._share = max(share, QUICK_SHARE if quick else 1)
        self._home = Path(tempfile.mkdtemp(prefix="raftstore-benchmarks-", dir=directory))
        self.limit, self.limit_kind = open_limit(self._home)
        self.python_limit = PythonLimit(self._home)
        self._count = 0
        self._million: Path | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.limit.close()
        self.python_limit.close()
        shutil.rmtree(self._home)

    def rounds(self, count: int) -> int:
        """How many rounds to take where a full run takes `count`."""
        return min(count, max(3, count // self._share))

    def seconds(self, full: float) -> float:
        """How long to measure where a full run measures for `full` seconds."""
        return full / QUICK_SHARE if self.quick else full

    @property
    def million(self) -> int:
        """How many entries the big log has: a million, but for a quick run."""
        return MILLION // QUICK_SHARE if self.quick else MILLION

    def new_path(self) -> Path:
        """A path where nothing is."""
        self._count += 1
        return self._home / str(self._count)

    @contextmanager
    def new_path_removed(self) -> Iterator[Path]:
        """A path where nothing is; whatever comes there is removed afterwards."""
        path = self.new_path()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def new_log(self, **config: Any) -> Iterator[raftstore.RaftLog]:
        """A new log, closed and removed afterwards."""
        with self.new_path_removed() as path, open_log(path, **config) as log:
            yield log

    def million_path(self) -> Path:
        """A closed store with `million` entries of 100 bytes, made once."""
        if self._million is None:
            path = self.new_path()
            with open_log(path) as log:
                fill(log, self.million)
            self._million = path
        return self._million


def open_log(path: Path, **config: Any) -> raftstore.RaftLog:
    """Open the store at `path`; limits are given by their names, everything else as in `StoreConfig`."""
    fields = raftstore.Limits.__struct_fields__
    limits = {name: config.pop(name) for name in fields if name in config}
    return raftstore.open(
        raftstore.StoreConfig(
            path=path, limits=raftstore.Limits(backpressure_timeout_ms=PATIENCE_MS, **limits), **config
        )
    )


def fill(log: raftstore.RaftLog, entries: int) -> None:
    """Append `entries` of 100 bytes, a thousand a call."""
    payloads = Payloads(ENTRY_BYTES, FILL_BATCH)
    for _ in range(entries // FILL_BATCH):
        log.propose(TERM, payloads.take())


def backend_of(log: raftstore.RaftLog) -> Any:
    """The backend below `log`, for its counters."""
    return log._session.store.backend  # pyright: ignore[reportPrivateUsage]


def wait_quiet(log: raftstore.RaftLog) -> None:
    """Return when the backend prepares nothing in the background, which would slow the limit down."""
    worker = getattr(backend_of(log), "_worker", None)
    if worker is not None:
        worker.wait_idle()


def timed_until(end: float, clock: Callable[[], float], call: Callable[[], object]) -> int:
    """Call until the clock passes `end`, but at least once; how many calls that were."""
    calls = 0
    while not calls or clock() < end:
        call()
        calls += 1
    return calls
