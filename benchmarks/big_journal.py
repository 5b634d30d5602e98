"""A PySyncObj journal of 10 GB: a node opens it and runs on it, in bounded memory.

python -m benchmarks.big_journal
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench, open_log
from benchmarks.big_log import check_room
from benchmarks.pysyncobj import Cluster, Node, check_library
from benchmarks.result import Outcome
from raftstore import Entry, HardState

JOURNAL_BYTES: Final = 10 * 10**9
QUICK_BYTES: Final = 10**9
COMMAND_BYTES: Final = 16 << 10
BATCH: Final = 256
COMMANDS: Final = 2_000
APPLY_S: Final = 1200.0
POLL_S: Final = 0.5
MIB: Final = 1 << 20


def peak_memory(bench: Bench) -> Outcome:
    """MiB that a node had at most: it opened the journal, applied all of it and took new commands."""
    check_library()
    size = QUICK_BYTES if bench.quick else JOURNAL_BYTES
    check_room(bench, size)
    with bench.new_path_removed() as home:
        home.mkdir()
        entries = _make(home, size)
        with Cluster(home / "node", lambda _: _store(home / "store"), count=1) as cluster:
            return _watch(cluster, entries, size)


def _watch(cluster: Cluster, entries: int, size: int) -> Outcome:
    started, node = time.monotonic(), cluster.nodes[0]
    found = node.ask({})
    opened_peak = found["memory_peak_bytes"]
    found = _wait_applied(node, entries)
    applied_s = time.monotonic() - started
    rate = cluster.run(COMMANDS, 1024)
    peak = node.ask({})["memory_peak_bytes"]
    beside: dict[str, float | str] = {
        "GB": size / 1e9,
        "entries": float(entries),
        "s to open": found["open_seconds"],
        "MiB right after opening": opened_peak / MIB,
        "s until all was applied": applied_s,
        "commands/s then, 1 KiB": rate,
    }
    return Outcome([peak / MIB], beside)


def _make(home: Path, size: int) -> int:
    """A store as a node leaves it, made of one real command again and again; how many entries it has."""
    with Cluster(home / "seed", _store, count=1) as cluster:
        cluster.run(1, COMMAND_BYTES)
    with open_log(home / "seed" / "0") as log:
        entries = log.entries(log.first_index)
    term, command = entries[-1].term, entries[-1].data
    with open_log(home / "store") as log:
        log.append(entries)
        while log.last_index * len(command) < size:
            first = log.next_index
            log.append([Entry(term, index, command) for index in range(first, first + BATCH)])
        log.save_hard_state(HardState(term, None, log.last_index))
        return log.last_index


def _store(path: Path) -> str:
    return f"segmented://{path}"


def _wait_applied(node: Node, entries: int) -> dict[str, Any]:
    give_up = time.monotonic() + APPLY_S
    while time.monotonic() < give_up:
        found = node.ask({})
        if found["last_applied"] >= entries and found["leads"]:
            return found
        time.sleep(POLL_S)
    raise RuntimeError(f"after {APPLY_S:.0f} s only {found['last_applied']} of {entries} entries are applied")


if __name__ == "__main__":
    from benchmarks.targets import command

    command("--only", "big-journal")
