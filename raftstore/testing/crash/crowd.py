"""Steps of a crowd of threads: their names, and which of them a log holds.

One thread votes, one saves metadata, the others propose. A step is named by its thread and its number there,
and what it leaves names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from raftstore.testing.log_model import LogState

VOTER, SAVER, THREADS = 0, 1, 5
"""The thread that votes, the one that saves metadata, and how many there are: the rest propose."""
STEPS_MAX: Final = 100
TERM: Final = 10**6
"""Of all proposals: a vote's term is the number of its step, which is below."""
META: Final = "a"
UNKNOWN: Final = -1


class Crowd(msgspec.Struct, frozen=True):
    """What a log holds of the steps of a crowd."""

    proposed: Sequence[int]
    """The steps whose entries are there, in their order; `UNKNOWN` for an entry that is of none."""
    votes: int
    saves: int
    """How many; of the votes `UNKNOWN` if the vote is of none."""


def name_of(thread: int, number: int) -> int:
    """Of the `number`th step of a thread, counted from 1."""
    return thread * STEPS_MAX + number


def thread_of(step: int) -> int:
    """Whose step it is."""
    return step // STEPS_MAX


def payload(seed: int, step: int) -> bytes:
    """What the step proposes."""
    size = Random(f"{seed}/{step}").choice([0, 30, 200, 900, 5000])
    return b"step %d " % step + b"." * size


def crowd_of(state: LogState) -> Crowd:
    """The steps in `state`."""
    proposed = [_step_of(entry.data) for entry in state.entries]
    votes = state.term if state.term == 0 or state.voted_for == f"n{state.term}" else UNKNOWN
    return Crowd(proposed, votes, int(dict(state.meta).get(META, b"0")))


def _step_of(data: bytes) -> int:
    words = data.split(b" ", 2)
    return int(words[1]) if words[0] == b"step" and len(words) == 3 and words[1].isdigit() else UNKNOWN
