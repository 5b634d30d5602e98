"""`install`: every journal of this process becomes a store, PySyncObj waits for it, and for its dumps."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from raftstore import config
from raftstore.adapters.pysyncobj import library, wiring
from raftstore.adapters.pysyncobj.journal import RaftStoreJournal
from raftstore.errors import ConfigError
from raftstore.log import RaftLog
from raftstore.sources import is_url

Template = str | os.PathLike[str] | config.StoreConfig
Change = tuple[Any, str, object]
"""The name of an owner of names that means something else from now on."""

_pysyncobj: Any = library.load()
_HEADER: Final = b"PYSYNCOBJ"
"""How PySyncObj's own journal files begin."""

_uninstall: Callable[[], None] | None = None


def install(template: Template = "segmented://{path}", *, adopt: bool = False) -> Callable[[], None]:
    """Keep every journal that a `SyncObj` of this process opens from now on in a store.

    `SyncObjConf.journalFile` may be the URL of a store, a `StoreConfig`, an open `RaftLog` or a
    `RaftStoreJournal`. Any other path is put into `template`, a URL, the path of a TOML file or a
    `StoreConfig`: `{path}` stands for the absolute path (in a URL only), `{name}` for its last part. So a
    program that only knows a file name, as Patroni does, needs no change. Without `journalFile` a journal
    stays in memory. A store that another node used is refused, unless `adopt` (nodes change their addresses).

    Without `fullDumpFile`, dumps are in `STORE.dump`, beside the store: PySyncObj would keep them in memory,
    and drop from the journal what they cover.

    On a full disk `doTick` ends early and logs why, as PySyncObj's own thread does: the next one tries again.

    Call it once, before the first `SyncObj`; a second call replaces the template. Returns a function that
    undoes it. Raises `ConfigError` for a template that is wrong, or if a `SyncObj` exists already.
    """
    global _uninstall
    _check_template(template)
    _check_no_node_exists()
    if _uninstall is not None:
        _uninstall()
    _uninstall = _patch(_changes(template, adopt))
    return _uninstall


def _patch(changes: list[Change]) -> Callable[[], None]:
    """Make `changes`; returns a function that undoes them. That may be called twice."""
    before: list[Change] = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in changes]

    def uninstall() -> None:
        for owner, name, found in before:
            if found is not None:
                setattr(owner, name, found)
            elif name in vars(owner):
                delattr(owner, name)

    for owner, name, new in changes:
        setattr(owner, name, new)
    return uninstall


def _changes(template: Template, adopt: bool) -> list[Change]:
    modules = (_pysyncobj, _pysyncobj.syncobj, _pysyncobj.journal)
    transport, node = _pysyncobj.transport.TCPTransport, _pysyncobj.SyncObj
    create, initialise, send = modules[0].createJournal, transport.__init__, transport.send
    listen, do_tick = transport.setOnMessageReceivedCallback, node.doTick

    def create_journal(journalFile: Any = None) -> Any:  # noqa: N803
        return create(None) if journalFile is None else make_journal(journalFile, template, adopt)

    def init_transport(self: Any, syncObj: Any, selfNode: Any, otherNodes: Any) -> None:  # noqa: N803
        initialise(self, syncObj, selfNode, otherNodes)
        if not isinstance(self, wiring.DurableTransportMixin):
            wiring.attach(syncObj, selfNode)

    def send_when_durable(self: Any, node: Any, message: Any) -> bool:
        wiring.wait_until_durable(self._syncObj, message)
        return bool(send(self, node, message))

    def listen_with_care(self: Any, callback: Any) -> None:
        listen(self, wiring.heeding(self._syncObj, callback))

    def tick(self: Any, timeToWait: float = 0.0) -> None:  # noqa: N803
        wiring.tick(do_tick, self, timeToWait)

    return [
        *((module, "createJournal", create_journal) for module in modules),
        (transport, "__init__", init_transport),
        (transport, "send", send_when_durable),
        (transport, "setOnMessageReceivedCallback", listen_with_care),
        (node, "doTick", tick),
        (node, wiring.SERIALIZER_ATTRIBUTE, wiring.SerializerSlot()),
    ]


def make_journal(journal_file: Any, template: Template, adopt: bool) -> RaftStoreJournal:
    """The journal that `SyncObjConf.journalFile` means."""
    if isinstance(journal_file, RaftStoreJournal):
        return journal_file
    if isinstance(journal_file, RaftLog | config.StoreConfig):
        return RaftStoreJournal(journal_file, adopt=adopt)
    if isinstance(journal_file, str) and is_url(journal_file):
        return RaftStoreJournal(journal_file, adopt=adopt)
    path = Path(os.path.abspath(journal_file))  # noqa: PTH100  # as PySyncObj reads it, links kept
    filled = fill(template, path)
    _refuse_file_journal(path, filled)
    return RaftStoreJournal(filled, adopt=adopt)


def fill(template: Template, path: Path) -> config.StoreConfig:
    """The config of the store for the journal that was to be the file `path`."""
    if isinstance(template, str) and is_url(template):
        return config.load(template.replace("{path}", quote(str(path))).replace("{name}", quote(path.name)))
    loaded = config.load(template)
    filled = str(loaded.path).replace("{name}", path.name)
    return msgspec.structs.replace(loaded, path=Path(filled))


def _check_template(template: Template) -> None:
    fill(template, Path("/journal"))


def _check_no_node_exists() -> None:
    """A node that is garbage already does not count."""
    if _a_node_exists():
        gc.collect()
    if _a_node_exists():
        raise ConfigError(
            "a SyncObj exists already, and its journal stays what it is: call install() before the first one"
        )


def _a_node_exists() -> bool:
    return any(issubclass(type(thing), _pysyncobj.SyncObj) for thing in gc.get_objects())


def _refuse_file_journal(path: Path, store: config.StoreConfig) -> None:
    """A file journal holds a term, a vote and entries; starting empty beside it would forget them."""
    if not path.is_file() or (store.path != path and store.path.exists()):
        return
    with path.open("rb") as file:
        if file.read(len(_HEADER)) == _HEADER:
            raise ConfigError(
                f"{path} is a journal of PySyncObj's own, and the store would start without its entries, "
                "term and vote. Move it into one with `raftstore import-pysyncobj`, or give another "
                "journalFile to a node that joins anew",
                key="journalFile",
            )
