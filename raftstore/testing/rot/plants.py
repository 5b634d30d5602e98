"""Bugs to plant: a run that does not find them proves nothing.

Each is put into the processes that make and open the stores, by replacing a function there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final


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


def _damage_taken_for_torn() -> None:
    scan, recovery = _module("raftstore_segmented.scan"), _module("raftstore_segmented.recovery")

    def look_beyond(*where: Any) -> Any:
        return scan.Rest(scan.look_beyond(*where).stop, None)

    recovery.look_beyond = look_beyond
    _witness_ignored()


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


SEGMENTED, LMDB, ROCKSDB = ("segmented",), ("lmdb",), ("rocksdb",)

PLANTS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[], None]]]] = {
    "witness ignored": ((*SEGMENTED, *LMDB, *ROCKSDB), _witness_ignored),
    "no checksums": (SEGMENTED, _segmented_no_checksum),
    "damage taken for a torn end": (SEGMENTED, _damage_taken_for_torn),
    "no checksums in lmdb": (LMDB, _lmdb_no_checksum),
    "end not proved in lmdb": (LMDB, _lmdb_end_not_proved),
    "no checksums in rocksdb": (ROCKSDB, _rocksdb_no_checksum),
    "clean mark ignored in rocksdb": (ROCKSDB, _rocksdb_clean_mark_ignored),
}
"""By name: the backends that it can be put into, and how."""


def plant(name: str) -> None:
    """Put the bug `name` into this process, for good."""
    PLANTS[name][1]()


def plants_for(backend: str) -> list[str]:
    """The bugs that can be put into `backend`."""
    return [name for name, (backends, _) in PLANTS.items() if backend in backends]
