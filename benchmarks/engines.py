"""`lmdb` and `rocksdb` beside the same engine driven from C and C++: same batches, same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.bench import TERM, Bench, open_log, timed_until
from benchmarks.native import Native, compile_program
from benchmarks.result import Outcome
from raftstore import RaftLog
from raftstore.compare.payloads import Payloads

SIZE: Final = 1024
SLICE_S: Final = 0.2
ROUNDS: Final = 30
WRITE_BUFFER_BYTES: Final = 8 << 20
"""The backend's default."""


def lmdb(batch: int) -> Callable[[Bench], Outcome]:
    return lambda bench: _beside(bench, "lmdb", batch)


def rocksdb(batch: int) -> Callable[[Bench], Outcome]:
    return lambda bench: _beside(bench, "rocksdb", batch)


def _beside(bench: Bench, engine: str, batch: int) -> Outcome:
    """The ratio of our rate to the engine's in each round."""
    ours: list[float] = []
    native: list[float] = []
    with bench.new_path_removed() as path, _start(bench, engine, path) as program:
        with open_log(path / "ours", backend=engine) as log:
            _work(log, batch, SLICE_S)
            program.batch(batch, SIZE, SLICE_S)
            for _ in range(bench.rounds(ROUNDS)):
                before = program.batch(batch, SIZE, SLICE_S / 2)
                ours.append(_work(log, batch, SLICE_S))
                native.append((before + program.batch(batch, SIZE, SLICE_S / 2)) / 2)
        bare_us = _bare_us(engine, path / "bare", batch)
        versions = {
            "version driven from C": program.version,
            "version in ours": _version(engine, path / "ours"),
        }
    calls_us = {
        "C, µs a write": 1e6 * batch / median(native),
        "the binding in a loop in Python": bare_us,
        "ours": 1e6 * batch / median(ours),
        "added, µs": 1e6 * batch * (1 / median(ours) - 1 / median(native)),
    }
    return Outcome([our / c for our, c in zip(ours, native, strict=True)], {**calls_us, **versions})


class _BareLmdb:
    """The binding in a loop: one transaction a write."""

    def __init__(self, path: Path) -> None:
        import lmdb as binding

        path.mkdir()
        self._environment = binding.open(str(path), map_size=64 << 30, max_dbs=1)
        self._entries = self._environment.open_db(b"entries")
        self._next = 1

    def write(self, payloads: list[bytes]) -> None:
        items = [((self._next + i).to_bytes(8, "big"), payload) for i, payload in enumerate(payloads)]
        self._next += len(items)
        with self._environment.begin(write=True) as txn, txn.cursor(self._entries) as cursor:
            cursor.putmulti(items, append=True)

    def close(self) -> None:
        self._environment.close()


class _BareRocksdb:
    """The binding in a loop: one batch a write, then the log is synced."""

    def __init__(self, path: Path) -> None:
        import rocksdict as binding

        options = binding.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_recycle_log_file_num(1)
        options.set_compression_type(binding.DBCompressionType.none())
        self._binding = binding
        self._db = binding.Rdict(str(path), options)
        self._next = 1

    def write(self, payloads: list[bytes]) -> None:
        batch = self._binding.WriteBatch(raw_mode=True)
        for payload in payloads:
            batch.put(self._next.to_bytes(8, "big"), payload)
            self._next += 1
        self._db.write(batch)
        self._db.flush_wal(True)

    def close(self) -> None:
        self._db.close()


def _bare_us(engine: str, path: Path, batch: int) -> float:
    """Microseconds of a durable write through the Python binding, without raftstore."""
    bare = _BareLmdb(path) if engine == "lmdb" else _BareRocksdb(path)
    try:
        payloads = Payloads(SIZE, batch)
        for seconds in (SLICE_S, 5 * SLICE_S):  # The first is to warm up.
            started = perf_counter()
            calls = timed_until(started + seconds, perf_counter, lambda: bare.write(payloads.take()))
            took = perf_counter() - started
        return 1e6 * took / calls
    finally:
        bare.close()


def _work(log: RaftLog, batch: int, seconds: float) -> float:
    payloads, started = Payloads(SIZE, batch), perf_counter()
    calls = timed_until(started + seconds, perf_counter, lambda: log.propose(TERM, payloads.take()))
    return calls * batch / (perf_counter() - started)


def _start(bench: Bench, engine: str, path: Path) -> Native:
    path.mkdir()
    store = path / "native"
    store.mkdir()
    if engine == "lmdb":
        return Native(compile_program("lmdb.c", path, ["-llmdb"], needs="gcc and liblmdb-dev"), str(store))
    flags = ["-std=c++17", "-lrocksdb"]
    program = compile_program("rocksdb.cc", path, flags, needs="g++ and librocksdb-dev")
    return Native(program, str(store), str(WRITE_BUFFER_BYTES))


def _version(engine: str, store: Path) -> str:
    """Of the engine inside the Python binding."""
    if engine == "lmdb":
        import lmdb as binding

        return ".".join(map(str, binding.version()))
    options = next(store.rglob("OPTIONS-*")).read_text()
    return next(line.split("=")[1] for line in options.splitlines() if "rocksdb_version=" in line)
