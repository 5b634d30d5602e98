"""How callers wait: for a write, for an index, for room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock, get_ident
from typing import Protocol

logger = logging.getLogger("raftstore")


class Waiter(Protocol):
    """Somebody to be woken once. `wake` never blocks, never raises, and may be repeated."""

    def wake(self) -> None: ...


class ThreadWaiter:
    """A sleeping thread. It may be woken to lead the next flush instead of having its wish fulfilled."""

    __slots__ = ("_latch", "gone", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.gone = False
        """It sleeps no more, so it must not be given the lead."""
        self._latch = Lock()
        self._latch.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # Woken already.
            self._latch.release()

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


class FutureWaiter:
    """An asyncio future of any loop. `wake_all` wakes those of one loop with one call."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        _wake_futures(self.loop, [self])


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Wake each; the futures of one event loop cost one `call_soon_threadsafe` together."""
    loops: dict[asyncio.AbstractEventLoop, list[FutureWaiter]] = {}
    for waiter in waiters:
        if isinstance(waiter, FutureWaiter):
            loops.setdefault(waiter.loop, []).append(waiter)
        else:
            waiter.wake()
    for loop, group in loops.items():
        _wake_futures(loop, group)


def _wake_futures(loop: asyncio.AbstractEventLoop, group: list[FutureWaiter]) -> None:
    with suppress(RuntimeError):  # The loop is closed: nobody waits there any more.
        loop.call_soon_threadsafe(_set_results, group)


def _set_results(group: list[FutureWaiter]) -> None:
    for waiter in group:
        if not waiter.future.done():
            waiter.future.set_result(None)


class IndexWaiter:
    """Waits for the entry that is now at `index` to become durable."""

    __slots__ = ("done", "error", "index", "number", "waiters")

    def __init__(self, index: int, number: int) -> None:
        self.index = index
        self.number = number
        """Of the newest write when the wait began: only a later truncation can take the entry back."""
        self.done = False
        self.error: BaseException | None = None
        self.waiters: list[Waiter] = []


class Waitable(Protocol):
    """What a caller can wait for: a `Write` or an `IndexWaiter`. Done exactly once, maybe with an error."""

    done: bool
    error: BaseException | None
    waiters: list[Waiter]
