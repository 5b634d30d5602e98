"""What a journal alone costs PySyncObj: CPU time and function calls a command, ours beside its own.

    python -m benchmarks.pysyncobj_journal

Makes the calls that a leader, a follower, and a follower that is told twice make for a burst of commands.
There is no network and no other node, so that the numbers hardly vary: function calls do not at all.
"""

from __future__ import annotations

import cProfile
import pstats
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from raftstore.adapters.pysyncobj import RaftStoreJournal, library

COMMANDS: Final = {64: 20_000, 1024: 10_000}
OVERHEAD_BYTES: Final = 33
"""What pickling a call adds to its argument."""
ROUNDS: Final = 7
MESSAGE_BYTES: Final = 65_536
NODES: Final = 3
ENTRIES: Final = {"type": "append_entries"}
ACK: Final = {"type": "next_node_idx"}

Send = Callable[[dict[str, str]], None]
Part = Callable[[Any, Send, bytes, range], None]


def lead(journal: Any, send: Send, command: bytes, indexes: range) -> None:
    """Take commands one by one, send them to each other node, commit and apply them."""
    for _ in indexes:
        journal.add(command, journal[-1][1] + 1, 1)
    for _ in range(NODES - 1):
        following = indexes.start
        while following <= journal[-1][1]:
            _entries(journal, following - 1, 1)
            following = _message(journal, following)[-1][1] + 1
            send(ENTRIES)
    for index in indexes:
        assert journal[-1][1] >= index
        _entries(journal, index, 1)
    _apply(journal, indexes)


def follow(journal: Any, send: Send, command: bytes, indexes: range) -> None:
    """Take messages of 64 KiB, acknowledge each, apply all of it."""
    step = MESSAGE_BYTES // len(command) + 1
    for first in range(indexes.start, indexes.stop, step):
        _entries(journal, first - 1)
        _add(journal, command, range(first, min(first + step, indexes.stop)))
        send(ACK)
        journal.setRaftCommitIndex(journal[-1][1])
    _apply(journal, indexes)


def follow_again(journal: Any, send: Send, command: bytes, indexes: range) -> None:
    """Take messages that came before."""
    journal.deleteEntriesFrom(indexes.start - journal[0][1])
    _add(journal, command, indexes)
    send(ACK)


def cost(part: Part, journal: Any, send: Send, size: int, commands: int, rounds: int) -> tuple[float, float]:
    """CPU µs and function calls a command, of the best of `rounds`. The journal must be empty."""
    command = bytes(size + OVERHEAD_BYTES)
    journal.add(b"\x01", 1, 0)
    seconds, calls = [], 0
    for number in range(rounds):
        indexes = range(2 + number * commands, 2 + (number + 1) * commands)
        if part is follow_again:
            follow(journal, send, command, indexes)
        profile = cProfile.Profile() if number == rounds - 1 else None
        began = time.thread_time()
        if profile is None:
            part(journal, send, command, indexes)
            seconds.append(time.thread_time() - began)
        else:
            profile.runcall(part, journal, send, command, indexes)
            calls = vars(pstats.Stats(profile))["total_calls"]
    return min(seconds, default=0.0) / commands * 1e6, calls / commands


def _add(journal: Any, command: bytes, indexes: range) -> None:
    for index in indexes:
        journal.add(command, index, 1)


def _apply(journal: Any, indexes: range) -> None:
    journal.setRaftCommitIndex(indexes.stop - 1)
    for command, _, _ in _entries(journal, indexes.start, len(indexes)):
        assert command


def _entries(journal: Any, index: int, count: int | None = None) -> Any:
    """As PySyncObj reads: relative to the first entry, which it asks for each time."""
    position = index - journal[0][1]
    return journal[position:] if count is None else journal[position : position + count]


def _message(journal: Any, index: int) -> Any:
    """What fits into one message."""
    entries = _entries(journal, index)
    size = count = 0
    for command, _, _ in entries:
        size += len(command)
        count += 1
        if size >= MESSAGE_BYTES:
            break
    return entries[:count]


def main() -> None:
    """Print a line for each part, size and journal."""
    home = Path(tempfile.mkdtemp(prefix="raftstore-benchmarks-"))
    file_journal = library.load().journal.FileJournal
    try:
        for size, commands in COMMANDS.items():
            for part in (lead, follow, follow_again):
                theirs = file_journal(str(home / f"{part.__name__}-{size}"))
                ours = RaftStoreJournal(f"segmented://{home}/{part.__name__}-{size}.store")
                ours.attach("n1:1")
                for name, journal, send in (
                    ("FileJournal", theirs, _ignore),
                    ("raftstore", ours, ours.before_send),
                ):
                    micros, calls = cost(part, journal, send, size, commands, ROUNDS)
                    print(f"{part.__name__:13} {size:5} B  {name:12} {micros:6.2f} µs {calls:6.1f} calls")
                    journal._destroy()
    finally:
        shutil.rmtree(home)


def _ignore(_message: dict[str, str]) -> None:
    """PySyncObj's own journal is never asked to be durable."""


if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)  # PySyncObj leaves files open
    main()
