"""The table of all targets: by name, and the module that has them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from raftstore.testing.fuzz.target import Target

MODULES: Final = {
    "core": ("format", "witness", "lock", "state", "config", "url"),
    "reports": ("report",),
    "segmented": ("segment-frame", "segment-head", "segment-index", "segment-snapshot", "segment"),
    "lmdb": ("lmdb-record", "lmdb-head"),
    "rocksdb": ("rocksdb-row", "rocksdb-mark"),
    "pysyncobj": ("pysyncobj-journal", "pysyncobj-meta"),
}
NAMES: Final = tuple(name for names in MODULES.values() for name in names)


def target_named(name: str, scratch: Path) -> Target:
    """The target, which may use files in the empty directory `scratch`.

    Raises `ImportError` or `BackendMissingError` if a library that it needs is not installed.
    """
    targets: list[Target] = module_of(name).targets(scratch)
    return next(target for target in targets if target.name == name)


def module_of(name: str) -> Any:
    """The module that has the target. Raises as `target_named`."""
    module = next(module for module, names in MODULES.items() if name in names)
    return importlib.import_module(f"raftstore.testing.fuzz.{module}")
