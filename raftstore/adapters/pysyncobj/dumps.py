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
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any, Final, Protocol

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.replacing import replace_durably, replacing_only, take_turn
from raftstore.errors import ConfigError, GapError
from raftstore.log import RaftLog

_serializer: Any = library.load().serializer
_STATE: Any = library.load().SERIALIZER_STATE

CONF: Final = "_SyncObj__conf"
logger = logging.getLogger("raftstore")

_FILE: Final = "_Serializer__fileName"
_DESERIALIZER: Final = "_Serializer__deserializer"
_PID: Final = "_Serializer__pid"
_INCOMING: Final = "_Serializer__incomingTransmissionFile"
_FAILED: Final = -2
"""The pid that PySyncObj notes for a dump that could not be written, without a child."""
_PIECE_BYTES: Final = 1 << 20
_JOURNAL: Final = "_raftstore_journal"
_LOADED: Final = "_raftstore_loaded"
_IS_OVERTAKEN: Final = "_raftstore_is_overtaken"


class _Journal(Protocol):
    """What a serializer wants of its node's journal."""

    @property
    def log(self) -> RaftLog: ...

    def expect_dump(self) -> None: ...


def _check_whole(temporary: str) -> None:
    """Raise `OSError` or `EOFError` if a dump that came in pieces is not whole."""
    with gzip.open(temporary) as dump:
        if not dump.read(_PIECE_BYTES):
            raise EOFError("the dump that came is empty")
        while dump.read(_PIECE_BYTES):
            pass


def _replacing(method: Any, replace: Callable[[str, str], None]) -> Any:
    """The same method, for which `atomicReplace` means `replace`; PySyncObj stays as it is."""
    return FunctionType(method.__code__, {**method.__globals__, "atomicReplace": replace})


class DurableSerializer(_serializer.Serializer):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj's serializer, whose dumps are durable before they count, and never replace a newer one."""

    def setTransmissionData(self, data: Any) -> bool:  # noqa: N802  # PySyncObj's name
        """Take the next piece of a dump; True if it was the last, and the dump is durable under its name.

        A dump that is not whole, cannot be loaded or is older than the log's beginning takes no place, and
        is removed.
        """
        replace = self._replace_checked if self.__dict__[_DESERIALIZER] is None else replace_durably
        try:
            has_come = bool(_replacing(_serializer.Serializer.setTransmissionData, replace)(self, data))
        except OSError:  # Closing the file wrote its last bytes.
            logger.exception("the dump that came is not written to %s", self.__dict__[_FILE])
            has_come, self.__dict__[_INCOMING] = False, None
        if not has_come and self.__dict__[_INCOMING] is None and self.__dict__[_FILE] is not None:
            with suppress(OSError):
                Path(f"{self.__dict__[_FILE]}.1.tmp").unlink()
        if has_come:
            self.__dict__[_IS_OVERTAKEN] = self.__dict__[_PID] != 0
            if (journal := self._journal) is not None:
                journal.expect_dump()
        return has_come

    def deserialize(self) -> Any:
        """The dump. One that has just come was loaded already, before it took its place."""
        loaded = self.__dict__.pop(_LOADED, None)
        return _serializer.Serializer.deserialize(self) if loaded is None else loaded

    def serialize(self, data: Any, id: int) -> None:  # PySyncObj's name
        """Write a dump, in a forked child if PySyncObj may fork. It fails if another has come meanwhile."""
        file = self.__dict__[_FILE]
        if file is None or self.__dict__[_PID] != 0:  # In memory; or one is being written.
            _serializer.Serializer.serialize(self, data, id)
            return
        parent = os.getpid()
        try:
            replace = replacing_only(take_turn(Path(file)), parent)
        except OSError:
            logger.exception("no dump is written to %s", file)
            return
        try:
            _replacing(_serializer.Serializer.serialize, replace)(self, data, id)
        except BaseException:  # SystemExit from a signal's handler, say: the child must not seem successful.
            if os.getpid() != parent:
                os._exit(1)
            raise

    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802
        """What became of the dump. One that could not be put in its place failed, whatever a checker says.

        So did one that another has replaced meanwhile: the log must not be purged for it.
        """
        has_failed = self.__dict__[_PID] == _FAILED
        state, number = _serializer.Serializer.checkSerializing(self)
        if has_failed and state in (_STATE.SUCCESS, _STATE.NOT_SERIALIZING):
            self.__dict__[_PID] = 0
            state = _STATE.FAILED
        if self.__dict__[_PID] == 0 and self.__dict__.pop(_IS_OVERTAKEN, False) and state == _STATE.SUCCESS:
            state = _STATE.FAILED
        return state, number

    @property
    def _journal(self) -> _Journal | None:
        return self.__dict__.get(_JOURNAL)

    def _replace_checked(self, temporary: str, name: str) -> None:
        """`replace_durably`, if the dump `temporary` is whole, can be loaded, and is not an older one."""
        _check_whole(temporary)
        journal, loaded = self._journal, None
        if journal is not None:
            loaded = self._load(temporary)
            _check_is_wanted(loaded, journal.log)
        replace_durably(temporary, name)
        self.__dict__[_LOADED] = loaded

    def _load(self, file: str) -> Any:
        """What PySyncObj would load from `file`."""
        other = copy.copy(self)
        other.__dict__[_FILE] = file
        return _serializer.Serializer.deserialize(other)


def _check_is_wanted(dump: Any, log: RaftLog) -> None:
    """Raise `GapError` if `log` was purged for a newer dump than this, which a leader may send once more."""
    first = dump[2][1]
    if first < log.first_index:
        raise GapError(
            f"a dump of index {first} came, and the log begins at {log.first_index}, for it was purged for a "
            "newer dump: both stay as they are, and the leader is told where the log ends"
        )


def default_dump(store: Path) -> Path:
    """Where the dumps of a node are whose conf names no file for them: beside its store, in `STORE.dump`."""
    return store.with_name(f"{store.name}.dump")


def settle_dumps(node: Any, serializer: Any, journal: _Journal) -> None:
    """Let `node` keep its dumps in a file, and make sure that it has the one that its log begins after.

    To be called before its first tick. The conf may be shared with other nodes; it is left as it is. Raises
    `ConfigError` if the log has no beginning and there is no dump: the node would start without its state.
    """
    conf, log = node.__dict__[CONF], journal.log
    serializer.__dict__[_JOURNAL] = journal
    if conf.fullDumpFile is None:
        conf = node.__dict__[CONF] = copy.copy(conf)
        conf.fullDumpFile = serializer.__dict__[_FILE] = str(default_dump(log.config.path))
    if log.first_index > 1 and not Path(conf.fullDumpFile).is_file():
        raise ConfigError(
            f"the log begins at {log.first_index}, and there is no dump of what came before it at "
            f"{conf.fullDumpFile}: bring the dump back, or let the node join anew, with an empty store",
            key="fullDumpFile",
        )
