"""The clients: each asks one node after the other, one operation at a time, and notes what it saw.

Two things are asked for. Registers, few of them at a time and with many clients each, make the history that
must be linearizable. Lines, each written once under a number of its own, must be on every node in the end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from random import Random
from typing import Final

from raftstore.demo.ledger import Ledger
from raftstore.demo.messages import Answer
from raftstore.demo.process import NodeProcess
from raftstore.testing.linearizability import Recorder
from raftstore.testing.linearizability.operation import Kind, Outcome

OPERATION_S: Final = 2.0
"""Then a client gives up; the outcome is unknown."""
PAUSE_S: Final = 0.02
"""At most, between two operations: a random moment."""
NOBODY_S: Final = 0.05
REGISTERS: Final = 3
"""At the same time. After each round there are new ones, so that a key's history stays short."""
LINES_SHARE: Final = 0.3
READ_S: Final = 60.0


class Clients:
    """All clients of a run. `writing` lets them work."""

    def __init__(self, nodes: Sequence[NodeProcess], count: int, seed: int) -> None:
        self.recorder = Recorder()
        self.ledger = Ledger()
        self._nodes = nodes
        self._names = [f"c{number}" for number in range(1, count + 1)]
        self._seed = seed
        self._round = 0
        self._ended = threading.Event()

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """The clients work while the block runs. Raises what one of them did not expect."""
        self._ended.clear()
        with ThreadPoolExecutor(len(self._names)) as pool:
            try:
                working = [pool.submit(self._work, name) for name in self._names]
                yield
            finally:
                self._ended.set()
        for each in working:
            each.result()

    def next_round(self) -> None:
        """From now on other registers."""
        self._round += 1

    def read_all(self) -> list[str]:
        """Read every register that was ever written, from some node. It is part of the history.

        Returns those that no node could read: what became of them, nobody can tell.
        """
        keys = sorted({each.key for each in self.recorder.history().operations})

        def unread(number: int) -> list[str]:
            reader, first = Client(f"last{number}", Random(number)), number % len(self._nodes)
            nodes = [*self._nodes[first:], *self._nodes[:first]]
            return [key for key in keys[number :: len(self._names)] if not self._is_read(reader, nodes, key)]

        with ThreadPoolExecutor(len(self._names)) as pool:
            return list(chain.from_iterable(pool.map(unread, range(len(self._names)))))

    def _is_read(self, reader: Client, nodes: Sequence[NodeProcess], key: str) -> bool:
        """From the first of `nodes` that knows."""
        return any(self._register(reader, node, "read", key, READ_S) == "ok" for node in nodes)

    def _work(self, name: str) -> None:
        client = Client(name, Random(f"{self._seed}-{name}"))
        while not self._ended.wait(client.random.uniform(0, PAUSE_S)):
            node = client.random.choice(self._nodes)
            if node.pid is None:
                time.sleep(NOBODY_S)
            elif client.random.random() < LINES_SHARE:
                self._line(client, node)
            else:
                key = f"r{self._round}.{client.random.randrange(REGISTERS)}"
                kind: Kind = client.random.choice(("read", "write", "cas"))
                self._register(client, node, kind, key, OPERATION_S)

    def _line(self, client: Client, node: NodeProcess) -> None:
        number = self.ledger.send(text := client.new_value())
        if node.call("put", str(number), text, timeout_s=OPERATION_S).outcome == "ok":
            self.ledger.acknowledge(number)

    def _register(self, client: Client, node: NodeProcess, kind: Kind, key: str, timeout_s: float) -> Outcome:
        """A client expects of a register what it has seen there last, to its knowledge."""
        expected = client.seen.get(key) if kind == "cas" else None
        value = None if kind == "read" else client.new_value()
        pending = self.recorder.invoke(client.name, key, kind, value, expected)
        if kind == "read":
            answer = node.call("get", key, timeout_s=timeout_s)
        elif kind == "write":
            answer = node.call("put", key, value, timeout_s=timeout_s)
        else:
            answer = node.call("cas", key, value, expected, timeout_s=timeout_s)
        outcome = outcome_of(kind, answer)
        self.recorder.returned(pending, outcome, answer.value if outcome == "ok" else None)
        if outcome == "ok":
            client.seen[key] = answer.value if kind == "read" else value
        return outcome


class Client:
    """What one client knows."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.seen: dict[str, str | None] = {}
        self._values = 0

    def new_value(self) -> str:
        """No value is written twice."""
        self._values += 1
        return f"{self.name}.{self._values}"


def outcome_of(kind: Kind, answer: Answer) -> Outcome:
    """In a history, a cas has failed only if it found another value; one that never came to it is unknown."""
    if kind == "cas":
        return "unknown" if answer.outcome != "ok" else "ok" if answer.is_set else "fail"
    return "fail" if answer.outcome == "failed" else answer.outcome
