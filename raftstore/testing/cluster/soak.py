"""One run: a cluster, its clients and their enemy, and then the judgement."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftstore import config
from raftstore.demo.cluster import POLL_S, SETTLE_S, Cluster, ClusterError
from raftstore.demo.messages import JournalKind, Library, Plant
from raftstore.demo.verdict import Verdict as Lines
from raftstore.demo.verdict import compare
from raftstore.testing.cluster.clients import Clients
from raftstore.testing.cluster.nemesis import Nemesis
from raftstore.testing.cluster.network import Network
from raftstore.testing.cluster.report import Report
from raftstore.testing.cluster.schedule import plan
from raftstore.testing.linearizability import check

NODES = ("n1", "n2", "n3")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `store` is a config whose path does not matter: each node gets its own."""

    library: Library
    store: config.StoreConfig
    kills: int = 200
    seed: int = 1
    partitions: bool = False
    clients: int = 8
    compact_every: int | None = 2000
    """Entries between two snapshots of a node."""
    journal: JournalKind = "raftstore"
    plant: Plant | None = None
    power_cut: bool = False
    history: Path | None = None
    """Where the history goes."""


class Soak:
    """A run: call `run` once. `tell` hears what happens, one line at a time."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell

    def run(self) -> Report:
        """Play the whole run and judge it. Leaves no process, no file and no namespace, whatever happens.

        Raises `ClusterError` if the cluster did not even begin, `NetworkError` or `DiskError` if what it
        needs cannot be had here.
        """
        with contextlib.ExitStack() as stack:
            network = stack.enter_context(Network(list(NODES))) if self._settings.partitions else None
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="raftstore-soak-"))
            cluster = stack.enter_context(self._cluster(Path(directory), network))
            cluster.start()
            return self._play(cluster, network)

    def _cluster(self, directory: Path, network: Network | None) -> Cluster:
        settings = self._settings
        return Cluster(
            directory,
            len(NODES),
            lambda path: msgspec.structs.replace(settings.store, path=path).to_url(),
            library=settings.library,
            journal=settings.journal,
            plant=settings.plant,
            power_cut=settings.power_cut,
            compact_every=settings.compact_every,
            addresses=[network.address(name) for name in NODES] if network else (),
            prefix=network.prefix if network else lambda name: (),
        )

    def _play(self, cluster: Cluster, network: Network | None) -> Report:
        settings, began, problem = self._settings, time.monotonic(), None
        clients = Clients(cluster.nodes, settings.clients, settings.seed)
        nemesis = Nemesis(
            cluster, network, lambda text: self._tell(f"{time.monotonic() - began:7.1f} s  {text}")
        )
        lines: Lines | None = None
        try:
            self._fight(clients, nemesis)
            lines, problem = _judged(cluster, clients)
        except ClusterError as error:
            problem = str(error)
        history = clients.recorder.history()
        if settings.history is not None:
            history.save(settings.history)
        return Report(
            library=settings.library,
            store=settings.store.to_url(),
            journal=settings.journal,
            plant=settings.plant,
            power_cut=settings.power_cut,
            partitions=settings.partitions,
            seed=settings.seed,
            kills=nemesis.kills,
            cuts=nemesis.cuts,
            seconds=time.monotonic() - began,
            lines=lines,
            history=check(history.operations),
            problem=problem,
        )

    def _fight(self, clients: Clients, nemesis: Nemesis) -> None:
        settings = self._settings
        with clients.writing():
            for each in plan(settings.seed, settings.kills, partitions=settings.partitions):
                _wait_for_a_line(clients)
                nemesis.play(each)
                clients.next_round()


def _wait_for_a_line(clients: Clients) -> None:
    """Return when one more line was acknowledged: what nobody has, no kill can take."""
    before, deadline = clients.ledger.acknowledged_count, time.monotonic() + SETTLE_S
    while clients.ledger.acknowledged_count == before:
        if time.monotonic() > deadline:
            raise ClusterError(f"no line was acknowledged within {SETTLE_S:.0f} s")
        time.sleep(POLL_S)


def _judged(cluster: Cluster, clients: Clients) -> tuple[Lines, str | None]:
    """Read every register once more, compare the lines of all nodes; and what of that was not possible."""
    settled = cluster.settle()
    unread = clients.read_all()
    problem = f"{len(unread)} registers could not be read in the end" if unread else None
    behind = [node.name for node in cluster.nodes if node not in settled]
    ledger = clients.ledger
    return compare(ledger.sent(), ledger.acknowledged(), cluster.machines(settled), behind), problem
