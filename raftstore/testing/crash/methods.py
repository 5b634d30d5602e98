"""The table of all methods: what a run of the crash tests does."""

from __future__ import annotations

from typing import Final

from raftstore.testing.crash import block, crowds, cuts, faults, fuse, fuse_full, kernel, kill, lazyfs, qemu
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.method import Method


def _a_compiler(bench: Bench) -> str | None:
    return None if bench.shim is not None else "a C compiler (cc, gcc or clang), to record and fail calls"


def _a_recorder(bench: Bench) -> str | None:
    return None if bench.can_record else "a C compiler (cc, gcc or clang), or strace, to record calls"


SEEN_BELOW_A_FILE_SYSTEM: Final = (
    "acknowledged before written",
    "durable index published early",
    "no fsync",
    "vote not synced",
    "vote not synced in rocksdb",
    "lmdb sync=False",
    "lmdb metasync=False",
    "rocksdb every other write unsynced",
)
"""The planted bugs that a power cut of a mounted file system must find, real or replayed."""

METHODS: Final = (
    Method(
        name="every call",
        about="Each I/O call of a short workload fails in turn, once and from then on, in every way.",
        run=faults.fail_every_call,
        needs=_a_compiler,
        share=2.0,
        rounds=faults.EVERY_CALL_ROUNDS,
        plants=("failed write forgotten", "short write ignored"),
    ),
    Method(
        name="power cut",
        about="Recorded I/O of a workload; every disk that a power cut may leave is opened.",
        run=cuts.run,
        needs=_a_recorder,
        share=6.0,
        serves="images",
        plants=(
            "durable index published early",
            "truncate and append in two writes",
            "no directory fsync",
            "no fsync",
            "vote not synced",
            "vote not synced in rocksdb",
            "no sync before the next segment",
            "torn tail not cut",
            "no checksum",
            "recycled bytes accepted",
            "purged before its anchor is durable",
            "lmdb sync=False",
            "lmdb metasync=False",
            "rocksdb every other write unsynced",
        ),
    ),
    Method(
        name="real power cut",
        about="A mounted ext4 or xfs goes down while a workload runs on it, and is mounted again.",
        run=kernel.run,
        needs=kernel.needs,
        plants=SEEN_BELOW_A_FILE_SYSTEM,
    ),
    Method(
        name="block replay",
        about="Block writes below an ext4 or xfs are recorded; disks that a power cut may leave are mounted.",
        run=block.run,
        needs=block.needs,
        plants=SEEN_BELOW_A_FILE_SYSTEM,
    ),
    Method(
        name="failed sync",
        about="A sync fails and its pages are lost, though later syncs succeed; then the power is cut.",
        run=faults.fail_a_sync,
        needs=_a_compiler,
        share=0.5,
        plants=("fsync retried",),
    ),
    Method(
        name="kill at a call",
        about="SIGKILL at every few calls that change a file, and in the middle of writes.",
        run=kill.at_calls,
        needs=_a_compiler,
        share=2.0,
        serves="kills",
        plants=("acknowledged before written",),
    ),
    Method(
        name="crowd",
        about="Threads that call at once, in no order, are killed at some call, and their power is cut.",
        run=crowds.run,
        needs=_a_compiler,
        plants=("no fsync", "lmdb sync=False", "rocksdb every other write unsynced"),
    ),
    Method(
        name="kill at any time",
        about="SIGKILL at a random time.",
        run=kill.at_any_time,
        share=0.5,
        serves="kills",
    ),
    Method(
        name="fault",
        about="Some I/O calls of workloads of all kinds fail, once or from then on.",
        run=faults.fail_some_calls,
        needs=_a_compiler,
    ),
    Method(
        name="fuse",
        about="Each call to a FUSE file system fails in turn, in every way; failed syncs keep or drop pages.",
        run=fuse.run,
        needs=fuse.needs,
        share=2.0,
        rounds=len(fuse.PIECES),
        plants=(
            "failed write forgotten",
            "short write ignored",
            "fsync retried",
            "no fsync",
            "no directory fsync",
            "lmdb sync=False",
            "lmdb metasync=False",
            "rocksdb every other write unsynced",
        ),
    ),
    Method(
        name="full disk",
        about="A disk fills up, and later has room again: the reserve holds, and appends resume.",
        run=fuse_full.run,
        needs=fuse.needs,
        share=0.5,
    ),
    Method(
        name="lazyfs",
        about="LazyFS, a file system by others, drops what a killed process did not sync, or tears a write.",
        run=lazyfs.run,
        needs=lazyfs.needs,
        share=0.5,
        plants=("no fsync", "lmdb sync=False", "rocksdb every other write unsynced"),
    ),
    Method(
        name="qemu",
        about="A virtual machine with another kernel logs, drops or fails block writes below ext4 or xfs.",
        run=qemu.run,
        needs=qemu.needs,
        share=2.0,
        soak=True,
        tries=3,
        plants=("no fsync", "lmdb sync=False", "rocksdb every other write unsynced"),
    ),
)

USUAL: Final = tuple(method.name for method in METHODS if not method.soak)
"""The names of those that a run does when none is named."""


def method_named(name: str) -> Method:
    """The method of that name. Raises `KeyError`."""
    return {method.name: method for method in METHODS}[name]
