"""The clients: one a node, each keeping some lines under way at its own node, whatever happens to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

from raftstore.demo.ledger import Ledger
from raftstore.demo.messages import Answer
from raftstore.demo.process import NodeProcess

WINDOW: Final = 64
"""Lines that one client has under way."""
GIVE_UP_S: Final = 2.0
"""After this a client no longer waits for a line; if it is acknowledged later, it counts all the same."""
PAUSE_S: Final = 0.02


class Writers:
    """The clients of all nodes. A line is sent once: without an answer its outcome is not known."""

    def __init__(self, lines: Iterator[str], ledger: Ledger) -> None:
        self._lines = lines
        self._ledger = ledger
        self._clients: list[_Client] = []
        # guards _lines
        self._lock = threading.Lock()

    @contextmanager
    def writing(self, nodes: list[NodeProcess]) -> Generator[None]:
        """Write to all `nodes` while the block runs. At its end nothing is under way that may still come.

        Raises what ended a client, such as an `OSError` of the file that the lines come from.
        """
        self._clients = [_Client(node) for node in nodes]
        stop = threading.Event()
        with ExitStack() as undo:
            undo.callback(self._await_answers)
            pool = undo.enter_context(ThreadPoolExecutor(len(nodes)))
            undo.callback(stop.set)
            working = [pool.submit(self._run, client, stop) for client in self._clients]
            yield
        for each in working:
            each.result()

    @property
    def in_flight(self) -> int:
        """Lines under way now."""
        return sum(len(client.waiting) for client in self._clients)

    def _await_answers(self) -> None:
        end = time.monotonic() + GIVE_UP_S
        while self.in_flight and time.monotonic() < end:
            time.sleep(PAUSE_S)

    def _run(self, client: _Client, stop: threading.Event) -> None:
        while not stop.is_set():
            client.give_up(time.monotonic() - GIVE_UP_S)
            if len(client.waiting) < WINDOW and client.node.status.is_ready:
                self._send(client)
            else:
                client.changed.wait(PAUSE_S)
                client.changed.clear()

    def _send(self, client: _Client) -> None:
        with self._lock:
            text = next(self._lines)
        number = self._ledger.send(text)
        client.waiting[number] = time.monotonic()

        def note(answer: Answer) -> None:
            if answer.outcome == "ok":
                self._ledger.acknowledge(number)
            client.waiting.pop(number, None)
            client.changed.set()

        client.node.submit("put", str(number), text, timeout_s=GIVE_UP_S, on_answer=note)


class _Client:
    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.waiting: dict[int, float] = {}
        self.changed = threading.Event()

    def give_up(self, before: float) -> None:
        """Stop waiting for lines sent before this moment: their node was killed, or lost its leader."""
        for number, sent_at in list(self.waiting.items()):
            if sent_at >= before:
                return
            self.waiting.pop(number, None)
