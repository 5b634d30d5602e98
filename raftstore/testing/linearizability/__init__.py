"""Is a recorded history of concurrent clients linearizable? Exact, for a register per key: read, write, cas.

A history is linearizable if all its operations can be put into one order, each at a moment between its
invocation and its return, in which every read returns what was written last (Herlihy and Wing,
"Linearizability: A correctness condition for concurrent objects", TOPLAS 1990). A client of a Raft
cluster that gives this up has seen a stale read, a lost or a resurrected write, or two leaders.

The method: every key is decided by itself (Herlihy and Wing's locality; Horn and Kroening, "Faster
linearizability checking via P-compositionality", FORTE 2015). For one key all orders are searched (Wing and
Gong, "Testing and verifying concurrent objects", JPDC 1993), those that lead to the same set of operations
and the same value only once, and an operation takes its place only when a return asks for it: Lowe's
just-in-time linearization ("Testing for linearizability", Concurrency and Computation 2017).

`operation.py` says what is recorded, `history.py` records and keeps it, `known.py` says what becomes of
unknown outcomes, `search.py` decides, `shrink.py` and `show.py` explain a violation. As a command:
`python -m raftstore.testing.linearizability FILE`.
"""

from raftstore.testing.linearizability.history import History, HistoryError, Recorder
from raftstore.testing.linearizability.operation import Operation
from raftstore.testing.linearizability.verdict import Verdict, check

__all__ = ["History", "HistoryError", "Operation", "Recorder", "Verdict", "check"]
