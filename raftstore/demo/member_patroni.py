"""A member on Patroni's Raft: its own `KVStoreTTL`, with its own transport, unchanged.

As in Patroni, the journal is a path that only Patroni knows, and `install` makes it a store. A command is
tried once: `KVStoreTTL.set` would repeat one whose outcome it does not know, so that it may happen twice.
"""

from __future__ import annotations

import functools
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from patroni.dcs.raft import KVStoreTTL  # type: ignore[import-untyped,unused-ignore]

from raftstore.demo.member import Say, line_of, run_for_ever
from raftstore.demo.member_pysyncobj import NEVER, outcome_of, prepare, say_opened, status_of
from raftstore.demo.messages import MARKER, Answer, Line, NodeSpec, Operation, Status

TICK_S: Final = 0.02
NO_INDEX: Final = -1
"""What no key's index is: a command that asks for it changes nothing, and shows where the log is."""


class PatroniMember:
    """See `Member`."""

    def __init__(self, spec: NodeSpec, say: Say) -> None:
        prepare(spec)
        self._say = say
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._store: Any = KVStoreTTL(
            None,
            None,
            None,
            self_addr=spec.address,
            partner_addrs=list(spec.others),
            data_dir=spec.home,
            commandsWaitLeader=False,
        )
        conf = self._store.conf
        conf.connectionRetryTime, conf.appendEntriesPeriod = 0.2, 0.02
        conf.logCompactionMinEntries, conf.logCompactionMinTime = spec.compact_every or NEVER, NEVER
        say_opened(self._store, say)
        run_for_ever(self._tick)

    def perform(self, operation: Operation) -> None:
        callback = functools.partial(self._answer, operation)
        match operation.kind:
            case "put":
                self._set(operation, callback)
            case "get":
                self._set(operation, callback, prevIndex=NO_INDEX)
            case "cas" if operation.expected is None:
                self._set(operation, callback, prevExist=False)
            case "cas":
                self._set(operation, callback, prevValue=operation.expected)

    def status(self) -> Status:
        return status_of(self._store, int(self._value(MARKER) or 0))

    def lines(self) -> list[Line]:
        """In the order of their indexes. Asked of the thread that changes them."""
        answer = Future[list[Line]]()
        self._asked.put(lambda: answer.set_result(self._lines()))
        return answer.result()

    def _lines(self) -> list[Line]:
        items = self._store.get("", recursive=True).items()
        ordered = sorted(items, key=lambda item: item[1]["index"])
        return [line for key, found in ordered if (line := line_of(key, found["value"])) is not None]

    def _set(self, operation: Operation, callback: Callable[[Any, object], None], **conditions: Any) -> None:
        now = time.time()
        value = {"value": operation.value, "created": now, "updated": now}
        self._store._set(operation.key, value, callback=callback, **conditions)

    def _answer(self, operation: Operation, result: Any, reason: object) -> None:
        """Called right after the command was applied here: what is read now, is no older than it."""
        outcome = outcome_of(reason)
        if operation.kind == "get" and outcome == "ok":
            self._say(Answer(operation.id, outcome, self._value(operation.key)))
        else:
            self._say(Answer(operation.id, outcome, is_set=result is not False))

    def _value(self, key: str) -> str | None:
        found = self._store.get(key)
        return None if found is None else found["value"]

    def _tick(self) -> None:
        self._store.doTick(TICK_S)
        while not self._asked.empty():
            self._asked.get()()


make = PatroniMember
