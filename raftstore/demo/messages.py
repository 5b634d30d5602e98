"""What the demo and its nodes say to each other: one JSON object a line, over the node's stdin and stdout."""

from __future__ import annotations

from typing import Literal

import msgspec

JournalKind = Literal["raftstore", "pysyncobj"]
Plant = Literal["late-flush", "forgotten-suffix"]


class NodeSpec(msgspec.Struct, frozen=True):
    """How a node is started: its place in the cluster and its journal."""

    address: str
    """`host:port`, which is also the node's id."""
    others: tuple[str, ...]
    journal: JournalKind
    store: str
    """The URL of the store, or the path of PySyncObj's own journal file."""
    plant: Plant | None = None


class Write(msgspec.Struct, frozen=True, tag="write"):
    """To a node: replicate this line. A negative id is a marker: it ends what was written before it."""

    id: int
    text: str


class Dump(msgspec.Struct, frozen=True, tag="dump"):
    """To a node: write the lines of your state machine, in order, to this file, then say `Dumped`."""

    path: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """From a node: the line was applied (acknowledged), or its outcome is not known."""

    id: int
    acknowledged: bool


class Dumped(msgspec.Struct, frozen=True, tag="dumped"):
    """From a node: the file is complete."""

    path: str


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """From a node, once: its journal is open and holds `entries`."""

    entries: int
    seconds: float


class Status(msgspec.Struct, frozen=True, tag="status"):
    """From a node, several times a second."""

    term: int
    is_leader: bool
    is_ready: bool
    """It has caught up with a leader."""
    applied: int
    """Lines in its state machine."""
    marker: int
    """The newest marker that it applied; 0 if none."""
    fsyncs: int
    """Since the process started."""
    entries_synced: int
    """Since the process started."""


ToNode = Write | Dump
FromNode = Done | Dumped | Opened | Status


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One line of a state machine."""

    id: int
    text: str
