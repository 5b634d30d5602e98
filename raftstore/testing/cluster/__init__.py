"""A real Raft cluster under hundreds of kills and partitions: is something lost, is it linearizable?

`python -m raftstore.testing.cluster --library pysyncobj --kills 200` runs it; its seed repeats the schedule.

`schedule.py` plans from a seed who is killed and cut off when, `nemesis.py` does it to the processes of a
`raftstore.demo.cluster`, `network.py` gives each node a network namespace that can be cut, `clients.py` are
the concurrent clients whose history is recorded, `soak.py` plays the run and `report.py` says what it found.

Only what a library promises to be linearizable can be checked. Every write is a command in its log, and so
is every read here: with PySyncObj a replicated method that returns the value; with Patroni a conditional set
that is refused, and the value as it is right after that was applied; with the asyncio example its own `get`.
The plain local reads of PySyncObj and Patroni may be stale by design; nobody checks them.
"""
