"""What connects a journal with PySyncObj: the transport that waits for it, and the node that opens it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.dumps import DurableSerializer, settle_dumps
from raftstore.adapters.pysyncobj.full_disk import FullDisk
from raftstore.adapters.pysyncobj.journal import RaftStoreJournal, StoreSource
from raftstore.errors import ConfigError, StoreFullError

_pysyncobj: Any = library.load()
_SyncObj: Any = _pysyncobj.SyncObj
_TCPTransport: Any = _pysyncobj.transport.TCPTransport

Callback = Callable[[Any, dict[str, Any]], None]
"""What a transport calls with a message, and the node that sent it."""

logger = logging.getLogger("raftstore")

FULL_DISK_PAUSE_S: Final = 0.05
"""How long a tick that a full disk ended takes at least: what it could not do is tried again at once."""
_JOURNAL_ATTRIBUTE = "_SyncObj__raftLog"
SERIALIZER_ATTRIBUTE = "_SyncObj__serializer"
_FULL_DISK_ATTRIBUTE = "_raftstore_full_disk"


def journal_of(sync_obj: Any) -> RaftStoreJournal | None:
    """The journal of a node, or None if it is not one of ours. Open to the node's callbacks and to tests."""
    journal = sync_obj.__dict__.get(_JOURNAL_ATTRIBUTE)
    return journal if isinstance(journal, RaftStoreJournal) else None


def attach(sync_obj: Any, self_node: Any) -> None:
    """Tell the journal of `sync_obj` that a transport waits for it. A read-only node owns no journal."""
    journal = journal_of(sync_obj)
    if journal is not None and self_node is not None:
        with journal.closed_if_refused():
            journal.attach(self_node.id)
            settle_dumps(sync_obj, sync_obj.__dict__[SERIALIZER_ATTRIBUTE], journal)


def wait_until_durable(sync_obj: Any, message: Any) -> None:
    """Return when `message` may leave. Raises what the store raises; then it must not."""
    journal = journal_of(sync_obj)
    if journal is not None:
        journal.before_send(message)


def compared_only(sync_obj: Any, message: dict[str, Any]) -> dict[str, Any]:
    """The message as PySyncObj may take it: nothing is committed in a log that was not compared.

    While a leader sends its dump, its messages name its commit index, and PySyncObj would take that for
    what its own log holds up to there: entries that no majority has. None of them could ever be replaced.
    """
    if "serialized" in message and journal_of(sync_obj) is not None:
        return {**message, "commit_index": 0}
    return message


def heeding(sync_obj: Any, callback: Callback | None) -> Callback | None:
    """`callback`, given messages that are `compared_only`."""
    if callback is None:
        return None

    def heed(node: Any, message: dict[str, Any]) -> None:
        callback(node, compared_only(sync_obj, message))

    return heed


def tick(original: Callable[..., None], node: Any, time_to_wait: float) -> None:
    """A tick that a full disk ends is logged now and then, and the next one goes on: as in PySyncObj's own
    thread. A program that ticks by itself, as Patroni does, would lose its thread.
    """
    try:
        original(node, time_to_wait)
    except StoreFullError as error:
        full = node.__dict__.setdefault(_FULL_DISK_ATTRIBUTE, FullDisk())
        _tell(full.refused(time.monotonic(), _durable_index(node), error))
        time.sleep(max(time_to_wait, FULL_DISK_PAUSE_S))
    else:
        full = node.__dict__.get(_FULL_DISK_ATTRIBUTE)
        if full is not None:
            _tell(full.passed(_durable_index(node)))


def _durable_index(node: Any) -> int:
    journal = journal_of(node)
    return 0 if journal is None else journal.log.durable_index


def _tell(words: str | None) -> None:
    if words is not None:
        logger.warning("%s", words)


class DurableTransportMixin:
    """Put before a `Transport` class: a message leaves when what it promises is durable.

    `class MyTransport(DurableTransportMixin, TheirTransport): pass`, then `transportClass=MyTransport`.
    """

    def __init__(self, syncObj: Any, selfNode: Any, otherNodes: Iterable[Any]) -> None:  # noqa: N803
        self._journal_owner = syncObj
        super().__init__(syncObj, selfNode, otherNodes)  # type: ignore[call-arg]
        attach(syncObj, selfNode)

    def setOnMessageReceivedCallback(self, callback: Any) -> None:  # noqa: N802  # PySyncObj's name
        """Let `callback` have what comes in, but no commit index of a log that was not compared."""
        super().setOnMessageReceivedCallback(  # type: ignore[misc]
            heeding(self._journal_owner, callback)
        )

    def send(self, node: Any, message: Any) -> bool:
        """Wait for the journal, then send."""
        wait_until_durable(self._journal_owner, message)
        return bool(super().send(node, message))  # type: ignore[misc]


class DurableTCPTransport(DurableTransportMixin, _TCPTransport):  # type: ignore[misc]
    """PySyncObj's own transport, waiting for the journal."""


class _JournalSlot:
    """Set-only: whatever `SyncObj.__init__` puts here becomes the node's store. Reading goes past it."""

    def __set__(self, node: StoreSyncObj, journal: object) -> None:
        node.__dict__[_JOURNAL_ATTRIBUTE] = node.makeJournal()


class SerializerSlot:
    """Set-only: the serializer that `SyncObj.__init__` puts here makes durable dumps from then on."""

    def __set__(self, node: StoreSyncObj, serializer: Any) -> None:
        serializer.__class__ = DurableSerializer
        node.__dict__[SERIALIZER_ATTRIBUTE] = serializer
        journal = journal_of(node)
        if journal is not None:
            with journal.closed_if_refused():
                settle_dumps(node, serializer, journal)


class StoreSyncObj(_SyncObj):  # type: ignore[misc]
    """A `SyncObj` that keeps its journal in `store`, without any change to PySyncObj.

    Takes what `SyncObj` takes. Leave `journalFile` out of `conf`; without `fullDumpFile` in it, dumps are in
    `STORE.dump`, beside the store. A `transportClass` of your own should have
    `DurableTransportMixin` before it; without, every single entry is made durable by itself, which is slow.
    """

    _SyncObj__raftLog = _JournalSlot()
    _SyncObj__serializer = SerializerSlot()

    def __init__(
        self,
        selfNode: Any,  # noqa: N803
        otherNodes: Iterable[Any],  # noqa: N803
        conf: Any = None,
        *,
        store: StoreSource | RaftStoreJournal,
        transportClass: Any = DurableTCPTransport,  # noqa: N803
        **arguments: Any,
    ) -> None:
        if conf is not None and conf.journalFile is not None:
            raise ConfigError(
                "the journal is given by `store`; leave it out of SyncObjConf", key="journalFile"
            )
        self.__dict__["_raftstore_source"] = store
        arguments["transportClass"] = transportClass
        super().__init__(selfNode, otherNodes, conf, **arguments)  # pyright: ignore[reportUnknownMemberType]

    def doTick(self, timeToWait: float = 0.0) -> None:  # noqa: N802, N803
        """One tick. On a full disk it ends early, and the next one tries again."""
        tick(_SyncObj.doTick, self, timeToWait)

    def makeJournal(self) -> RaftStoreJournal:  # noqa: N802  # in PySyncObj's style: subclasses may override it
        """The journal, asked for once, by `SyncObj.__init__`."""
        source: StoreSource | RaftStoreJournal = self.__dict__["_raftstore_source"]
        return source if isinstance(source, RaftStoreJournal) else RaftStoreJournal(source)
