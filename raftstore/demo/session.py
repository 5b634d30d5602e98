"""One run of the demo from the first process to the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from raftstore.config import StoreConfig
from raftstore.demo.cluster import POLL_S, SETTLE_S, Cluster, ClusterError
from raftstore.demo.ledger import Ledger
from raftstore.demo.messages import JournalKind, Library, Line, Plant
from raftstore.demo.process import NodeProcess
from raftstore.demo.schedule import Kill, plan
from raftstore.demo.text import lines
from raftstore.demo.verdict import Verdict, compare
from raftstore.demo.workplace import workplace
from raftstore.demo.writers import Writers

LAST_WRITES_S: Final = 1.0
"""How long the clients write before all nodes are killed at once."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `store` is a config whose path does not matter: each node gets its own."""

    store: StoreConfig
    nodes: int = 3
    seconds: float = 15.0
    kills: int = 6
    seed: int = 1
    input: Path | None = None
    library: Library = "pysyncobj"
    journal: JournalKind = "raftstore"
    plant: Plant | None = None
    power_cut: bool = False
    """A kill also cuts the power of the node's own disk. Needs root."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found."""

    alive: Verdict
    """After the single kills, with all nodes up."""
    restarted: Verdict
    """After all nodes were killed at once and started from their disks."""
    kills: int
    fsyncs: int
    """Of all nodes, as far as the killed ones had reported."""
    entries_per_fsync: float
    latency_p50_ms: float
    latency_p99_ms: float
    sent: int
    seconds: float
    problem: str | None
    """Why the cluster could not go on, if so: what is not recovered then, nobody can read."""

    @property
    def is_good(self) -> bool:
        """Nothing is wrong, and something was acknowledged, without which nothing could be."""
        is_right = self.alive.is_good and self.restarted.is_good and self.problem is None
        return is_right and self.restarted.acknowledged > 0


class Watcher(Protocol):
    """What a run tells while it goes on."""

    def planned(self, kills: list[Kill]) -> None:
        """Once, before anything starts."""
        ...

    def event(self, seconds: float, text: str) -> None:
        """Something worth a line, `seconds` after the clients began."""
        ...

    def progress(self, done: float, acknowledged: int) -> None:
        """Several times a second; `done` is 0..1."""
        ...


class Session:
    """A run: call `run` once."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self._settings = settings
        self._watcher = watcher
        self._ledger = Ledger()
        self._writers = Writers(lines(settings.input), self._ledger)
        self._problem: str | None = None
        self._began = time.monotonic()

    def run(self) -> Outcome:
        """Play the whole run and compare. Leaves no process and no file behind, whatever happens.

        Raises `ClusterError` if the cluster did not even begin, `DiskError` if no power can be cut here.
        """
        kills = plan(self._settings.seed, self._settings.kills, self._settings.seconds)
        self._watcher.planned(kills)
        with workplace() as directory, self._cluster(directory) as cluster:
            cluster.start()
            self._began = time.monotonic()
            self._tell(f"{len(cluster.nodes)} nodes are up, the clients begin")
            alive = self._judge(cluster, lambda: self._single_kills(cluster, kills))
            restarted = alive
            if self._problem is None:
                restarted = self._judge(cluster, lambda: self._all_at_once(cluster))
            return self._outcome(cluster, alive, restarted)

    def _cluster(self, directory: Path) -> Cluster:
        settings = self._settings
        return Cluster(
            directory,
            settings.nodes,
            lambda path: msgspec.structs.replace(settings.store, path=path).to_url(),
            library=settings.library,
            journal=settings.journal,
            plant=settings.plant,
            power_cut=settings.power_cut,
        )

    def _single_kills(self, cluster: Cluster, kills: list[Kill]) -> None:
        with self._writers.writing(cluster.nodes):
            for kill in kills:
                self._write_until(kill.at_s)
                self._kill_and_restart(cluster, kill)
            self._write_until(self._settings.seconds)
            self._write_until_acknowledged(1)

    def _kill_and_restart(self, cluster: Cluster, kill: Kill) -> None:
        cluster.wait_ready()
        node = cluster.victim(kill)
        role = "leader" if node.status.is_leader else "follower"
        pid, in_flight = node.pid, self._writers.in_flight
        cluster.kill(node)
        self._tell(f"{self._means} {role} {node.name} (pid {pid}) with {in_flight} lines under way")
        self._write_until(self._seconds + kill.down_s)
        node.start()
        cluster.wait_ready()
        self._tell(f"  {node.name} is back: {_opened(node)}")

    def _all_at_once(self, cluster: Cluster) -> None:
        acknowledged = self._ledger.acknowledged_count
        with self._writers.writing(cluster.nodes):
            self._write_until(self._seconds + LAST_WRITES_S)
            self._write_until_acknowledged(acknowledged + 1)
            in_flight = self._writers.in_flight
            cluster.kill_all()
        self._tell(f"{self._means} all {len(cluster.nodes)} nodes at once with {in_flight} lines under way")
        cluster.start()
        for node in cluster.nodes:
            self._tell(f"  {node.name} is back: {_opened(node)}")

    def _judge(self, cluster: Cluster, act: Callable[[], None]) -> Verdict:
        """Compare after `act`. A cluster that cannot go on has lost what nobody can read any more."""
        settled: list[NodeProcess] = []
        machines: dict[str, list[Line]] = {}
        try:
            act()
            settled = cluster.settle()
            machines = cluster.machines(settled)
        except ClusterError as error:
            self._problem = str(error)
        behind = [node.name for node in cluster.nodes if node not in settled]
        verdict = compare(self._ledger.sent(), self._ledger.acknowledged(), machines, behind)
        self._tell(f"compared: {verdict.acknowledged:,} acknowledged, {verdict.lost:,} lost")
        return verdict

    def _outcome(self, cluster: Cluster, alive: Verdict, restarted: Verdict) -> Outcome:
        fsyncs = sum(node.fsyncs for node in cluster.nodes)
        entries = sum(node.entries_synced for node in cluster.nodes)
        p50, p99 = self._ledger.latency_ms(0.5, 0.99)
        return Outcome(
            alive=alive,
            restarted=restarted,
            kills=self._settings.kills + len(cluster.nodes),
            fsyncs=fsyncs,
            entries_per_fsync=entries / fsyncs if fsyncs else 0.0,
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            sent=self._ledger.sent_count,
            seconds=self._seconds,
            problem=self._problem,
        )

    @property
    def _means(self) -> str:
        return "power cut for" if self._settings.power_cut else "SIGKILL"

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, text: str) -> None:
        self._watcher.event(self._seconds, text)

    def _write_until(self, seconds: float) -> None:
        """Let the clients write until `seconds` after they began."""
        while (left := seconds - self._seconds) > 0:
            self._watcher.progress(
                min(1.0, self._seconds / self._settings.seconds), self._ledger.acknowledged_count
            )
            time.sleep(min(left, 0.1))

    def _write_until_acknowledged(self, count: int) -> None:
        """Let the clients write on, on a slow machine, until so many lines in all were acknowledged."""
        deadline = time.monotonic() + SETTLE_S
        while self._ledger.acknowledged_count < count:
            if time.monotonic() > deadline:
                raise ClusterError(f"no line was acknowledged within {SETTLE_S:.0f} s")
            time.sleep(POLL_S)


def _opened(node: NodeProcess) -> str:
    if node.opened is None:
        return "with what its disk kept"
    entries = f"{node.opened.entries:,} {'entry' if node.opened.entries == 1 else 'entries'}"
    return f"{entries} in its journal, opened in {node.opened.seconds * 1000:.0f} ms"
