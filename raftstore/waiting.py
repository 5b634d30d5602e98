"""How callers wait: for a write, for an index, for room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock, get_ident
from typing import Protocol, TypeAlias

logger = logging.getLogger("raftstore")


class ThreadWaiter:
    """A sleeping thread. It may be woken to lead the next flush instead of having its wish fulfilled."""

    __slots__ = ("_latch", "called", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.called = False
        """It stands in line to be woken, was woken, or sleeps no more."""
        self._latch = Lock()
        self._latch.acquire()

    def wake(self) -> None:
        try:  # noqa: SIM105  (`suppress` costs as much as the rest)
            self._latch.release()
        except RuntimeError:
            pass  # Woken already.

    def sleep(self, timeout: float | None = None) -> bool:
        """Until woken; False if `timeout` seconds pass first."""
        return self._latch.acquire(timeout=-1 if timeout is None else max(timeout, 0))


class CallbackWaiter:
    """Calls `callback` when woken: in the thread that wakes, so it must be short and must not block."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback

    def wake(self) -> None:
        try:
            self._callback()
        except BaseException:
            logger.exception("a callback of raftstore failed")


Waiter: TypeAlias = "ThreadWaiter | CallbackWaiter | asyncio.Future[None]"
"""Somebody to be woken once, a task by its future. Waking never blocks, never raises, and may be repeated."""


def wake_all(waiters: Sequence[Waiter]) -> None:
    """Wake each; the futures of one event loop cost one `call_soon_threadsafe` together."""
    if not waiters:
        return
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if isinstance(waiter, asyncio.Future):
            loops.setdefault(waiter.get_loop(), []).append(waiter)
        else:
            waiter.wake()
    for loop, futures in loops.items():
        with suppress(RuntimeError):  # The loop is closed: nobody waits there any more.
            loop.call_soon_threadsafe(_set_results, futures)


def _set_results(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class IndexWaiter:
    """Waits for the entries that are now at `start` to `last` to become durable."""

    __slots__ = ("done", "error", "last", "number", "start", "taken_back", "waiters")

    def __init__(self, start: int, last: int, number: int) -> None:
        self.start = start
        self.last = last
        """Lower once a durable truncation has taken entries back: the others are still waited for."""
        self.number = number
        """Of the newest write when the wait began: only a later truncation can take an entry back."""
        self.done = False
        self.error: BaseException | None = None
        self.taken_back: BaseException | None = None
        self.waiters: list[Waiter] = []

    def take_back(self, cut: int, error: BaseException) -> None:
        """A durable truncation took away everything from `cut` on."""
        self.last, self.taken_back = cut - 1, error
        if self.last < self.start:
            self.error = error

    def error_of(self, index: int) -> BaseException | None:
        """What became of the entry at `index` alone, once this is done."""
        return self.error if index <= self.last else self.taken_back


class Waitable(Protocol):
    """What a caller can wait for: a `Write` or an `IndexWaiter`. Done exactly once, maybe with an error."""

    done: bool
    error: BaseException | None
    waiters: list[Waiter]
