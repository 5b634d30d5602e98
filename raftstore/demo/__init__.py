"""`raftstore demo`: a real Raft cluster that is killed while it writes, and asked what it remembers.

`session.py` plays the run: `cluster.py` keeps the nodes, each a process of its own (`node.py`), `writers.py`
feeds them and notes in a `ledger.py` what was acknowledged, `schedule.py` says who is killed when, and
`verdict.py` compares. `planted.py` holds bugs that the demo must find.
"""
