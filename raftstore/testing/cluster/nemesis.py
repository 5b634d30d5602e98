"""The enemy: carries out a schedule on the processes and the network of a running cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

from raftstore.demo.cluster import Cluster
from raftstore.demo.process import NodeProcess
from raftstore.testing.cluster.network import Network
from raftstore.testing.cluster.schedule import Cut, Round, Strike


class Nemesis:
    """`play` the rounds, one after the other, from one thread. `tell` hears what was done to whom."""

    def __init__(self, cluster: Cluster, network: Network | None, tell: Callable[[str], None]) -> None:
        self.kills = 0
        self.cuts = 0
        self._cluster = cluster
        self._network = network
        self._tell = tell

    def play(self, each: Round) -> None:
        """On return all nodes run, nothing is cut, and all follow a leader; else raises `ClusterError`."""
        time.sleep(each.quiet_s)
        if isinstance(each, Strike):
            self._strike(each)
        else:
            self._cut(each)
        self._cluster.wait_ready()

    def _strike(self, strike: Strike) -> None:
        victims = self._victims(strike)
        self._kill(victims)
        began = time.monotonic()
        for down_s, node in sorted(zip(strike.down_s, victims, strict=True), key=lambda pair: pair[0]):
            time.sleep(max(0.0, began + down_s - time.monotonic()))
            node.start()
        if strike.again_s is not None:
            time.sleep(strike.again_s)
            self._kill(victims[:1])
            victims[0].start()

    def _cut(self, cut: Cut) -> None:
        assert self._network is not None
        leader, *followers = self._ranks(cut.pick)
        victim = leader if cut.victim == "leader" else followers[0]
        others = [node for node in (leader, *followers) if node is not victim]
        self._tell(f"cut off {cut.victim} {victim.name} for {cut.seconds:.1f} s, {cut.direction}")
        self.cuts += 1
        for other in others:
            if cut.direction != "nothing in":
                self._network.cut(victim.name, other.name)
            if cut.direction != "nothing out":
                self._network.cut(other.name, victim.name)
        time.sleep(cut.seconds / 2)
        if cut.kill_other:
            self._kill(others[:1])
            others[0].start()
        time.sleep(cut.seconds / 2)
        self._network.heal()

    def _victims(self, strike: Strike) -> list[NodeProcess]:
        leader, *followers = self._ranks(strike.pick)
        match strike.victims:
            case "leader":
                return [leader]
            case "follower":
                return followers[:1]
            case "leader and follower":
                return [leader, followers[0]]
            case "two followers":
                return followers
            case "all":
                return [leader, *followers]

    def _ranks(self, pick: float) -> list[NodeProcess]:
        """The leader, then the others. Without a leader, any node first."""
        nodes = self._cluster.nodes
        turned = nodes if pick < 0.5 else nodes[::-1]
        leading = [node for node in turned if node.status.is_leader]
        leader = max(leading, key=lambda node: node.status.term, default=turned[0])
        return [leader, *(node for node in turned if node is not leader)]

    def _kill(self, victims: list[NodeProcess]) -> None:
        """All at once, before anybody can hear of it; then what it does to their disks."""
        self._tell("SIGKILL " + ", ".join(self._described(node) for node in victims))
        for node in victims:
            node.kill()
        for node in victims:
            self._cluster.kill(node)
        self.kills += len(victims)

    def _described(self, node: NodeProcess) -> str:
        return f"{'leader ' if node.status.is_leader else ''}{node.name}"
