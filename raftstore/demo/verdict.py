"""The comparison: what the state machines hold against what was sent and acknowledged. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from raftstore.demo.messages import Line


class Verdict(msgspec.Struct, frozen=True):
    """What all nodes together hold of what was acknowledged. Counts of lines, but for `disagreeing`."""

    acknowledged: int
    recovered: int
    """Acknowledged lines that every node has, once, as they were sent."""
    lost: int
    """Acknowledged lines that are absent or wrong on at least one node."""
    altered: int
    """Lines whose text is not what was sent."""
    repeated: int
    """Lines that a node applied more than once."""
    invented: int
    """Lines that nobody sent."""
    unknown_kept: int
    """Lines without an acknowledgement that are there all the same, as they may be."""
    disagreeing: tuple[str, ...]
    """The nodes whose lines, or their order, differ from the first node's."""
    behind: tuple[str, ...]
    """The nodes that did not catch up, and are not counted above."""

    @property
    def is_good(self) -> bool:
        """Nothing is lost, wrong, repeated or made up, and all nodes hold the same lines in one order."""
        wrong = self.lost + self.altered + self.repeated + self.invented
        return wrong == 0 and not self.disagreeing and not self.behind


def compare(
    sent: Mapping[int, str],
    acknowledged: set[int],
    machines: Mapping[str, Sequence[Line]],
    behind: Sequence[str] = (),
) -> Verdict:
    """Judge the state machines of the nodes, by name. Without any machine, everything is lost."""
    first = next(iter(machines.values()), ())
    everything = [line for machine in machines.values() for line in machine]
    altered = {line.id for line in everything if sent.get(line.id, line.text) != line.text}
    repeated = {number for machine in machines.values() for number in _repeated(machine)}
    on_all = {line.id for line in first}
    for machine in machines.values():
        on_all &= {line.id for line in machine}
    recovered = (acknowledged & on_all) - altered - repeated
    return Verdict(
        acknowledged=len(acknowledged),
        recovered=len(recovered),
        lost=len(acknowledged - on_all | acknowledged & altered),
        altered=len(altered),
        repeated=len(repeated),
        invented=len({line.id for line in everything} - sent.keys()),
        unknown_kept=len(on_all - acknowledged),
        disagreeing=tuple(name for name, machine in machines.items() if machine != first),
        behind=tuple(behind),
    )


def _repeated(machine: Sequence[Line]) -> list[int]:
    return [number for number, count in Counter(line.id for line in machine).items() if count > 1]
