"""What connects a journal with PySyncObj: the transport that waits for it, and the node that opens it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftstore.adapters.pysyncobj import library
from raftstore.adapters.pysyncobj.dumps import DurableSerializer, keep_in_a_file
from raftstore.adapters.pysyncobj.journal import RaftStoreJournal, StoreSource
from raftstore.errors import ConfigError

_pysyncobj: Any = library.load()
_SyncObj: Any = _pysyncobj.SyncObj
_TCPTransport: Any = _pysyncobj.transport.TCPTransport

_JOURNAL_ATTRIBUTE = "_SyncObj__raftLog"
SERIALIZER_ATTRIBUTE = "_SyncObj__serializer"


def journal_of(sync_obj: Any) -> RaftStoreJournal | None:
    """The journal of a node, or None if it is not one of ours. Open to the node's callbacks and to tests."""
    journal = sync_obj.__dict__.get(_JOURNAL_ATTRIBUTE)
    return journal if isinstance(journal, RaftStoreJournal) else None


def attach(sync_obj: Any, self_node: Any) -> None:
    """Tell the journal of `sync_obj` that a transport waits for it. A read-only node owns no journal."""
    journal = journal_of(sync_obj)
    if journal is not None and self_node is not None:
        journal.attach(self_node.id)
        keep_in_a_file(sync_obj, sync_obj.__dict__[SERIALIZER_ATTRIBUTE], journal.log.config.path)


def wait_until_durable(sync_obj: Any, message: Any) -> None:
    """Return when `message` may leave. Raises what the store raises; then it must not."""
    journal = journal_of(sync_obj)
    if journal is not None:
        journal.before_send(message)


class DurableTransportMixin:
    """Put before a `Transport` class: a message leaves when what it promises is durable.

    `class MyTransport(DurableTransportMixin, TheirTransport): pass`, then `transportClass=MyTransport`.
    """

    def __init__(self, syncObj: Any, selfNode: Any, otherNodes: Iterable[Any]) -> None:  # noqa: N803
        self._journal_owner = syncObj
        super().__init__(syncObj, selfNode, otherNodes)  # type: ignore[call-arg]
        attach(syncObj, selfNode)

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
            keep_in_a_file(node, serializer, journal.log.config.path)


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

    def makeJournal(self) -> RaftStoreJournal:  # noqa: N802  # in PySyncObj's style: subclasses may override it
        """The journal, asked for once, by `SyncObj.__init__`."""
        source: StoreSource | RaftStoreJournal = self.__dict__["_raftstore_source"]
        return source if isinstance(source, RaftStoreJournal) else RaftStoreJournal(source)
