"""What is known of operations with an unknown outcome, once the whole history of their key is there.

Each could have taken effect at any time or never, and trying that is what makes a search long. Most need no
trying: where every value is stored by one operation only, the one whose value somebody saw did take effect,
and before the first who saw it returned; and one whose value nobody saw need not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from raftstore.testing.linearizability.operation import Operation


def decided(operations: Sequence[Operation]) -> list[Operation]:
    """Fewer operations, fewer of unknown outcome, that have an order exactly if `operations` have one.

    `operations` are all those on one key. Those that say nothing are left out.
    """
    known = [each for each in operations if each.outcome != "unknown" or each.may_store]
    known = [each for each in known if each.outcome != "fail" or each.kind == "cas"]
    return _without_the_unseen(_with_the_seen(known))


def _with_the_seen(operations: list[Operation]) -> list[Operation]:
    """What is the only one to store a value that somebody saw, took effect before that one returned."""
    first_seen, stores = _first_seen(operations), Counter(each.value for each in operations if each.may_store)

    def known(each: Operation) -> Operation:
        seen_ns = first_seen.get(each.value)
        if (
            each.outcome != "unknown"
            or stores[each.value] > 1
            or seen_ns is None
            or seen_ns < each.invoked_ns
        ):
            return each
        return msgspec.structs.replace(each, outcome="ok", returned_ns=seen_ns)

    return [known(each) for each in operations]


def _first_seen(operations: Iterable[Operation]) -> dict[str | None, int]:
    """When the first operation returned that saw the value, by value."""
    first: dict[str | None, int] = {}
    for each in operations:
        if each.needs is not None and each.returned_ns is not None:
            (value,) = each.needs
            first[value] = min(first.get(value, each.returned_ns), each.returned_ns)
    return first


def _without_the_unseen(operations: list[Operation]) -> list[Operation]:
    """Without what need not have taken effect, because nobody saw its value.

    A cas may have failed for such a value. Which one does not matter: all become the same, and of those that
    differ in nothing else, as many are enough as there are such cas: the earliest, which can do the most.
    """
    wanted = {each.needs[0] for each in operations if each.needs is not None}
    wanted |= {each.expected for each in operations if each.kind == "cas"}
    enough = sum(each.kind == "cas" and each.outcome == "fail" for each in operations)
    kept: list[Operation] = []
    counts: Counter[tuple[str, str | None]] = Counter()
    unseen_value: str | None = None
    for each in sorted(operations, key=lambda each: each.invoked_ns):
        if each.outcome != "unknown" or each.value in wanted:
            kept.append(each)
            continue
        unseen_value = unseen_value or each.value
        counts[each.kind, each.expected] += 1
        if counts[each.kind, each.expected] <= enough:
            kept.append(msgspec.structs.replace(each, value=unseen_value))
    return kept
