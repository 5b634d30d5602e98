"""Reads: from memory, and under `DiskFirst` through the cache from disk, reading ahead of forward runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Condition, get_ident
from typing import Final

from raftstore.entry import Entry
from raftstore.errors import CorruptionError, PurgedError, RaftStoreError, StoreClosedError
from raftstore.ledger import Group
from raftstore.pipeline import Pipeline
from raftstore.shape import Shape

AHEAD_MIN: Final = 64 * 1024
AHEAD_MAX: Final = 4 * 1024 * 1024
"""Payload bytes that a miss of a forward run reads beyond what was asked for; doubled from miss to miss."""
READ_MAX: Final = 8 * 1024 * 1024
"""Payload bytes that are asked of the backend at once."""


class Reader:
    """Answers reads from the view, and from the backend where the view has nothing."""

    def __init__(self, pipeline: Pipeline, *, cache_bytes: int) -> None:
        self._pipeline = pipeline
        self._view = pipeline.ledger.view
        self._ahead_max = min(AHEAD_MAX, cache_bytes // 4)
        self._ahead = 0
        self._run_end = 0
        self._readers = Condition(pipeline.lock)
        self._reading: set[int] = set()
        """Threads in the backend. By name, so that one whose read an interrupt cut short can be told."""
        self._closed = False

    def entry(self, index: int) -> Entry | None:
        """None above the last visible index; `PurgedError` at or below the anchor."""
        view = self._view
        with self._pipeline.lock:
            shape, window = view.shape, view.window
            _check_not_purged(index, shape)
            if index > shape.last.index:
                return None
            if index >= window.first:
                return window.get(index)
        part = None
        while part is None:
            part = self._part(index, index + 1, None, view.cuts)
        return part[0] if part else None

    def entries(self, start: int, stop: int | None = None, bytes_max: int | None = None) -> list[Entry]:
        """[start, stop) cut at the last visible index, and where payloads would exceed `bytes_max`."""
        while True:
            found = self._collect(start, stop, bytes_max, self._view.cuts)
            if found is not None:
                return found

    def _collect(self, start: int, stop: int | None, bytes_max: int | None, cuts: int) -> list[Entry] | None:
        """`entries`, piece by piece; None if a truncation came in between: pieces of two logs are none."""
        found: list[Entry] = []
        room = bytes_max
        while True:
            part = self._part(start, stop, room, cuts)
            if part is None:
                return None
            if part and room is not None:
                part, room = _cut(part, room, at_least_one=not found)
            found = found + part if found else part
            if not part or (room is not None and room < 0):
                return found
            start = part[-1].index + 1
            if start == stop:
                return found

    def is_in_memory(self, start: int) -> bool:
        """Whether a read from `start` on needs no disk, as things stand."""
        return start >= self._view.window.first or start > self._view.shape.last.index

    def _part(self, start: int, stop: int | None, bytes_max: int | None, cuts: int) -> list[Entry] | None:
        """Some of [start, stop), from the beginning; none if there is nothing more.

        None if the log has been truncated more than `cuts` times.
        """
        while True:
            with self._pipeline.lock:
                if self._view.cuts != cuts:
                    return None
                shape, window = self._view.shape, self._view.window
                _check_not_purged(start, shape)
                end = shape.next_index if stop is None else min(stop, shape.next_index)
                if start >= end:
                    return []
                if start >= window.first:
                    return window.slice(start, end)
                cached = self._view.cache.get(start)
                if cached is not None:
                    self._pipeline.meter.cache_hits += 1
                    return cached[: end - start]
                limit, generation = min(end, window.first), self._view.generation
            part = self._load(start, limit, bytes_max, generation)
            if part is not None:
                return part[: limit - start]

    def _load(self, start: int, stop: int, bytes_max: int | None, generation: int) -> list[Entry] | None:
        """[start, stop) from disk, maybe less or more; None if it has to be asked for anew.

        That is so when a write took some of it away since the view had this `generation`.
        """
        failure: Exception | None = None
        part: list[Entry] = []
        with self._pipeline.lock:
            if self._closed:
                raise StoreClosedError("the log is closed")
            view = self._view
            if view.generation != generation:
                return None
            size = READ_MAX if bytes_max is None else min(bytes_max, READ_MAX)
            if start == self._run_end and self._ahead_max:
                self._ahead = min(max(self._ahead * 2, AHEAD_MIN), self._ahead_max)
                stop, size = self._ahead_stop(start, view.window.first), max(size, self._ahead)
            else:
                self._ahead = 0
            self._pipeline.meter.cache_misses += 1
            self._reading.add(get_ident())
        try:
            found = self._pipeline.backend.read(start, stop, size)
            _check_run(found, start, stop)
            part = found
        except Exception as error:  # noqa: BLE001
            failure = error
        finally:
            with self._pipeline.lock:
                disturbance = self._ended(part, start, stop, generation)
        if disturbance is not None:
            disturbance()
            return None
        if failure is not None:
            raise _explained(failure, start, stop)
        return part

    def _ended(self, part: list[Entry], start: int, stop: int, generation: int) -> Callable[[], None] | None:
        """A read of the backend is over, and remembered if it gave `part` and nothing disturbed it.

        Else what to do before it is repeated, if a write took entries away beside it. The lock is held.
        """
        self._reading.discard(get_ident())
        if self._closed:
            self._readers.notify_all()
        group = self._pipeline.ledger.in_flight
        if group is not None and group.disturbs(start, stop):
            return lambda: self._outwait(group)
        if generation != self._view.generation:
            return _go_on
        if part:
            self._run_end = part[-1].index + 1
            self._view.remember(part, generation)
        return None

    def _outwait(self, group: Group) -> None:
        with suppress(RaftStoreError):
            self._pipeline.wait(group.writes[-1])

    def _ahead_stop(self, start: int, window_first: int) -> int:
        """How far a read ahead may go: to what is in memory."""
        cached = self._view.cache.next_first(start)
        return window_first if cached is None else min(cached, window_first)

    def load_window(self, *, bytes_max: int | None) -> None:
        """At opening: read the whole log from disk and keep it, or the newest of it that fits."""
        shape, window = self._view.shape, self._view.window
        window.restart(shape.first_index)
        index = shape.first_index
        while index < shape.next_index:
            part = self._pipeline.backend.read(index, shape.next_index, READ_MAX)
            _check_run(part, index, shape.next_index)
            window.extend_counted(part)
            if bytes_max is not None and window.bytes > bytes_max:
                window.shrink(window.bytes - bytes_max)
            index = part[-1].index + 1

    def close(self) -> None:
        """No read of the backend runs or begins any more."""
        with self._readers:
            self._closed = True
            self._reading.discard(get_ident())  # It does not read now, whatever an interrupt left.
            while self._reading:
                self._readers.wait()


def _go_on() -> None:
    pass


def _explained(failure: Exception, start: int, stop: int) -> Exception:
    """Nothing was taken away beside the read, so entries that are not there are damage."""
    if isinstance(failure, LookupError) and not isinstance(failure, RaftStoreError):
        message = "the backend does not hold entries that it should"
        error = CorruptionError(message, first_index=start, last_index=stop - 1)
        error.__cause__ = failure
        return error
    return failure


def _check_not_purged(index: int, shape: Shape) -> None:
    if index <= shape.anchor.index:
        raise PurgedError(f"entry {index} was purged; the first index is {shape.first_index}")


def _check_run(part: list[Entry], start: int, stop: int) -> None:
    """A backend that returns anything but the beginning of [start, stop) is not to be trusted."""
    if (
        not part
        or part[0].index != start
        or part[-1].index != start + len(part) - 1
        or len(part) > stop - start
    ):
        raise CorruptionError(
            "the backend returned other entries than were asked for", first_index=start, last_index=stop - 1
        )


def _cut(part: list[Entry], room: int, *, at_least_one: bool) -> tuple[list[Entry], int]:
    """The beginning of `part` whose payloads fit into `room` bytes, and the room that is left."""
    for position, entry in enumerate(part):
        if len(entry.data) > room and not (at_least_one and position == 0):
            return part[:position], -1
        room -= len(entry.data)
    return part, room
