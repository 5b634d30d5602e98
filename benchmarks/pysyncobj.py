"""PySyncObj on a durable journal of ours beside its own, never synced one: three nodes, batched commands.

    python -m benchmarks.pysyncobj

Both clusters run side by side, one of them idle while the other works, and take turns. Whoever runs twice in
a row is faster the second time (caches are warm), so a round is four runs: one, the other twice, the one
again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import harmonic_mean, median
from types import TracebackType
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.counts import SYNCS
from benchmarks.native import UnavailableError
from benchmarks.result import Outcome
from raftstore.demo.cluster import free_ports

NODES: Final = 3
ROUNDS: Final = 16
RUNS: Final = 2
"""Of each cluster in a round."""
COMMANDS: Final = {64: 20_000, 1024: 10_000}
TRACED_COMMANDS: Final = 2_000
READY_S: Final = 60.0
POLL_S: Final = 0.05


class Node:
    """A node process, asked one question at a time."""

    def __init__(self, spec: dict[str, Any], log: Path, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "benchmarks.pysyncobj_node", json.dumps(spec)]
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=Path(__file__).parent.parent,
            )

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node ended: {self._log.read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it go, and wait until it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Cluster:
    """Nodes on 127.0.0.1. `journal(path)` is what each is given as its journal. A context manager."""

    def __init__(
        self, home: Path, journal: Callable[[Path], str], count: int = NODES, *, is_traced: bool = False
    ) -> None:
        home.mkdir()
        self.traces = [home / f"{number}.trace" for number in range(count)] if is_traced else []
        addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.nodes: list[Node] = []
        with ExitStack() as undo:
            undo.callback(self._end)
            for number, address in enumerate(addresses):
                others = [other for other in addresses if other != address]
                spec = {"address": address, "others": others, "journal": journal(home / str(number))}
                prefix = _strace(self.traces[number]) if is_traced else ()
                self.nodes.append(Node(spec, home / f"{number}.stderr", prefix))
            undo.pop_all()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def leader(self) -> Node:
        """The node that leads, once all are ready."""
        give_up = time.monotonic() + READY_S
        while time.monotonic() < give_up:
            found = [node.ask({}) for node in self.nodes]
            leaders = [node for node, status in zip(self.nodes, found, strict=True) if status["leads"]]
            if len(leaders) == 1 and all(status["ready"] for status in found):
                return leaders[0]
            time.sleep(POLL_S)
        raise RuntimeError("no leader that all nodes follow")

    def run(self, commands: int, size: int) -> float:
        """Commands a second, as the leader's client sees it; again if the leader changed meanwhile."""
        for _ in range(3):
            done = self.leader().ask({"run": {"commands": commands, "size": size}})
            if not done["failed"]:
                return commands / float(done["seconds"])
        raise RuntimeError("commands fail")

    def syncs(self) -> int:
        """Of all nodes, by the journals' own count."""
        return sum(int(node.ask({})["syncs"]) for node in self.nodes)

    def _end(self) -> None:
        for node in self.nodes:
            node.end()


def throughput(size: int) -> Callable[[Bench], Outcome]:
    """The ratio of commands a second, durable with ours by PySyncObj's own journal, in each round."""
    return lambda bench: _throughput(bench, size)


def _throughput(bench: Bench, size: int) -> Outcome:
    check_library()
    commands, ours, theirs = COMMANDS[size], list[float](), list[float]()
    with (
        bench.new_path_removed() as home,
        _made(home, "ours", _store) as durable,
        _made(home, "theirs", str) as unsynced,
    ):
        for cluster in (durable, unsynced):
            cluster.run(commands, size)  # Warm up.
        syncs = durable.syncs()
        rounds = bench.rounds(ROUNDS)
        for number in range(rounds):
            first, second = (durable, unsynced) if number % 2 else (unsynced, durable)
            rates: dict[Cluster, list[float]] = {durable: [], unsynced: []}
            for cluster in (first, second, second, first):
                rates[cluster].append(cluster.run(commands, size))
            ours.append(harmonic_mean(rates[durable]))
            theirs.append(harmonic_mean(rates[unsynced]))
        syncs = durable.syncs() - syncs
    beside: dict[str, float | str] = {
        "raftstore, commands/s": median(ours),
        "PySyncObj's FileJournal, commands/s": median(theirs),
        "syncs of 3 nodes per 1000 commands": 1000 * syncs / (rounds * RUNS * commands),
    }
    return Outcome(
        [our / their for our, their in zip(ours, theirs, strict=True)], beside | _traced(bench, size)
    )


def check_library() -> None:
    """Raises `UnavailableError` without PySyncObj."""
    if find_spec("pysyncobj") is None:
        raise UnavailableError("PySyncObj is not installed: pip install 'raftstore[pysyncobj]'")


def _traced(bench: Bench, size: int) -> dict[str, float | str]:
    """What strace sees of both journals, in runs of their own."""
    if shutil.which("strace") is None:
        return {}
    found: dict[str, float | str] = {}
    for name, journal in (("raftstore", _store), ("FileJournal", str)):
        with bench.new_path_removed() as home:
            with _made(home, "traced", journal, is_traced=True) as cluster:
                cluster.run(TRACED_COMMANDS, size)
            calls = sum(trace.read_text().count("sync(") for trace in cluster.traces)
            found[f"strace: sync calls of 3 nodes, {TRACED_COMMANDS} commands, {name}"] = float(calls)
    return found


def _made(home: Path, name: str, journal: Callable[[Path], str], *, is_traced: bool = False) -> Cluster:
    home.mkdir(exist_ok=True)
    return Cluster(home / name, journal, is_traced=is_traced)


def _store(path: Path) -> str:
    return f"segmented://{path}"


def _strace(trace: Path) -> list[str]:
    calls = f"trace={','.join(SYNCS)}"
    return ["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o", str(trace)]


if __name__ == "__main__":
    from benchmarks.targets import command

    command("--only", "pysyncobj-64B", "pysyncobj-1KiB")
