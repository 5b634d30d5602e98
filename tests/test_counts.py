"""What appends cost, in counts: a change that makes them slower fails here, on however busy a machine.

System calls are seen from outside by strace; function calls, objects and memory by the interpreter.
"""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from interrupting import nothing_collected

import raftstore
from raftstore.aio import AsyncRaftLog
from raftstore.backend import DiskBackend
from raftstore.batch import WriteBatch
from raftstore.pipeline import Pipeline
from raftstore.registry import backend_names
from raftstore.testing.tools import eventually

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
SEGMENTED = pytest.mark.backend("segmented")
NEEDS_STRACE = pytest.mark.skipif(
    shutil.which("strace") is None, reason="counting system calls needs strace: apt-get install strace"
)

APPENDS = 50
BATCHES = 50
BATCH = 100
PAYLOAD_BYTES = 100
PROPOSERS = 64
ENTRY_BYTES_MAX = 260
"""What an entry with a payload of 100 bytes may take in memory."""

PROGRAM = """
import os, sys
from pathlib import Path
import raftstore
from raftstore.flusher import Flusher
from raftstore.pipeline import Pipeline

Pipeline.lead = lambda *_: False  # However slow this thread is, the flusher takes no write from it.
Flusher._witness = lambda _: None  # Nor does the log seem idle.
path, backend, appends, batch, size = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
payloads = [os.urandom(size) for _ in range(batch)]
with raftstore.open(raftstore.StoreConfig(path=path, backend=backend)) as log:
    for _ in range(3):
        log.propose(1, payloads)
    if backend == "segmented":
        log._session.store.backend._worker.wait_idle()
    if backend == "rocksdb":
        from raftstore_rocksdb import room
        room.SURE_S, room.SURE_BYTES = 1e9, 0  # However slow the machine, however small the disk.
        log._session.store.backend._room._sure_until = 0.0
        log.propose(1, payloads)
    os.write(1, b"begin\\n")
    for _ in range(appends):
        log.propose(1, payloads)
    os.write(1, b"end\\n")
"""

CALLS = {
    "segmented": {"pwrite64": 1, "fdatasync": 1},
    # The pages of the tree, one sync, and the meta page through a descriptor that syncs by itself.
    "lmdb": {"pwrite64": 3, "writev": 2, "lseek": 2, "fdatasync": 1},
    # The log. Room on the disk is asked for ten times a second while there is plenty.
    "rocksdb": {"write": 1, "fdatasync": 1},
}
"""The most of each system call in an append of one entry."""


class Trace:
    """The system calls of the appending thread between the two marks of the program; syncs of others."""

    def __init__(self, directory: Path, backend: str, appends: int, *, batch: int, size: int) -> None:
        log = directory / "trace"
        calls = "trace=desc,file,memory,%net"
        command = ["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o", str(log)]
        arguments = [str(directory / "store"), backend, *map(str, (appends, batch, size))]
        program = [sys.executable, "-c", PROGRAM, *arguments]
        subprocess.run([*command, *program], check=True, stdout=subprocess.DEVNULL, timeout=600)
        lines = log.read_text().splitlines()
        appender = next(line.split()[0] for line in lines if '"begin\\n"' in line)
        lines = between_marks(lines)
        mine = [line for line in lines if line.startswith(f"{appender} ")]
        self.counts = Counter(found[1] for line in mine if (found := re.match(r"\d+ +(\w+)\(", line)))
        memory = ("mmap", "munmap", "brk", "madvise", "mremap")
        self.memory = sum(self.counts.pop(name, 0) for name in memory)
        self.background_syncs = sum("sync(" in line for line in lines) - self.counts["fdatasync"]
        written = [re.search(r"write\w*\(.* = (\d+)$", line) for line in mine]
        self.bytes_written = sum(int(found[1]) for found in written if found)


def between_marks(lines: list[str]) -> list[str]:
    """The lines after the one that begins, before the one that ends."""
    begin = next(i for i, line in enumerate(lines) if '"begin\\n"' in line)
    end = next(i for i, line in enumerate(lines) if '"end\\n"' in line)
    return lines[begin + 1 : end]


