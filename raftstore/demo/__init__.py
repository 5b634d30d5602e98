"""`raftstore demo`: a real Raft cluster that is killed while it writes, and asked what it remembers.

`session.py` plays the run in a `workplace.py`: `cluster.py` keeps the nodes, each a process of its own
(`node.py`) with a member of one of the `libraries.py` (`member_*.py`), `writers.py` feeds them and notes in
a `ledger.py` what was acknowledged, `schedule.py` says who is killed when, and `verdict.py` compares.
`planted.py` and `planted_journals.py` hold bugs that the demo must find.
"""
