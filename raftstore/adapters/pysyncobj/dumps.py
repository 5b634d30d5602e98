"""PySyncObj's dumps, made durable: they are all that is left of the entries that were purged for them.

PySyncObj writes a dump (its own, or one that the leader sent) to a temporary file, renames it over the dump
before, and drops from the journal what it covers. It syncs nothing. With a journal that is durable, a power
cut then leaves an empty dump beside a log without its beginning: what was acknowledged is gone. Here the dump
is durable before its name, and its name before anything is purged.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import FunctionType
from typing import Any

from raftstore.adapters.pysyncobj import library

_serializer: Any = library.load().serializer


def replace_durably(temporary: str, name: str) -> None:
    """Rename the file `temporary` to `name`, over what was there; durable on return.

    After a crash at any moment `name` is the file that was there or the new one, complete. Takes the place of
    PySyncObj's `atomicReplace`.
    """
    _sync(Path(temporary))
    _sync(Path(temporary).replace(name).parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _durable(method: Any) -> Any:
    """The same method, for which `atomicReplace` means `replace_durably`; PySyncObj stays as it is."""
    return FunctionType(method.__code__, {**method.__globals__, "atomicReplace": replace_durably})


class DurableSerializer(_serializer.Serializer):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj's serializer, whose dumps are durable before they count."""

    serialize = _durable(_serializer.Serializer.serialize)
    setTransmissionData = _durable(_serializer.Serializer.setTransmissionData)  # noqa: N815
