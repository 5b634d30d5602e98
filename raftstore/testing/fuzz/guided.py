"""Fuzzes one target in this process, which ends with it: guided by coverage, by atheris.

To be imported while atheris instruments imports, see `COMMAND`.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from raftstore.testing.fuzz.target import Guard
from raftstore.testing.fuzz.targets import target_named

PACKAGES: Final = ("raftstore", "raftstore_segmented", "raftstore_lmdb", "raftstore_rocksdb")
COMMAND: Final = f"""
import sys, atheris
with atheris.instrument_imports(include={list(PACKAGES)!r}, enable_loader_override=False):
    from raftstore.testing.fuzz.guided import fuzz
    from raftstore.testing.fuzz.targets import module_of
    module_of(sys.argv[1])
fuzz(sys.argv[1], sys.argv[2], sys.argv[3:])
"""
"""For `python -c`: the name of a target, an empty directory for it, then arguments of libFuzzer."""


def memory() -> Path | None:
    """A place for files that are soon gone, in memory if there is one."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


def fuzz(name: str, directory: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process, with a status that is not 0 if something was found."""
    atheris: Any = importlib.import_module("atheris")
    scratch = Path(directory).resolve()
    target = target_named(name, scratch)
    guard = Guard(scratch)
    guard.warm_up(target)
    atheris.Setup([sys.argv[0], *arguments], partial(guard.run, target))
    atheris.Fuzz()
