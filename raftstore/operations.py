"""What each call of the public API may do: the checks, made against the accepted state, and the write.

Each function takes a call's arguments, checks what can be checked without the log, and returns an
`Operation`. Its `decide` is pure: it is given the accepted state and returns the write that follows, or
None, and the call's result; or it raises, and nothing has changed. The log runs it under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from raftstore.config import Limits
from raftstore.entry import INDEX_MAX, Entry, HardState, LogId, Splice
from raftstore.errors import (
    CommittedError,
    EntryTooLargeError,
    GapError,
    PurgedError,
    TermError,
)
from raftstore.hardstate import check_successor, encode_meta
from raftstore.shape import Shape
from raftstore.write import ENTRY_OVERHEAD, Write, appending, changing

T = TypeVar("T")
Decision = tuple[Write | None, T]


def _moves_bounds(write: Write) -> bool:
    return write.moves_bounds


class Operation(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """One call: how to decide it, the memory it needs, and whether it is durable on return.

    If a durable operation decides that there is nothing to write, what it asked for may still be in flight:
    the log then waits for the newest write that `awaits` is true of.
    """

    decide: Callable[[Write], Decision[T]]
    size: int = 0
    durable: bool = True
    awaits: Callable[[Write], bool] = _moves_bounds


# --- entries ---------------------------------------------------------------------------------------------


def append(entries: Sequence[Entry], limits: Limits) -> Operation[LogId]:
    run = list(entries)
    size = _check_entries(run, limits)

    def decide(accepted: Write) -> Decision[LogId]:
        if not run:
            return None, accepted.shape.last
        _check_follows(accepted.shape.last, run[0])
        write = appending(accepted, run, size)
        return write, write.shape.last

    return Operation(decide, size, False)


def propose(
    term: int, payloads: Sequence[bytes], kind: int, limits: Limits, at: int | None = None
) -> Operation[range]:
    data = list(payloads)
    return proposal(term, data, kind, check_proposal(data, kind, limits), at)


def check_proposal(data: Sequence[bytes], kind: int, limits: Limits) -> int:
    """Check what does not depend on the log; the memory that entries with `data` need, in bytes."""
    total, bytes_max = 0, limits.entry_bytes_max
    for payload in data:
        if not isinstance(payload, bytes) or len(payload) > bytes_max:
            _check_payload(payload, limits)
        total += len(payload)
    if not 0 <= kind <= 255:
        _check_kind(kind)
    return _check_call_size(total, len(data), limits)


def proposal(
    term: int, data: Sequence[bytes], kind: int, size: int, at: int | None = None
) -> Operation[range]:
    """As `propose`, of `data` that is checked and needs `size` bytes."""

    def decide(accepted: Write) -> Decision[range]:
        last = accepted.shape.last
        if not (last.term <= term <= INDEX_MAX and accepted.hard_state.term <= term):
            current = max(accepted.hard_state.term, last.term)
            raise TermError(f"term {term} is below the current term {current}: this leader was deposed")
        start = last.index + 1
        if at is not None and at != start:
            raise GapError(f"index {at} is not the next one, which is {start}")
        indexes = range(start, start + len(data))
        if not data:
            return None, indexes
        if indexes.stop > INDEX_MAX:
            _check_index_space(indexes.stop - 1)
        run = [Entry(term, index, payload, kind) for index, payload in enumerate(data, start)]
        return appending(accepted, run, size), indexes

    return Operation(decide, size, False)


def splice(prev: LogId, entries: Sequence[Entry], limits: Limits) -> Operation[Splice]:
    run = list(entries)
    size = _check_entries(run, limits)
    if run:
        _check_follows(prev, run[0])

    def decide(accepted: Write) -> Decision[Splice]:
        shape = accepted.shape
        conflict = _mismatch(shape, prev)
        if conflict is not None:
            return None, Splice(matched=False, conflict=conflict)
        outcome = Splice(matched=True, match_index=max(prev.index + len(run), shape.anchor.index))
        news = run[max(shape.anchor.index - prev.index, 0) :]
        at = _first_unmatched(shape, news)
        if at == len(news):  # What it verified may still be on its way to the disk: wait for that.
            return appending(accepted, (), 0), outcome
        _check_follows(shape.anchor, news[0], gap=False)
        return _splice_write(accepted, news[at:]), outcome

    return Operation(decide, size=size, durable=False)


def _mismatch(shape: Shape, prev: LogId) -> LogId | None:
    """None if the log holds `prev`, else where the leader should look next (Raft §5.3)."""
    if prev.index > shape.last.index:
        return LogId(0, shape.next_index)
    if prev.index < shape.anchor.index:
        return None
    term = shape.term(prev.index)
    if term is None or term == prev.term:
        return None
    if prev.index == shape.anchor.index:
        raise CommittedError(f"{prev} contradicts the purged and therefore committed {shape.anchor}")
    return LogId(term, shape.first_index_of_term(term) or prev.index)


def _first_unmatched(shape: Shape, news: list[Entry]) -> int:
    """How many of `news` the log holds already, with the same terms, before the first that it does not."""
    held = min(len(news), max(shape.last.index - news[0].index + 1, 0)) if news else 0
    position = 0
    while position < held:
        entry = news[position]
        if shape.term(entry.index) != entry.term:
            break
        end = min(held, (shape.last_index_of_term(entry.term) or 0) - news[0].index + 1)
        if news[end - 1].term != entry.term:
            end = position + 1
        position = end
    return position


def _splice_write(accepted: Write, news: list[Entry]) -> Write:
    size = sum([len(entry.data) for entry in news]) + ENTRY_OVERHEAD * len(news)
    start = news[0].index
    if start > accepted.shape.last.index:
        return appending(accepted, news, size)
    _check_not_committed(start, accepted)
    return changing(accepted, truncate_from=start, entries=news, size=size, urgent=True, visible_late=True)


# --- bounds ----------------------------------------------------------------------------------------------


def truncate(start: int) -> Operation[None]:
    def decide(accepted: Write) -> Decision[None]:
        shape = accepted.shape
        if start > shape.last.index:
            return None, None
        _check_above_anchor(start, shape)
        _check_not_committed(start, accepted)
        return changing(accepted, truncate_from=start, urgent=True, visible_late=True), None

    return Operation(decide)


def purge(upto: int) -> Operation[None]:
    def decide(accepted: Write) -> Decision[None]:
        shape = accepted.shape
        if upto <= shape.anchor.index:
            return None, None
        term = shape.term(upto)
        if term is None:
            raise GapError(f"cannot purge up to {upto}: the last index is {shape.last.index}")
        return _purge_write(accepted, LogId(term, upto)), None

    return Operation(decide)


def install_snapshot(last_included: LogId) -> Operation[bool]:
    _check_id(last_included)

    def decide(accepted: Write) -> Decision[bool]:
        if last_included.index <= accepted.commit:
            return None, False
        if accepted.shape.term(last_included.index) == last_included.term:
            return _purge_write(accepted, last_included), True
        return _reset_write(accepted, last_included), True

    return Operation(decide)


def reset(anchor: LogId) -> Operation[None]:
    _check_id(anchor)
    return Operation(lambda accepted: (_reset_write(accepted, anchor), None))


def _purge_write(accepted: Write, anchor: LogId) -> Write:
    commit = max(accepted.commit, anchor.index)
    return changing(accepted, anchor=anchor, commit=commit, urgent=True, visible_late=True)


def _reset_write(accepted: Write, anchor: LogId) -> Write:
    return changing(
        accepted, truncate_from=1, anchor=anchor, commit=anchor.index, urgent=True, visible_late=True
    )


# --- hard state, metadata, all at once -------------------------------------------------------------------


def save_hard_state(state: HardState) -> Operation[None]:
    def decide(accepted: Write) -> Decision[None]:
        check_successor(accepted.hard_state, state)
        commit = _raised_commit(accepted.commit, state.commit, accepted.shape)
        if (state.term, state.voted_for) == (accepted.hard_state.term, accepted.hard_state.voted_for):
            return None, None
        return changing(accepted, hard_state=state, commit=commit, urgent=True), None

    return Operation(decide, awaits=lambda write: write.state_change is not None)


def put_meta(key: str, value: bytes | None) -> Operation[None]:
    if not isinstance(key, str) or not isinstance(value, bytes | None):
        raise TypeError("a metadata key is a str, its value bytes or None")

    def decide(accepted: Write) -> Decision[None]:
        return changing(accepted, meta=_changed_meta(accepted, {key: value}), urgent=True), None

    return Operation(decide)


def save(
    entries: Sequence[Entry],
    hard_state: HardState | None,
    truncate_from: int | None,
    anchor: LogId | None,
    meta: Mapping[str, bytes | None] | None,
    limits: Limits,
) -> Operation[None]:
    run = list(entries)
    size = _check_entries(run, limits)
    if anchor is not None:
        _check_id(anchor)

    def decide(accepted: Write) -> Decision[None]:
        shape, cut, commit = accepted.shape, truncate_from, accepted.commit
        if anchor is not None:
            shape, commit = Shape(anchor, anchor), anchor.index
        if cut is not None and cut <= shape.last.index:
            _check_above_anchor(cut, shape)
            _check_not_committed(cut, accepted)
            shape = shape.truncated(cut)
        else:
            cut = None
        if run:
            _check_follows(shape.last, run[0])
            shape = shape.appended(run)
        if hard_state is not None:
            check_successor(accepted.hard_state, hard_state)
            commit = _raised_commit(commit, hard_state.commit, shape)
        write = changing(
            accepted,
            truncate_from=cut if anchor is None else 1,
            anchor=anchor,
            entries=run,
            size=size,
            hard_state=hard_state,
            meta=None if meta is None else _changed_meta(accepted, meta),
            commit=commit,
            urgent=True,
            visible_late=bool(run) or cut is not None or anchor is not None,
        )
        return write, None

    return Operation(decide, size=size)


def barrier() -> Operation[None]:
    """Everything that was accepted before, durable."""
    return Operation(lambda accepted: (changing(accepted, urgent=True), None))


# --- checks ----------------------------------------------------------------------------------------------


def raised_commit(accepted: Write, index: int) -> int:
    """The commit index after `commit_to(index)`. Raises `GapError` above the last accepted index."""
    return _raised_commit(accepted.commit, index, accepted.shape)


def _raised_commit(current: int, index: int, shape: Shape) -> int:
    if index > shape.last.index:
        raise GapError(f"cannot commit {index}: the last index is {shape.last.index}")
    return max(current, index)


def _check_entries(run: Sequence[Entry], limits: Limits) -> int:
    """Check what does not depend on the log; the memory that `run` needs, in bytes."""
    if not run:
        return 0
    index, term, total, bytes_max = run[0].index, run[0].term, 0, limits.entry_bytes_max
    for entry in run:
        data = entry.data
        if entry.index != index:
            raise GapError(f"entry {entry.index} stands where {index} should: a run has no holes")
        if entry.term < term:
            raise TermError(f"entry {entry.index} has term {entry.term}, below {term} before it")
        if not 0 <= entry.kind <= 255:
            _check_kind(entry.kind)
        if not isinstance(data, bytes) or len(data) > bytes_max:
            _check_payload(data, limits)
        total += len(data)
        index += 1
        term = entry.term
    if index > INDEX_MAX:
        _check_index_space(index - 1)
    if run[0].index < 1:
        raise GapError(f"indexes begin at 1, not at {run[0].index}")
    if run[0].term < 0 or term > INDEX_MAX:
        raise TermError(f"terms are within 0..{INDEX_MAX}")
    return _check_call_size(total, len(run), limits)


def _check_payload(data: bytes, limits: Limits) -> None:
    if not isinstance(data, bytes):
        raise TypeError(f"an entry's data is bytes, not {type(data).__name__}")
    size, bytes_max = len(data), limits.entry_bytes_max
    if size > bytes_max:
        raise EntryTooLargeError(f"an entry of {size} bytes; entry_bytes_max is {bytes_max}")


def _check_call_size(total: int, count: int, limits: Limits) -> int:
    if total > limits.write_bytes_max:
        raise EntryTooLargeError(f"{total} bytes in one call; write_bytes_max is {limits.write_bytes_max}")
    return total + ENTRY_OVERHEAD * count


def _check_kind(kind: int) -> None:
    if not 0 <= kind <= 255:
        raise ValueError(f"an entry's kind is within 0..255, not {kind}")


def _check_index_space(index: int) -> None:
    if index > INDEX_MAX:
        raise GapError(f"index {index} is above the highest, {INDEX_MAX}")


def _check_id(log_id: LogId) -> None:
    if not (0 <= log_id.term <= INDEX_MAX and 0 <= log_id.index <= INDEX_MAX):
        raise ValueError(f"{log_id}: term and index are within 0..{INDEX_MAX}")


def _check_follows(last: LogId, entry: Entry, *, gap: bool = True) -> None:
    if gap and entry.index != last.index + 1:
        raise GapError(f"entry {entry.index} does not follow {last.index}: start at {last.index + 1}")
    if entry.term < last.term:
        raise TermError(f"entry {entry.index} has term {entry.term}, below {last.term} before it")


def _check_above_anchor(start: int, shape: Shape) -> None:
    if start <= shape.anchor.index:
        raise PurgedError(f"index {start} was purged; the first index is {shape.first_index}")


def _check_not_committed(start: int, accepted: Write) -> None:
    if start <= accepted.commit:
        raise CommittedError(f"index {start} is committed (commit index {accepted.commit}): it stays")


def _changed_meta(accepted: Write, change: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """The metadata after `change`. Raises `EntryTooLargeError`."""
    merged = {**accepted.meta, **change}
    values = {key: value for key, value in merged.items() if value is not None}
    encode_meta(values)
    return values