@NEEDS_STRACE
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_append_through_the_log_makes_no_more_system_calls_than_its_engine_needs(
    tmp_path: Path, backend: str
) -> None:
    trace = Trace(tmp_path, backend, APPENDS, batch=1, size=PAYLOAD_BYTES)
    assert trace.counts["fdatasync"] == APPENDS
    assert trace.background_syncs == 0
    assert trace.memory <= 8  # the allocator's, now and then
    most = CALLS[backend]
    too_many = {name: count for name, count in trace.counts.items() if count > most.get(name, 0) * APPENDS}
    assert not too_many


@NEEDS_STRACE
@SEGMENTED
def test_appends_write_little_more_than_their_payload(tmp_path: Path) -> None:
    trace = Trace(tmp_path, "segmented", 5, batch=1000, size=PAYLOAD_BYTES)
    assert trace.bytes_written <= 1.15 * 5 * 1000 * PAYLOAD_BYTES


@SEGMENTED
def test_a_byte_of_log_is_prepared_by_one_zero_also_where_segments_are_used_again(tmp_path: Path) -> None:
    size = 64 << 10
    with raftstore.open(f"segmented://{tmp_path}/store?segment_bytes={size}") as log:
        backend: Any = log._session.store.backend
        for _ in range(200):
            log.propose(1, [bytes(1000)] * 16)
            log.purge(log.last_index)
        backend._worker.wait_idle()
        counters = backend.counters
    assert counters.bytes_appended > 40 * size
    assert counters.bytes_prepared <= 1.1 * counters.bytes_appended + 4 * size


def new_log(path: Path, **config: object) -> raftstore.RaftLog:
    return raftstore.open(raftstore.StoreConfig(path=path / "store", **config))  # type: ignore[arg-type]


def background_of_its_own() -> dict[str, object]:
    """MemFirst whose flush never comes while we count."""
    return {"strategy": raftstore.MemFirst(), "flush_policy": raftstore.Batch(10**6, 10**6)}


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """How many Python and C functions this thread calls in the block."""
    calls: Counter[str] = Counter()

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        calls[event] += 1

    with nothing_collected():
        sys.setprofile(count)
        try:
            yield calls
        finally:
            sys.setprofile(None)


@SEGMENTED
@pytest.mark.parametrize(
    ("strategy", "batch", "most"),
    [("DiskFirst", 1, 62), ("DiskFirst", BATCH, 68), ("MemFirst", 1, 28), ("MemFirst", BATCH, 28)],
)
def test_an_append_calls_few_functions_however_many_entries_it_has(
    tmp_path: Path, strategy: str, batch: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "lead", lambda *_: False)  # the flusher takes no write from its caller
    config = background_of_its_own() if strategy == "MemFirst" else {}
    with new_log(tmp_path, **config) as log:
        payloads = [bytes(PAYLOAD_BYTES)] * batch
        for _ in range(10):
            log.propose(1, payloads)
        with counted_calls() as calls:
            for _ in range(APPENDS):
                log.propose(1, payloads)
    assert calls["call"] <= (most + 1) * APPENDS


