"""What nodes and clients say to each other, and how: length-prefixed msgpack over TCP.

Nothing in here knows the log. `Entry`, `LogId` and `Splice` of raftstore are msgspec structs, so they travel
as they are.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from raftstore import Entry, LogId, Splice

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024


# --- between nodes (Raft figure 2; the snapshot goes in one message) -----------------------------------


class AskVote(msgspec.Struct, frozen=True, tag=True):
    """RequestVote."""

    term: int
    candidate: str
    last: LogId


class Voted(msgspec.Struct, frozen=True, tag=True):
    """The voter's term and vote are durable."""

    term: int
    granted: bool


class Append(msgspec.Struct, frozen=True, tag=True):
    """AppendEntries; without entries, the heartbeat."""

    term: int
    leader: str
    prev: LogId
    entries: list[Entry]
    commit: int


class Install(msgspec.Struct, frozen=True, tag=True):
    """InstallSnapshot: the state machine after it has applied `last`."""

    term: int
    leader: str
    last: LogId
    data: bytes


class Appended(msgspec.Struct, frozen=True, tag=True):
    """To `Append` and `Install`. What `outcome` says to match is durable. None: the sender's term is over."""

    term: int
    outcome: Splice | None = None


# --- between clients and nodes -------------------------------------------------------------------------


class Command(msgspec.Struct, frozen=True, tag=True):
    """Set `key`, or read it if `value` is None. With `expected`, only if that is the key's value.

    A client numbers its commands, and repeats one under its number until it is answered.
    """

    client: str
    number: int
    key: str
    value: str | None = None
    expected: str | msgspec.UnsetType | None = msgspec.UNSET


class Done(msgspec.Struct, frozen=True, tag=True):
    """The command was committed and applied, once. `value` is the key's after it."""

    value: str | None
    is_set: bool = False
    """By this command."""


class Redirect(msgspec.Struct, frozen=True, tag=True):
    """Not the leader, or not any more: whether the command will be applied is not known. Ask `leader`."""

    leader: str | None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """This node cannot do it now, for lack of room."""

    reason: str


class Look(msgspec.Struct, frozen=True, tag=True):
    """What does this node know?"""


class Seen(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Look`."""

    name: str
    leader: str | None
    term: int
    anchor: LogId
    last: LogId
    commit_index: int
    applied: LogId
    values: dict[str, str]


Request = AskVote | Append | Install | Command | Look
Reply = Voted | Appended | Done | Redirect | Refused | Seen


# --- frames --------------------------------------------------------------------------------------------


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A request, or the reply that bears the same number."""

    number: int
    body: Request | Reply


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def send(writer: asyncio.StreamWriter, frame: Frame) -> None:
    data = _encoder.encode(frame)
    writer.write(len(data).to_bytes(4, "big") + data)


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    """Until the other side is gone, or says what is no frame."""
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            if size > FRAME_BYTES_MAX:
                return
            yield _decoder.decode(await reader.readexactly(size))
    except (OSError, EOFError, msgspec.DecodeError):
        return


async def serve(address: str, handle: Callable[[Request], Awaitable[Reply]]) -> None:
    """Answer every request with what `handle` returns, until cancelled; raises what `handle` raises.

    The requests of one connection begin in their order, and do not wait for each other.
    """

    async def answer(writer: asyncio.StreamWriter, number: int, request: Request) -> None:
        reply = await handle(request)
        if not writer.is_closing():
            send(writer, Frame(number, reply))

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as answers:
                async for frame in frames(reader):
                    if isinstance(frame.body, Request):
                        answers.create_task(answer(writer, frame.number, frame.body))
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.create_task(converse(reader, writer))

    host, _, port = address.rpartition(":")
    async with asyncio.TaskGroup() as connections:
        server = await asyncio.start_server(connected, host, int(port))
        try:
            await asyncio.Event().wait()
        finally:
            server.close()


class Channel:
    """Requests to one address, any number at a time. It connects when there is something to send."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def call(self, request: Request, timeout_s: float) -> Reply:
        """Raises `OSError`, of which `TimeoutError` is one: then it may have arrived or not."""
        async with asyncio.timeout(timeout_s):
            async with self._connecting:
                writer = await self._connect()
            number, reply = next(self._numbers), asyncio.Future[Reply]()
            self._waiting[number] = reply
            try:
                send(writer, Frame(number, request))
                return await reply
            finally:
                self._waiting.pop(number, None)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def _connect(self) -> asyncio.StreamWriter:
        if self._writer is None:
            host, _, port = self.address.rpartition(":")
            reader, self._writer = await asyncio.open_connection(host, int(port))
            self._listener = asyncio.create_task(self._listen(reader, self._writer))
        return self._writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for frame in frames(reader):
                waiting = self._waiting.get(frame.number)
                if waiting is not None and not waiting.done() and isinstance(frame.body, Reply):
                    waiting.set_result(frame.body)
        finally:
            self._writer = None
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError(f"{self.address} hung up"))
