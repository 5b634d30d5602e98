"""How long opening takes as the log grows."""

from __future__ import annotations

import msgspec

from raftstore.compare.budget import Budget
from raftstore.compare.keeping import KeptStore, grow, open_lazily
from raftstore.compare.measurement import Measurement


class OpenGrown(msgspec.Struct, frozen=True):
    """Open a log of so many entries after a clean close. Run them on one store, the smallest first."""

    entries: int

    @property
    def name(self) -> str:
        return f"open-{self.entries}"

    @property
    def title(self) -> str:
        return f"open a log of {self.entries:,} entries"

    def run(self, store: KeptStore, budget: Budget) -> Measurement:
        grow(store, self.entries)
        return open_lazily(store, budget)
