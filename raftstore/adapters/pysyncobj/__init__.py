"""PySyncObj on raftstore: its journal, and messages that leave only when what they promise is durable.

One call, and every journal of the process is a store (`journalFile` is a store's URL, or any path):

    import raftstore.adapters.pysyncobj

    raftstore.adapters.pysyncobj.install()
    conf = SyncObjConf(journalFile="segmented:///var/lib/n1/raft")

Without changing PySyncObj, for your own class:

    class Counter(StoreSyncObj):
        def __init__(self, node, others):
            super().__init__(node, others, store="segmented:///var/lib/n1/raft")

A program that cannot be changed, as Patroni, needs only its command line:

    python -m raftstore.adapters.pysyncobj patroni /etc/patroni.yml

A node that has a journal of PySyncObj's own moves over while it is stopped, with `import_journal` or, from
the shell, with `raftstore import-pysyncobj`; and back with `export_journal`, `raftstore export-pysyncobj`.

Term, vote and commit index are kept beside the entries. Needs `pysyncobj>=0.3.16`; importing this module
raises `BackendMissingError` without it.
"""

from raftstore.adapters.pysyncobj.exporting import Exported, export_journal
from raftstore.adapters.pysyncobj.importing import Imported, import_journal
from raftstore.adapters.pysyncobj.journal import RaftStoreJournal, StoreSource
from raftstore.adapters.pysyncobj.patch import install
from raftstore.adapters.pysyncobj.wiring import DurableTCPTransport, DurableTransportMixin, StoreSyncObj

__all__ = [
    "DurableTCPTransport",
    "DurableTransportMixin",
    "Exported",
    "Imported",
    "RaftStoreJournal",
    "StoreSource",
    "StoreSyncObj",
    "export_journal",
    "import_journal",
    "install",
]
