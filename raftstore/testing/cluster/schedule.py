"""Who is killed and cut off when. A schedule follows from its seed; who leads then, only the run knows."""

from __future__ import annotations

from random import Random
from typing import Final, Literal

import msgspec

Victims = Literal["leader", "follower", "leader and follower", "two followers", "all"]
Direction = Literal["both ways", "nothing in", "nothing out"]

_VICTIMS: Final[dict[Victims, int]] = {
    "leader": 6,
    "follower": 4,
    "leader and follower": 4,
    "two followers": 2,
    "all": 4,
}
_COUNT: Final[dict[Victims, int]] = {
    "leader": 1, "follower": 1, "leader and follower": 2, "two followers": 2, "all": 3
}  # fmt: skip
"""SIGKILLs; of three nodes."""
CUT_SHARE: Final = 0.3
"""How many rounds cut the network, where that is possible."""
QUIET_S: Final = (0.2, 0.8)
DOWN_S: Final = (0.0, 0.6)
AGAIN_S: Final = (0.05, 0.7)
CUT_S: Final = (0.5, 2.5)


class Strike(msgspec.Struct, frozen=True, tag="strike"):
    """SIGKILL `victims` at once; each starts again after its time in `down_s`."""

    quiet_s: float
    """Before it, the clients are left alone for so long."""
    victims: Victims
    pick: float
    """0..1: which of the followers."""
    down_s: tuple[float, ...]
    again_s: float | None
    """If given, the first victim is killed again, so long after its start: while it opens, or soon after."""

    @property
    def kills(self) -> int:
        return _COUNT[self.victims] + (self.again_s is not None)


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Cut one node off from all others, for some time."""

    quiet_s: float
    victim: Literal["leader", "follower"]
    pick: float
    direction: Direction
    seconds: float
    kill_other: bool
    """Kill and restart another node in the middle of it."""

    @property
    def kills(self) -> int:
        return int(self.kill_other)


Round = Strike | Cut


def plan(seed: int, kills: int, *, partitions: bool = False) -> list[Round]:
    """Rounds with at least `kills` SIGKILLs in all, for three nodes."""
    random = Random(seed)
    rounds: list[Round] = []
    while sum(each.kills for each in rounds) < kills:
        rounds.append(_cut(random) if partitions and random.random() < CUT_SHARE else _strike(random))
    return rounds


def _strike(random: Random) -> Strike:
    (victims,) = random.choices(list(_VICTIMS), list(_VICTIMS.values()))
    return Strike(
        quiet_s=random.uniform(*QUIET_S),
        victims=victims,
        pick=random.random(),
        down_s=tuple(random.uniform(*DOWN_S) for _ in range(_COUNT[victims])),
        again_s=random.uniform(*AGAIN_S) if random.random() < 0.2 else None,
    )


def _cut(random: Random) -> Cut:
    return Cut(
        quiet_s=random.uniform(*QUIET_S),
        victim=random.choice(("leader", "leader", "follower")),
        pick=random.random(),
        direction=random.choice(("both ways", "both ways", "nothing in", "nothing out")),
        seconds=random.uniform(*CUT_S),
        kill_other=random.random() < 0.4,
    )
