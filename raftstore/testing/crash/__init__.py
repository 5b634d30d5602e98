"""Crash and fault tests of whole stores: a workload through the public API, an oracle, and ways to crash.

`python -m raftstore.testing.crash --backend segmented` runs them all on a backend, a third party's included.
"""
