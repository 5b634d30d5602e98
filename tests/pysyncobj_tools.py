"""What the tests of the PySyncObj adapter share: a replicated list, ticked by hand. Needs PySyncObj."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pysyncobj  # type: ignore[import-untyped,unused-ignore]

from raftstore.adapters.pysyncobj import StoreSyncObj
from raftstore.demo.cluster import free_ports

DEADLINE_S = 120.0
"""How long nodes are ticked for what must happen soon. Only a failing test waits so long."""


def elect_first(node: Any, address: str, others: list[str], *_: Any) -> None:
    """The node of the lowest address wants to lead at once: no test waits for an election, or for a timeout
    that a machine without time for the heartbeats would let pass."""
    if all(address < other for other in others):
        node._SyncObj__raftElectionDeadline = 0


class Listing:
    """A replicated list, as a mixin before a node's class."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        elect_first(self, *arguments)
        self.words: list[str] = []

    @pysyncobj.replicated  # type: ignore[untyped-decorator]
    def put(self, word: str) -> None:
        self.words = [*self.words, word]


class Words(Listing, pysyncobj.SyncObj):  # type: ignore[misc]
    """Its journal is what `install` makes of it, or PySyncObj's own."""


class StoreWords(Listing, StoreSyncObj):
    """The same, without a patch."""


def free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def tick_until(nodes: list[Any], condition: Callable[[], bool]) -> None:
    """Tick the nodes in turn until `condition` holds; fail with their states if it never does."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, [node.getStatus() for node in nodes]
        for node in nodes:
            node.doTick(0.0)
