"""The cluster: all nodes on one machine, and the questions that are asked of all of them."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from raftstore.demo.disk import Directory, Disk, OwnDisk
from raftstore.demo.messages import MARKER, Answer, JournalKind, Library, Line, NodeSpec, Plant
from raftstore.demo.process import NodeProcess
from raftstore.demo.schedule import Kill

SETTLE_S: Final = 90.0
"""For what takes a cluster a second or two on a machine that has time for it."""
POLL_S: Final = 0.02
OFFER_S: Final = 0.5


class ClusterError(Exception):
    """The cluster did not do what the demo needs: it says what, and what the nodes said last."""


class Cluster:
    """The nodes of one run, by name. Leaving the `with` block kills every process that it started.

    `store_url` says where a node keeps its log, below the path that is given. The nodes listen at
    `addresses`, free ports of 127.0.0.1 if there are none; `prefix` gives the beginning of a node's command
    line from its name, as for `NodeProcess`.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        store_url: Callable[[Path], str],
        *,
        library: Library = "pysyncobj",
        journal: JournalKind = "raftstore",
        plant: Plant | None = None,
        power_cut: bool = False,
        compact_every: int | None = None,
        addresses: Sequence[str] = (),
        prefix: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.nodes: list[NodeProcess] = []
        self._disks: dict[str, Disk] = {}
        self._directory = directory
        self._loses_unsynced = journal == "pysyncobj" and not power_cut
        make_disk = OwnDisk if power_cut else Directory
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_disks)
            for number, address in enumerate(addresses, 1):
                name = f"n{number}"
                home = (self._disks.setdefault(name, make_disk(directory / name))).path
                spec = NodeSpec(
                    address=address,
                    others=tuple(other for other in addresses if other != address),
                    library=library,
                    journal=journal,
                    store=store_url(home / "raft"),
                    home=str(home),
                    plant=plant,
                    compact_every=compact_every,
                )
                self.nodes.append(NodeProcess(name, spec, directory / f"{name}.stderr", prefix(name)))
            undo.pop_all()
        self._markers = itertools.count(1)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as undo:  # all of it, whatever one of them says
            undo.callback(self._close_disks)
            for node in self.nodes:
                undo.callback(node.kill)

    def start(self) -> None:
        """Start all nodes, and return when there is a leader."""
        for node in self.nodes:
            node.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when every node runs and has caught up with a leader."""
        self._wait(
            lambda: all(node.status.is_ready for node in self.nodes), "no leader that all nodes follow"
        )

    def kill(self, node: NodeProcess) -> None:
        """SIGKILL, and what it does to the node's disk. PySyncObj's own journal loses what was not synced."""
        node.kill()
        self._disks[node.name].node_was_killed()
        if self._loses_unsynced:
            drop_unsynced(Path(node.spec.home))

    def kill_all(self) -> None:
        """SIGKILL to every node, one right after the other, and what it does to their disks."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            self.kill(node)

    def victim(self, kill: Kill) -> NodeProcess:
        """The node that plays the kill's role now; any other if there is none in it."""
        leaders = [node for node in self.nodes if node.status.is_leader]
        newest = max(leaders, key=lambda node: node.status.term, default=None)
        if kill.role == "leader" and newest is not None:
            return newest
        followers = [node for node in self.nodes if node is not newest] or self.nodes
        return followers[int(kill.pick * len(followers))]

    def settle(self) -> list[NodeProcess]:
        """Wait until every node applied everything that any node acknowledged before this call.

        A marker is written until one gets through, and every node has applied it or a later one. Returns the
        nodes that have, which are not all if a node cannot catch up. Raises `ClusterError` if none has.
        """
        first = next(self._markers)
        marker, deadline, offer_at = first, time.monotonic() + SETTLE_S, 0.0
        while not all(_has_applied(node, first) for node in self.nodes):
            if time.monotonic() > deadline and any(_has_applied(node, first) for node in self.nodes):
                break
            self._check(deadline, "no marker got through")
            if time.monotonic() >= offer_at:
                node = self.nodes[marker % len(self.nodes)]
                node.submit("put", MARKER, str(marker), timeout_s=SETTLE_S, on_answer=_ignore)
                marker, offer_at = next(self._markers), time.monotonic() + OFFER_S
            time.sleep(POLL_S)
        return [node for node in self.nodes if _has_applied(node, first)]

    def machines(self, nodes: list[NodeProcess]) -> dict[str, list[Line]]:
        """The state machines of `nodes`, by name."""
        return {node.name: self._dump(node) for node in nodes}

    def _dump(self, node: NodeProcess) -> list[Line]:
        path = self._directory / f"{node.name}-{node.starts}.lines"
        node.dump(str(path))
        self._wait(lambda: node.dumped == str(path), f"{node.name} does not show its state machine")
        lines = msgspec.json.Decoder(Line).decode_lines(path.read_bytes())
        path.unlink()
        return lines

    def _close_disks(self) -> None:
        with contextlib.ExitStack() as undo:
            for disk in self._disks.values():
                undo.callback(disk.close)

    def _wait(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + SETTLE_S
        while not condition():
            self._check(deadline, problem)
            time.sleep(POLL_S)

    def _check(self, deadline: float, problem: str) -> None:
        """Raise `ClusterError` if the time is up or a process is gone that should be there."""
        gone = [node for node in self.nodes if node.pid is not None and not node.is_running]
        if gone or time.monotonic() > deadline:
            problem = f"{gone[0].name} ended by itself" if gone else f"{problem} after {SETTLE_S:.0f} s"
            raise ClusterError("\n".join([problem, *(self._quote(node) for node in gone or self.nodes)]))

    def _quote(self, node: NodeProcess) -> str:
        return f"--- {node.name}, {node.status}:\n{node.last_words()}"


def _has_applied(node: NodeProcess, marker: int) -> bool:
    return node.status.marker >= marker


def _ignore(answer: Answer) -> None:
    pass


def drop_unsynced(home: Path) -> None:
    """Leave of PySyncObj's own files, a node's home, what its process had made durable: nothing.

    PySyncObj writes its journal through a memory map and its term and vote by rename, and calls neither
    msync nor fsync before it is closed in order. Until the kernel writes dirty pages back by itself,
    usually after half a minute, a power cut may leave nothing of them: not even the files' names. This is
    for machines where no real power cut can be had, see `OwnDisk`.
    """
    for path in home.iterdir():
        path.unlink()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1, all different, that while this process lives are given to nobody who asks for any.

    Who asks for one of them by its number, and sets SO_REUSEADDR as servers do, may listen there.
    """
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        atexit.register(each.close)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", 0))
    return [each.getsockname()[1] for each in sockets]
