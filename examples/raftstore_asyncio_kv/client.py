"""A client: it finds the leader, and repeats a command until it knows that it was applied."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Final

from .wire import Channel, Command, Done, Look, Redirect, Reply, Request, Seen

CALL_S: Final = 2.0
PAUSE_S: Final = 0.05


class Client:
    """One caller of the store, for one command at a time. To be used with `async with`."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._channels = {name: Channel(address) for name, address in addresses.items()}
        self._turns = itertools.cycle(addresses)
        self._leader = next(self._turns)
        self._id = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def put(self, key: str, value: str) -> None:
        """On return the value is durable on a majority of the nodes, and applied."""
        await self._execute(Command(self._id, next(self._numbers), key, value))

    async def get(self, key: str) -> str | None:
        """The value, at least as new as every `put` that had returned before this call."""
        return (await self._execute(Command(self._id, next(self._numbers), key))).value

    async def replace(self, key: str, expected: str | None, value: str) -> bool:
        """As `put`, if the value is `expected` (None: there is none); False if it is another."""
        command = Command(self._id, next(self._numbers), key, value, expected)
        return (await self._execute(command)).is_set

    async def look(self, name: str) -> Seen:
        """What the node of that name knows by itself. Raises `OSError` if it cannot be reached."""
        reply = await self._channels[name].call(Look(), CALL_S)
        assert isinstance(reply, Seen)
        return reply

    async def _execute(self, command: Command) -> Done:
        """Under its number the command is applied once, however often it is sent."""
        while True:
            reply = await self._try(command)
            if isinstance(reply, Done):
                return reply
            leader = reply.leader if isinstance(reply, Redirect) else None
            if leader in self._channels and leader != self._leader:
                self._leader = leader
            else:
                self._leader = next(self._turns)
                await asyncio.sleep(PAUSE_S)

    async def _try(self, request: Request) -> Reply | None:
        try:
            return await self._channels[self._leader].call(request, CALL_S)
        except OSError:
            return None
