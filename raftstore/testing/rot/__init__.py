"""Bit rot: stores at rest are damaged in one place, and opened, read and verified in another process.

    python -m raftstore.testing.rot --backend segmented --cases 3000 --seed 1 --json

Whatever the place and the kind of damage, the log says what was written, or a typed error: never silently
fewer or other entries, never another exception, the death of the process or an endless wait.
"""
