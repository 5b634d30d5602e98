"""Small things that every test of a log needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from raftstore.entry import Entry, LogId
from raftstore.log import RaftLog
from raftstore.testing.log_model import LogState

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a test waits for what must happen soon. Only a failing test waits so long."""


def entry(index: int, term: int = 1, data: bytes | None = None, kind: int = 0) -> Entry:
    """An entry whose payload tells its index and term, unless `data` is given."""
    return Entry(term, index, f"{index}@{term}".encode() if data is None else data, kind)


def run(start: int, terms: Iterable[int]) -> list[Entry]:
    """Entries from index `start` on, one for each of `terms`."""
    return [entry(index, term) for index, term in enumerate(terms, start)]


def span(start: int, stop: int, term: int = 1) -> list[Entry]:
    """Entries of the indexes [start, stop), all of one term."""
    return [entry(index, term) for index in range(start, stop)]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds; fail with `what` if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain: {what}"
        time.sleep(0.0005)


def visible_state(log: RaftLog, meta_keys: Iterable[str] = ()) -> LogState:
    """What readers of `log` see, read through the API. Nobody else may write meanwhile."""
    hard_state, live = log.hard_state, tuple(log.entries(log.first_index))
    values = ((key, log.get_meta(key)) for key in sorted(meta_keys))
    meta = tuple((key, value) for key, value in values if value is not None)
    return LogState(log.anchor, live, hard_state.term, hard_state.voted_for, meta)


def ids(entries: Iterable[Entry]) -> list[LogId]:
    return [e.id for e in entries]


def background(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a thread of its own. Its outcome is the future's; it ends with the test's process."""
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=body, name="test-background", daemon=True).start()
    return future


def outcome(future: Future[T]) -> T:
    """What the call returned, or its error raised. Fails if it never ends."""
    return future.result(PATIENCE_S)


def assert_waits(*futures: Future[T]) -> None:
    """The calls have not returned, and do not within a moment either."""
    time.sleep(0.02)
    for future in futures:
        assert not future.done(), f"it did not wait: {future}"


def in_threads(count: int, call: Callable[[int], T]) -> list[T]:
    """`call(0)` … `call(count - 1)`, each in a thread, all let go at once. Their results, or an error."""
    start = threading.Barrier(count)

    def one(number: int) -> T:
        start.wait(PATIENCE_S)
        return call(number)

    futures = [background(partial(one, number)) for number in range(count)]
    return [outcome(future) for future in futures]


@contextmanager
def repeatedly(check: Callable[[], object], *, threads: int = 3) -> Generator[None]:
    """While the block runs, and at least once in each of the threads, call `check` again and again.

    Raises what `check` raised.
    """
    rounds = [0] * threads
    stop = threading.Event()

    def body(number: int) -> None:
        while not stop.is_set():
            check()
            rounds[number] += 1

    futures = [background(partial(body, number)) for number in range(threads)]
    try:
        yield
        eventually(lambda: all(rounds) or any(f.done() for f in futures), "every thread checked")
    finally:
        stop.set()
        wait(futures, PATIENCE_S)
    for future in futures:
        outcome(future)
