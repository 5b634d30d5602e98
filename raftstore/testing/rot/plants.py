"""Bugs to plant: a run that does not find them proves nothing.

Each is put into the processes that make and open the stores, by replacing a function there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _answering(value: object) -> Callable[..., Any]:
    """A function that always returns `value`."""

    def answer(*_: object, **__: object) -> object:
        return value

    return answer


def _witness_ignored() -> None:
    _module("raftstore.store").judge = _answering("no")


def _segmented_no_checksum() -> None:
    _module("raftstore_segmented.segment").checksum = _answering(_answering(0))


def _lmdb_no_checksum() -> None:
    _module("raftstore_lmdb._tables").checksum = _answering(_answering(0))


def _lmdb_end_not_proved() -> None:
    """LMDB's newest transaction is believed, whatever the older meta page and the witness say."""
    _module("raftstore_lmdb._head")._Reader._is_older = _answering(True)
    _witness_ignored()


def _rocksdb_no_checksum() -> None:
    """Neither RocksDB's nor ours is looked at."""
    engine, layout = _module("raftstore_rocksdb.engine"), _module("raftstore_rocksdb.layout")
    honest, trusting = engine.ReadOptions, engine.ReadOptions()
    trusting.set_verify_checksums(False)

    def read_options() -> Any:
        made = honest()
        made.set_verify_checksums(False)
        return made

    def get(self: Any, key: bytes) -> Any:
        return self._db.get(key, read_opt=trusting)

    def proof(_key: bytes, value: bytes) -> int:
        return int.from_bytes(value[:4], "big")

    engine.ReadOptions, engine.Engine.get, layout._proof = read_options, get, proof


def _rocksdb_clean_mark_ignored() -> None:
    for name in ("look", "opening"):
        _module(f"raftstore_rocksdb.{name}").read_clean = _answering(None)
    _witness_ignored()


class Plant(msgspec.Struct, frozen=True):
    """A bug: where it can be put in, and the kinds of faults that find it soonest; None: all do."""

    put_in: Callable[[], None]
    backends: tuple[str, ...]
    kinds: tuple[str, ...] | None = None


ENDS: Final = ("deleted file", "truncated file", "stale file")

PLANTS: Final[Mapping[str, Plant]] = {
    "witness ignored": Plant(_witness_ignored, ("segmented", "lmdb", "rocksdb"), ENDS),
    "no checksums": Plant(_segmented_no_checksum, ("segmented",)),
    "no checksums in lmdb": Plant(_lmdb_no_checksum, ("lmdb",)),
    "end not proved in lmdb": Plant(_lmdb_end_not_proved, ("lmdb",), ENDS),
    "no checksums in rocksdb": Plant(_rocksdb_no_checksum, ("rocksdb",)),
    "clean mark ignored in rocksdb": Plant(_rocksdb_clean_mark_ignored, ("rocksdb",), ENDS),
}


def plant(name: str) -> None:
    """Put the bug `name` into this process, for good."""
    PLANTS[name].put_in()


def plants_for(backend: str) -> list[str]:
    """The bugs that can be put into `backend`, by name."""
    return [name for name, plant in PLANTS.items() if backend in plant.backends]
