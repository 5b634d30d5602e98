"""What the demo and its nodes say to each other: one JSON object a line, over the node's stdin and stdout."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Library = Literal["pysyncobj", "patroni", "asyncio"]
"""Whose Raft a node runs: PySyncObj, Patroni's key-value store on PySyncObj, or the asyncio example's."""
JournalKind = Literal["raftstore", "pysyncobj"]
Plant = Literal["late-flush", "forgotten-suffix"]
Outcome = Literal["ok", "failed", "unknown"]
"""Of an operation. ok: it happened. failed: it did not and never will. unknown: it may have, or may yet."""

MARKER: Final = "marker"
"""A key whose value is a number: what was written before it, is applied where it is seen."""


class NodeSpec(msgspec.Struct, frozen=True):
    """How a node is started: its place in the cluster and its journal."""

    address: str
    """`host:port`, which is also the node's id."""
    others: tuple[str, ...]
    library: Library
    journal: JournalKind
    store: str
    """The URL of the store; unused with PySyncObj's own journal."""
    home: str
    """A directory of its own, for whatever else it keeps."""
    plant: Plant | None = None
    compact_every: int | None = None
    """Entries between two snapshots; None: never."""


class Operation(msgspec.Struct, frozen=True, tag="operation"):
    """To a node: do this to the replicated key-value store, once, and say `Answer`."""

    id: int
    kind: Literal["put", "get", "cas"]
    """cas, compare and set: put `value` if the key's value is `expected` (None: if there is none)."""
    key: str
    value: str | None = None
    expected: str | None = None
    timeout_s: float = 10.0
    """After this nobody waits for the answer."""


class Dump(msgspec.Struct, frozen=True, tag="dump"):
    """To a node: write the lines of your state machine, in order, to this file, then say `Dumped`."""

    path: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """From a node, about the operation of that id."""

    id: int
    outcome: Outcome
    value: str | None = None
    """What a get that is ok found; None: there is none."""
    is_set: bool = True
    """False: a cas is ok and changed nothing, for it found another value."""


class Dumped(msgspec.Struct, frozen=True, tag="dumped"):
    """From a node: the file is complete."""

    path: str


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """From a node, once: its journal is open and held `entries`."""

    entries: int
    seconds: float


class Status(msgspec.Struct, frozen=True, tag="status"):
    """From a node, several times a second."""

    term: int
    is_leader: bool
    is_ready: bool
    """It has caught up with a leader."""
    marker: int
    """The value of `MARKER` here; 0 if none."""
    fsyncs: int
    """Since the process started."""
    entries_synced: int
    """Since the process started."""


ToNode = Operation | Dump
FromNode = Answer | Dumped | Opened | Status


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One line of a state machine: a value whose key is a number."""

    id: int
    text: str
