"""PySyncObj's dumps, made durable: they are all that is left of the entries that were purged for them.

PySyncObj writes a dump (its own, or one that the leader sent) to a temporary file, renames it over the dump
before, and drops from the journal what it covers. It syncs nothing. With a journal that is durable, a power
cut then leaves an empty dump beside a log without its beginning: what was acknowledged is gone. Here the dump
is durable before its name, and its name before anything is purged.

A dump of its own is written by a forked child, which may take long, outlive a killed parent, and end when a
newer dump has come from the leader. It must not take that one's place: the log begins behind it.

Without `fullDumpFile` PySyncObj keeps its dumps in memory, and all the same drops from the journal what they
cover: after five minutes a restart finds neither. So a node on a store always has a file for them.
"""

from __future__ import annotations

import copy
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from raftstore.adapters.pysyncobj import library

_serializer: Any = library.load().serializer

CONF: Final = "_SyncObj__conf"
_FILE: Final = "_Serializer__fileName"
_DESERIALIZER: Final = "_Serializer__deserializer"
_PIECE_BYTES: Final = 1 << 20


def replace_durably(temporary: str, name: str) -> None:
    """Rename the file `temporary` to `name`, over what was there; durable on return.

    After a crash at any moment `name` is the file that was there or the new one, complete. Takes the place of
    PySyncObj's `atomicReplace`.
    """
    _sync(Path(temporary))
    _sync(Path(temporary).replace(name).parent)


def _replace_whole(temporary: str, name: str) -> None:
    """The same for a dump that came in pieces. Raises `OSError` or `EOFError` if it is not whole."""
    with gzip.open(temporary) as dump:
        if not dump.read(_PIECE_BYTES):
            raise EOFError("the dump that came is empty")
        while dump.read(_PIECE_BYTES):
            pass
    replace_durably(temporary, name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(file: Path) -> tuple[int, int] | None:
    """Tells one file of a name from the next; None if there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _replacing(method: Any, replace: Callable[[str, str], None]) -> Any:
    """The same method, for which `atomicReplace` means `replace`; PySyncObj stays as it is."""
    return FunctionType(method.__code__, {**method.__globals__, "atomicReplace": replace})


class DurableSerializer(_serializer.Serializer):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj's serializer, whose dumps are durable before they count, and never replace a newer one."""

    def setTransmissionData(self, data: Any) -> bool:  # noqa: N802  # PySyncObj's name
        """Take the next piece of a dump; True if it was the last, and the dump is durable under its name."""
        replace = _replace_whole if self.__dict__[_DESERIALIZER] is None else replace_durably
        return bool(_replacing(_serializer.Serializer.setTransmissionData, replace)(self, data))

    def serialize(self, data: Any, id: int) -> None:  # PySyncObj's name
        """Write a dump, in a forked child if PySyncObj may fork. It fails if another has come meanwhile."""
        file = self.__dict__[_FILE]
        before = None if file is None else _version(Path(file))

        def replace(temporary: str, name: str) -> None:
            _sync(Path(temporary))
            if _version(Path(name)) != before:
                raise FileExistsError(f"{name} was replaced while this dump of it was written")
            replace_durably(temporary, name)

        parent = os.getpid()
        try:
            _replacing(_serializer.Serializer.serialize, replace)(self, data, id)
        except BaseException:  # SystemExit from a signal's handler, say: the child must not seem successful.
            if os.getpid() != parent:
                os._exit(1)
            raise


def keep_in_a_file(node: Any, serializer: Any, store: Path) -> None:
    """Let `node` keep its dumps beside its store, in `STORE.dump`, if its conf names no file for them.

    To be called before its first tick. The conf may be shared with other nodes; it is left as it is.
    """
    conf = node.__dict__[CONF]
    if conf.fullDumpFile is None:
        conf = node.__dict__[CONF] = copy.copy(conf)
        conf.fullDumpFile = serializer.__dict__[_FILE] = str(store.with_name(f"{store.name}.dump"))
