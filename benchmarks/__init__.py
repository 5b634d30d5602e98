"""The measurements behind the performance targets, each a command: `python -m benchmarks.targets --help`.

`rows.py` is the table: what is measured, how, and what is wanted. What `raftstore compare` measures, on any
disk and for any backend, is not repeated here.
"""
