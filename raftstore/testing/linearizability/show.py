"""Operations as a person reads them: one line each, with a bar from invocation to return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftstore.testing.linearizability.operation import Operation

WIDTH_MAX: Final = 48
"""Of a bar; time is drawn by its events, equally far apart, not by the clock."""


def as_text(key: str, operations: Sequence[Operation]) -> str:
    """The operations on `key` by time of invocation, times in milliseconds since the first."""
    rows = sorted(operations, key=lambda each: each.invoked_ns)
    begin = min((each.invoked_ns for each in rows), default=0)
    moments = _moments(rows)
    lines = [f'key "{key}": no order of these {len(rows)} operations explains what each of them saw']
    lines += [f"  {_bar(each, moments)}  {_times(each, begin)}  {_words(each)}" for each in rows]
    return "\n".join(lines)


def _moments(rows: Sequence[Operation]) -> dict[int, int]:
    """The column of each invocation and return."""
    times = sorted({each.invoked_ns for each in rows} | {_end(each) for each in rows if _end(each)})
    step = max(1, min(6, WIDTH_MAX // max(1, len(times))))
    return {moment: step * number for number, moment in enumerate(times)}


def _end(each: Operation) -> int:
    """When it returned; 0 if its effect may still be to come."""
    return 0 if each.outcome == "unknown" or each.returned_ns is None else each.returned_ns


def _bar(each: Operation, moments: dict[int, int]) -> str:
    width = max(moments.values(), default=0) + 2
    start, stop = moments[each.invoked_ns], moments.get(_end(each), width)
    end = "|" if _end(each) else ">"
    return f"{' ' * start}|{'-' * max(0, stop - start - 1)}{end}".ljust(width + 1)


def _times(each: Operation, begin: int) -> str:
    start = f"{(each.invoked_ns - begin) / 1e6:10.3f}"
    return f"{start} .. {(_end(each) - begin) / 1e6:10.3f} ms" if _end(each) else f"{start} ..    unknown   "


def _words(each: Operation) -> str:
    outcome = {"ok": "", "fail": ": it held something else", "unknown": ": outcome unknown"}[each.outcome]
    return f"{each.client}: {each}{outcome}"
