"""The search for an order that explains all operations on one register."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from raftstore.testing.linearizability.known import decided
from raftstore.testing.linearizability.operation import Operation

CONFIGURATIONS_MAX: Final = 2_000_000

_Configuration = tuple[int, str | None]
"""One way in which it can have come so far: the places whose operations took effect, as bits, and what the
register holds. An operation has a place from its invocation to its return."""


class UndecidedError(Exception):
    """The search met more configurations than it may."""


def unexplained(
    operations: Sequence[Operation], configurations_max: int = CONFIGURATIONS_MAX
) -> Operation | None:
    """The first operation, by time of return, up to which no order explains all; None if one explains all.

    `operations` are those on one key, in any order. Raises `UndecidedError` after `configurations_max`.
    """
    search = _Search(configurations_max)
    for operation, is_return in _events(decided(operations)):
        if not is_return:
            search.invoke(operation)
        elif not search.returns(operation):
            return operation
    return None


def _events(operations: Iterable[Operation]) -> Iterator[tuple[Operation, bool]]:
    """Each operation at its invocation, and with True at its return. Equal times: invocations first."""
    events: list[tuple[int, bool, int, Operation]] = []
    for number, each in enumerate(operations):
        events.append((each.invoked_ns, False, number, each))
        if each.outcome != "unknown" and each.returned_ns is not None:
            events.append((each.returned_ns, True, number, each))
    for _, is_return, _, operation in sorted(events, key=lambda event: event[:3]):
        yield operation, is_return


class _Search:
    """All configurations that are possible now, without those that can do no more than another one."""

    def __init__(self, configurations_max: int) -> None:
        self._left = configurations_max
        self._places: dict[int, Operation] = {}
        """By bit."""
        self._earlier_twin: dict[int, int] = {}
        """By bit: an open operation of unknown outcome that is the same, which takes effect first."""
        self._optional = 0
        """The bits of all operations of unknown outcome."""
        self._possible: set[_Configuration] = {(0, None)}

    def invoke(self, operation: Operation) -> None:
        """From now on it may take effect."""
        bit = 1
        while bit in self._places:
            bit <<= 1
        if operation.outcome == "unknown":
            twins = [other for other, each in self._places.items() if _are_twins(each, operation)]
            self._earlier_twin[bit] = twins[-1] if twins else 0
            self._optional |= bit
        self._places[bit] = operation

    def returns(self, operation: Operation) -> bool:
        """Keep the configurations in which it has taken effect by now. False if there is none.

        Those that used fewer optional operations come first: the others are measured against them.
        """
        mine = next(bit for bit, each in self._places.items() if each is operation)
        used_up: defaultdict[_Configuration, list[int]] = defaultdict(list)
        kept = set[_Configuration]()
        todo = [self._ranked(*self._settled(*each)) for each in self._possible]
        heapq.heapify(todo)
        while todo:
            done, state = heapq.heappop(todo)[-1]
            if not self._is_new(done, state, used_up):
                continue
            if done & mine:
                kept.add((done ^ mine, state))
                continue
            for following in self._following(done, state):
                heapq.heappush(todo, self._ranked(*following))
        del self._places[mine]
        self._possible = kept
        return bool(kept)

    def _ranked(self, done: int, state: str | None) -> tuple[int, int, _Configuration]:
        """With what it is sorted by: the number of optional operations used, then the order of discovery."""
        self._left -= 1
        if self._left < 0:
            raise UndecidedError
        return (done & self._optional).bit_count(), -self._left, (done, state)

    def _is_new(self, done: int, state: str | None, used_up: defaultdict[_Configuration, list[int]]) -> bool:
        """False if one was here that differs, if at all, only in that it used fewer optional operations."""
        used, others = done & self._optional, used_up[done & ~self._optional, state]
        if any(fewer & used == fewer for fewer in others):
            return False
        others.append(used)
        return True

    def _following(self, done: int, state: str | None) -> Iterator[_Configuration]:
        """One operation more has taken effect."""
        for bit, operation in self._places.items():
            twin = self._earlier_twin.get(bit, 0)
            if done & bit or done & twin != twin:
                continue
            after = operation.on(state)
            if after is not None and (after != (state,) or not bit & self._optional):
                yield self._settled(done | bit, *after)

    def _settled(self, done: int, state: str | None) -> _Configuration:
        """All that store nothing and may take effect now, do: waiting gains them nothing."""
        for bit, operation in self._places.items():
            if not done & bit and not operation.may_store and operation.on(state) is not None:
                done |= bit
        return done, state


def _are_twins(one: Operation, other: Operation) -> bool:
    """True if each can stand in the other's place, in every order from when both are invoked."""
    return (one.outcome, one.kind, one.value, one.expected) == (
        other.outcome,
        other.kind,
        other.value,
        other.expected,
    )
