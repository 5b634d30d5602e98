"""Who is killed when. A schedule follows from its seed, so that a run can be repeated."""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

Role = Literal["follower", "leader"]
DOWN_S_MIN, DOWN_S_MAX = 0.2, 0.9


class Kill(msgspec.Struct, frozen=True):
    """At `at_s` seconds a node in this role gets SIGKILL; `down_s` seconds later it starts again."""

    at_s: float
    role: Role
    down_s: float
    pick: float
    """0..1: which of the followers."""


def plan(seed: int, kills: int, seconds: float) -> list[Kill]:
    """`kills` kills spread over `seconds`, followers and leader in turn, each at a random moment."""
    random = Random(seed)
    slot = seconds / (kills + 1)
    return [
        Kill(
            at_s=slot * (number + random.uniform(0.5, 1.0)),
            role="follower" if number % 2 == 0 else "leader",
            down_s=random.uniform(DOWN_S_MIN, DOWN_S_MAX),
            pick=random.random(),
        )
        for number in range(kills)
    ]
