"""What a run does next: planted bugs first, then each method in its share of the time, then what is wanted.

Pure: it is told the time and what was counted so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raftstore.testing.crash.method import Method
from raftstore.testing.crash.tally import Tally


class Goals(msgspec.Struct, frozen=True):
    """What a run does not end before, whatever the time."""

    images: int = 0
    """So many different images were opened."""
    kills: int = 0
    """So many processes were killed."""
    sweeps: bool = False
    """Each method that goes through every call has done so, in every way."""


class Order(msgspec.Struct, frozen=True):
    """One piece of work: the `number`th round of a method, or the search for a planted bug."""

    method: str
    number: int = 0
    plant: str | None = None
    until: float | None = None
    """By `time.monotonic`, which all processes share: begin nothing more."""


class Schedule:
    """Gives out orders, and is told of each that is done. Several may be under way."""

    def __init__(
        self, methods: Sequence[Method], plants: Sequence[tuple[str, str]], seconds: float, goals: Goals
    ) -> None:
        """`plants`: methods and what they must find. `seconds`: for all methods, after the plants."""
        self._plants = list(plants)
        self._seconds = seconds
        self._goals = goals
        self._uses = {method.name: _Use(method) for method in methods}
        self._until: float | None = None

    def next(self, now: float, tally: Tally) -> Order | None:
        """What to do now; None: nothing more."""
        if self._plants:
            method, plant = self._plants.pop(0)
            return Order(method, plant=plant)
        if self._until is None:
            self._until = now + self._seconds
        wanted = [use for use in self._uses.values() if self._is_wanted(use, tally)]
        candidates = list(self._uses.values()) if now < self._until else wanted
        if not candidates:
            return None
        use = min(candidates, key=lambda use: use.load)
        return use.order(None if use in wanted else self._until)

    @property
    def not_begun(self) -> list[str]:
        """The methods that had no time, but for planted bugs."""
        return [name for name, use in self._uses.items() if not use.begun]

    def done(self, order: Order, seconds: float) -> None:
        """The order took so long."""
        if order.plant is None:
            self._uses[order.method].done(seconds)

    def _is_wanted(self, use: _Use, tally: Tally) -> bool:
        method, goals = use.method, self._goals
        if method.serves == "images":
            return goals.images > 0 and tally.unique < goals.images
        if method.serves == "kills":
            return tally.kills < goals.kills
        return goals.sweeps and method.rounds is not None and use.begun < method.rounds


class _Use:
    """How much of one method there was."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.begun = 0
        self._rounds_done = 0
        self._seconds = 0.0

    @property
    def load(self) -> float:
        """Its time in proportion to its share; rounds under way count as long as the others took."""
        usual_s = self._seconds / self._rounds_done if self._rounds_done else 1.0
        return (self._seconds + usual_s * (self.begun - self._rounds_done)) / self.method.share

    def order(self, until: float | None) -> Order:
        self.begun += 1
        return Order(self.method.name, self.begun - 1, until=until)

    def done(self, seconds: float) -> None:
        self._rounds_done += 1
        self._seconds += seconds
