"""The whole answer: every key of a history."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from raftstore.testing.linearizability.operation import Operation
from raftstore.testing.linearizability.search import CONFIGURATIONS_MAX, UndecidedError, unexplained
from raftstore.testing.linearizability.show import as_text
from raftstore.testing.linearizability.shrink import shrunk

SHOWN_MAX: Final = 5
"""Violations."""


@dataclass(frozen=True)
class Verdict:
    """What `check` found."""

    keys: int
    operations: int
    unknown: int
    """Operations whose clients do not know their outcome."""
    violations: dict[str, list[Operation]] = field(default_factory=dict[str, list[Operation]])
    """By key, a few of its operations that no order explains, by time of invocation."""
    undecided: list[str] = field(default_factory=list[str])
    """The keys whose search was ended before it had an answer."""

    @property
    def is_linearizable(self) -> bool:
        """True if every key was decided, and is."""
        return not self.violations and not self.undecided

    def as_text(self) -> str:
        """One line, and for the first violations the operations that no order explains."""
        counts = f"{self.operations:,} operations on {self.keys:,} keys, {self.unknown:,} of unknown outcome"
        lines = [f"{counts}: {self._answer()}"]
        shown = itertools.islice(self.violations.items(), SHOWN_MAX)
        lines += [as_text(key, operations) for key, operations in shown]
        if len(self.violations) > SHOWN_MAX:
            lines.append(f"and {len(self.violations) - SHOWN_MAX:,} keys more")
        lines += [f'undecided: key "{key}", the search takes too long' for key in self.undecided]
        return "\n".join(lines)

    def _answer(self) -> str:
        if self.violations:
            return f"NOT linearizable, {len(self.violations):,} of the keys"
        return "undecided" if self.undecided else "linearizable"


def check(operations: Iterable[Operation], configurations_max: int = CONFIGURATIONS_MAX) -> Verdict:
    """Decide each key. `configurations_max` bounds the search for one; its memory is less than 1 KiB each."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for each in operations:
        by_key[each.key].append(each)
    verdict = Verdict(
        keys=len(by_key),
        operations=sum(map(len, by_key.values())),
        unknown=sum(each.outcome == "unknown" for of_key in by_key.values() for each in of_key),
    )
    for key, of_key in by_key.items():
        try:
            if unexplained(of_key, configurations_max) is not None:
                verdict.violations[key] = shrunk(of_key, configurations_max)
        except UndecidedError:
            verdict.undecided.append(key)
    return verdict
