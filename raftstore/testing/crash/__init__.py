"""Crash and fault tests of whole stores: a workload through the public API, an oracle, and ways to crash.

`python -m raftstore.testing.crash --backend segmented` runs them all on a backend, a third party's included,
and prints numbers. On Linux; with a C compiler everything, with strace only power cuts and kills, else kills.
"""
