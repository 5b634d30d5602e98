"""What a run of the crash tests did, in numbers, and what it found."""

from __future__ import annotations

from collections import Counter

import msgspec

from raftstore.testing.crash.disk import Image
from raftstore.testing.crash.oracle import Verdict

FAILURES_MAX = 20
"""How many failures are kept with their details."""


class Failure(msgspec.Struct):
    """One crash or fault after which a promise was broken."""

    verdict: Verdict
    where: str
    words: str
    image: Image | None = None


class Tally(msgspec.Struct):
    """Grows while tests run; several can be added."""

    generated: int = 0
    instants: int = 0
    unique: Counter[str] = msgspec.field(default_factory=lambda: Counter[str]())
    verdicts: dict[str, Counter[str]] = {}
    """By method."""
    faults: Counter[str] = msgspec.field(default_factory=lambda: Counter[str]())
    kills: int = 0
    failures: list[Failure] = []
    failed: int = 0
    notes: list[str] = []

    def count(self, method: str, verdict: Verdict) -> None:
        self.verdicts.setdefault(method, Counter())[verdict.value] += 1

    def fail(self, verdict: Verdict, where: str, words: str, *, image: Image | None = None) -> None:
        """Note what was wrong, the first few in full."""
        self.failed += 1
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(Failure(verdict, where, words, image))