@pytest.mark.parametrize(
    ("backend", "calls_most", "entry_calls_most"),
    [
        pytest.param("lmdb", 20, 7, marks=pytest.mark.backend("lmdb")),
        pytest.param("rocksdb", 25, 8, marks=pytest.mark.backend("rocksdb")),
    ],
)
def test_a_write_to_an_engine_calls_few_functions_and_few_more_for_each_entry(
    tmp_path: Path, backend: str, calls_most: int, entry_calls_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "rocksdb":
        monkeypatch.setattr("raftstore_rocksdb.room.SURE_S", 1e9)
        monkeypatch.setattr("raftstore_rocksdb.room.SURE_BYTES", 0)
    with new_log(tmp_path, backend=backend) as log:
        log.propose(1, [b""])
        engine = log._session.store.backend
        counts = {size: calls_of_a_write(engine, log, size) for size in (1, BATCH)}
    assert counts[1]["call"] <= calls_most
    assert counts[BATCH]["call"] <= calls_most
    assert counts[BATCH]["c_call"] - counts[1]["c_call"] <= entry_calls_most * BATCH


def calls_of_a_write(engine: DiskBackend, log: raftstore.RaftLog, size: int) -> Counter[str]:
    """The functions that the engine calls in a write of `size` entries; the log's own are left out."""
    honest, found = engine.write, list[Counter[str]]()

    def counting(batch: WriteBatch) -> None:
        with counted_calls() as calls:
            honest(batch)
        found.append(calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "write", counting)
        for _ in range(5):
            log.propose(1, [bytes(PAYLOAD_BYTES)] * size)
    return min(found, key=lambda calls: calls["call"])


@SEGMENTED
@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
def test_an_appended_entry_is_an_object_its_payload_and_its_index(tmp_path: Path, strategy: str) -> None:
    config = background_of_its_own() if strategy == "MemFirst" else {}
    with new_log(tmp_path, **config) as log:
        log.propose(1, [bytes(PAYLOAD_BYTES)] * BATCH)
        blocks, bytes_each = growth(lambda: append_distinct(log))
        held = len(log.entries(log.first_index))
    assert held == (BATCHES + 1) * BATCH  # nothing was evicted
    assert blocks <= 3.2
    assert bytes_each <= ENTRY_BYTES_MAX


def append_distinct(log: raftstore.RaftLog) -> None:
    for number in range(BATCHES):
        log.propose(1, [b"%0*d" % (PAYLOAD_BYTES, number * BATCH + i) for i in range(BATCH)])


def growth(work: Callable[[], object]) -> tuple[float, float]:
    """By how many blocks and bytes the memory grows for each of the entries that `work` keeps."""
    gc.collect()
    tracemalloc.start()
    try:
        blocks, before = sys.getallocatedblocks(), tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        entries = BATCHES * BATCH
        kept = tracemalloc.get_traced_memory()[0] - before
        return (sys.getallocatedblocks() - blocks) / entries, kept / entries
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_asyncio_proposers_share_one_write_while_another_runs(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_log(tmp_path, backend=backend) as log:
        calls = 10 * PROPOSERS
        hold_writes(log, calls, monkeypatch)
        flushes = log.status().flushes

        async def proposer(async_log: AsyncRaftLog) -> None:
            for _ in range(calls // PROPOSERS):
                await async_log.propose(1, [bytes(PAYLOAD_BYTES)])

        async def propose() -> None:
            async_log = AsyncRaftLog(log)
            await asyncio.gather(*(proposer(async_log) for _ in range(PROPOSERS)))

        asyncio.run(propose())
        assert log.status().flushes - flushes <= 0.05 * calls


@SEGMENTED
def test_a_proposal_among_many_calls_few_functions_on_the_thread_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 30
    with new_log(tmp_path) as log, no_thread_cut_short():
        hold_writes(log, rounds * PROPOSERS, monkeypatch)

        async def proposer(async_log: AsyncRaftLog) -> None:
            for _ in range(rounds):
                await async_log.propose(1, [bytes(PAYLOAD_BYTES)])

        async def propose() -> Counter[str]:
            async_log = AsyncRaftLog(log)
            with counted_calls() as calls:
                await asyncio.gather(*(proposer(async_log) for _ in range(PROPOSERS)))
            return calls

        calls = asyncio.run(propose(), debug=False)  # In its debug mode asyncio calls more.
    assert calls["call"] <= 21 * rounds * PROPOSERS  # asyncio's own are ten of them


@contextmanager
def no_thread_cut_short() -> Iterator[None]:
    """A thread runs until it waits, however slow the machine is."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def hold_writes(log: raftstore.RaftLog, calls: int, patch: pytest.MonkeyPatch) -> None:
    """Each takes until every proposer has an entry under way: a disk that is slower than they are."""
    backend = log._session.store.backend
    write = backend.write

    def held(batch: WriteBatch) -> None:
        under_way = min(PROPOSERS, calls - log.durable_index)
        eventually(lambda: log.next_index - 1 - log.durable_index >= under_way, "all have proposed")
        write(batch)

    patch.setattr(backend, "write", held)
