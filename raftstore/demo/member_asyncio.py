"""A member on the asyncio example: its node, and clients of the cluster that begin with it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from raftstore_asyncio_kv.client import Client
from raftstore_asyncio_kv.node import Node
from raftstore_asyncio_kv.wire import Look, Seen

from raftstore import aio
from raftstore.demo.member import Say, line_of, run_for_ever
from raftstore.demo.messages import MARKER, Answer, Line, NodeSpec, Opened, Operation, Status
from raftstore.demo.planted import forget_suffix

NEVER: Final = 10**12


class AsyncioMember:
    """See `Member`. Its event loop has a thread of its own; if the node ends, so does the process."""

    def __init__(self, spec: NodeSpec, say: Say) -> None:
        self._spec = spec
        self._say = say
        self._addresses = {address: address for address in (spec.address, *spec.others)}
        self._idle: list[Client] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._node = Future[tuple[Node, aio.AsyncRaftLog]]()
        self._loop = asyncio.new_event_loop()
        run_for_ever(lambda: self._loop.run_until_complete(self._live()))
        _, log = self._node.result()
        say(Opened(log.recovery.entries, log.recovery.seconds))

    def perform(self, operation: Operation) -> None:
        self._loop.call_soon_threadsafe(self._begin, operation)

    def status(self) -> Status:
        seen = self._look()
        numbers = self._node.result()[1].log.status()
        return Status(
            term=seen.term,
            is_leader=seen.leader == seen.name,
            is_ready=seen.leader is not None,
            marker=int(seen.values.get(MARKER, 0)),
            fsyncs=numbers.flushes,
            entries_synced=numbers.flushed_entries,
        )

    def lines(self) -> list[Line]:
        """A dictionary keeps the order in which its keys came."""
        values = self._look().values.copy()
        return [line for key, value in values.items() if (line := line_of(key, value)) is not None]

    def _look(self) -> Seen:
        seen = asyncio.run_coroutine_threadsafe(self._node.result()[0].handle(Look()), self._loop).result()
        assert isinstance(seen, Seen)
        return seen

    async def _live(self) -> None:
        spec = self._spec
        async with await aio.open(spec.store) as log:
            if spec.plant is not None:
                forget_suffix(log.log)
            snapshot = Path(spec.home, "snapshot")
            node = Node(
                spec.address, self._addresses, log, snapshot, snapshot_every=spec.compact_every or NEVER
            )
            self._node.set_result((node, log))
            await node.run()

    def _begin(self, operation: Operation) -> None:
        task = self._loop.create_task(self._perform(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, operation: Operation) -> None:
        """One client, one command at a time: so there are as many clients as operations under way."""
        client = self._idle.pop() if self._idle else Client(self._addresses)
        try:
            async with asyncio.timeout(operation.timeout_s):
                answer = await _ask(client, operation)
        except TimeoutError:
            answer = Answer(operation.id, "unknown")
        self._idle.append(client)
        self._say(answer)


make = AsyncioMember


async def _ask(client: Client, operation: Operation) -> Answer:
    match operation.kind:
        case "put":
            await client.put(operation.key, operation.value or "")
            return Answer(operation.id, "ok")
        case "get":
            return Answer(operation.id, "ok", await client.get(operation.key))
        case "cas":
            is_set = await client.replace(operation.key, operation.expected, operation.value or "")
            return Answer(operation.id, "ok", is_set=is_set)
