"""What a run of the crash tests did, in numbers, and what it found."""

from __future__ import annotations

from typing import Final

import msgspec

from raftstore.testing.crash.oracle import Verdict

FAILURES_MAX: Final = 20
"""How many failures of each verdict are kept with their details."""

Counts = dict[str, int]


def add(counts: Counts, name: str, count: int = 1) -> None:
    """One more of `name`, or `count` more."""
    counts[name] = counts.get(name, 0) + count


class Failure(msgspec.Struct, frozen=True):
    """One crash or fault after which a promise was broken."""

    verdict: Verdict
    where: str
    words: str
    kept: str | None = None
    """Where the image is, for whoever looks into it."""


class Planted(msgspec.Struct, frozen=True):
    """A bug that was planted, and how it was caught, if it was."""

    method: str
    name: str
    verdict: Verdict | None
    words: str = ""
    """Of what was found; if it was not caught, of something else that was."""
    rounds: int = 0
    """How many it took."""


class Tally(msgspec.Struct):
    """Grows while tests run; several can be merged."""

    instants: int = 0
    """Times in recorded runs at which power was cut."""
    generated: int = 0
    """Images, as often as they came up."""
    images: dict[str, set[int]] = {}
    """The names of the images that were opened, by method, model and strategy."""
    verdicts: dict[str, Counts] = {}
    """By method; of an image, as often as it came up."""
    faults: Counts = {}
    """Faults that happened, by kind."""
    swept: Counts = {}
    """How often a part of going through every call of a workload was done to its end, by method and part."""
    kills: int = 0
    done: Counts = {}
    """Whatever else a method counts, by what it is."""
    explained: Counts = {}
    """Refusals that are known, by their reason; they are among the verdicts, but no failures."""
    planted: list[Planted] = []
    failures: list[Failure] = []
    notes: list[str] = []
    """What was skipped, and why."""

    def see(self, kind: str, name: int) -> None:
        """An image was opened; `kind`: method, model and strategy. Equal images are counted once."""
        self.images.setdefault(kind, set()).add(name)

    @property
    def unique(self) -> int:
        """How many different images were opened."""
        return len(set[int]().union(*self.images.values()))

    def unique_of(self, part: str) -> int:
        """How many different images of the kinds that begin or end with `part` were opened."""
        kinds = [k for k in self.images if k.startswith(f"{part}, ") or k.endswith(f", {part}")]
        return len(set[int]().union(*[self.images[kind] for kind in kinds]))

    @property
    def unexplained(self) -> int:
        """Openings that were refused, but for those that are explained."""
        return self.total(Verdict.REFUSED) - sum(self.explained.values())

    def did(self, what: str, count: int = 1) -> None:
        """Something that the report should show happened once more."""
        add(self.done, what, count)

    def count(self, method: str, verdict: Verdict) -> None:
        add(self.verdicts.setdefault(method, {}), verdict.value)

    def fail(self, verdict: Verdict, where: str, words: str, *, kept: str | None = None) -> None:
        """Note what was wrong, the first few of each verdict in full."""
        self._keep(Failure(verdict, where, words, kept))

    def _keep(self, failure: Failure) -> None:
        if sum(kept.verdict is failure.verdict for kept in self.failures) < FAILURES_MAX:
            self.failures.append(failure)

    def sweep(self, method: str, part: str) -> None:
        """Every call that the part is about was made to fail."""
        add(self.swept, f"{method}: {part}")

    def swept_by(self, method: str) -> int:
        """How many different parts the method did to their end."""
        return sum(part.startswith(f"{method}: ") for part in self.swept)

    def take(self) -> Tally:
        """What was counted so far. From here on it is counted anew."""
        taken, empty = msgspec.structs.replace(self), Tally()
        for field in self.__struct_fields__:
            setattr(self, field, getattr(empty, field))
        return taken

    def merge(self, other: Tally) -> None:
        """Add what another tally counted."""
        self.instants += other.instants
        self.generated += other.generated
        self.kills += other.kills
        for kind, names in other.images.items():
            self.images.setdefault(kind, set()).update(names)
        for name, count in other.faults.items():
            add(self.faults, name, count)
        for way, count in other.swept.items():
            add(self.swept, way, count)
        for what, count in other.done.items():
            add(self.done, what, count)
        for reason, count in other.explained.items():
            add(self.explained, reason, count)
        for method, counts in other.verdicts.items():
            for name, count in counts.items():
                add(self.verdicts.setdefault(method, {}), name, count)
        self.planted += other.planted
        for failure in other.failures:
            self._keep(failure)
        self.notes += [note for note in other.notes if note not in self.notes]

    def total(self, verdict: Verdict) -> int:
        """How often that verdict was given."""
        return sum(counts.get(verdict.value, 0) for counts in self.verdicts.values())

    @property
    def has_failed(self) -> bool:
        """Whether a promise was broken, or a planted bug not caught."""
        return bool(self.failures) or any(planted.verdict is None for planted in self.planted)
