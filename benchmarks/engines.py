"""`lmdb` and `rocksdb` beside the same engine driven from C and C++: same batches, same run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.bench import TERM, Bench, open_log, timed_until
from benchmarks.native import Native, compile_program
from benchmarks.result import Outcome
from raftstore.backend import DiskBackend
from raftstore.batch import WriteBatch
from raftstore.compare.payloads import Payloads
from raftstore.entry import Entry
from raftstore.registry import backend_class

SIZE: Final = 1024
SLICE_S: Final = 0.2
ROUNDS: Final = 30
WRITE_BUFFER_BYTES: Final = 8 << 20
"""The backend's default."""

BINDING: Final = "the binding in a loop in Python"
BACKEND: Final = "our backend without the log"
OURS: Final = "ours"


def lmdb(batch: int) -> Callable[[Bench], Outcome]:
    return lambda bench: _beside(bench, "lmdb", batch)


def rocksdb(batch: int) -> Callable[[Bench], Outcome]:
    return lambda bench: _beside(bench, "rocksdb", batch)


def _beside(bench: Bench, engine: str, batch: int) -> Outcome:
    """The ratio of our rate to the engine's in each round; what lies between takes its turn in each too."""
    native: list[float] = []
    rates: dict[str, list[float]] = {BINDING: [], BACKEND: [], OURS: []}
    with bench.new_path_removed() as path, _start(bench, engine, path) as program:
        with (
            closing(_bare(engine, path / "bare")) as bare,
            closing(_Backend(engine, path / "backend")) as backend,
            open_log(path / "ours", backend=engine) as log,
        ):
            writes: dict[str, Callable[[list[bytes]], object]] = {
                BINDING: bare.write,
                BACKEND: backend.write,
                OURS: lambda payloads: log.propose(TERM, payloads),
            }
            seconds = bench.seconds(SLICE_S)
            for write in writes.values():
                _work(write, batch, seconds)
            program.batch(batch, SIZE, seconds)
            for _ in range(bench.rounds(ROUNDS)):
                before = program.batch(batch, SIZE, seconds / 2)
                for name, write in writes.items():
                    rates[name].append(_work(write, batch, seconds))
                native.append((before + program.batch(batch, SIZE, seconds / 2)) / 2)
        versions = {
            "version driven from C": program.version,
            "version in ours": _version(engine, path / "ours"),
        }
    calls_us = {"C, µs a write": 1e6 * batch / median(native)}
    calls_us |= {name: 1e6 * batch / median(found) for name, found in rates.items()}
    calls_us["added, µs"] = calls_us[OURS] - calls_us["C, µs a write"]
    return Outcome([our / c for our, c in zip(rates[OURS], native, strict=True)], {**calls_us, **versions})


class _Backend:
    """Our backend, without the log above it."""

    def __init__(self, engine: str, path: Path) -> None:
        path.mkdir(mode=0o700)
        self._backend: DiskBackend = backend_class(engine)(path)  # type: ignore[call-arg]
        self._number, self._next = 1, 1

    def write(self, payloads: list[bytes]) -> None:
        entries = [Entry(TERM, self._next + i, payload) for i, payload in enumerate(payloads)]
        self._backend.write(WriteBatch(self._number, entries=entries))
        self._number += 1
        self._next += len(entries)

    def close(self) -> None:
        self._backend.close()


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
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_write_buffer_number(3)
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


def _bare(engine: str, path: Path) -> _BareLmdb | _BareRocksdb:
    return _BareLmdb(path) if engine == "lmdb" else _BareRocksdb(path)


def _work(write: Callable[[list[bytes]], object], batch: int, seconds: float) -> float:
    """Entries a second."""
    payloads, started = Payloads(SIZE, batch), perf_counter()
    calls = timed_until(started + seconds, perf_counter, lambda: write(payloads.take()))
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
