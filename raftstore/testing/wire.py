"""What a test and a store that it keeps in a child process say to each other: length, then MessagePack."""

from __future__ import annotations

import struct
from pathlib import Path
from socket import socket
from typing import Literal

import msgspec

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry

LENGTH = struct.Struct(">I")


class Request(msgspec.Struct, frozen=True):
    """One call of the backend."""

    call: Literal["write", "read", "maintain", "close"]
    batch: WriteBatch | None = None
    start: int = 0
    stop: int = 0
    bytes_max: int | None = None


class Reply(msgspec.Struct, frozen=True):
    """What it returned, or the traceback of what it raised."""

    recovery: Recovery | None = None
    entries: list[Entry] = []
    error: str | None = None


class Order(msgspec.Struct, frozen=True):
    """To the launcher: start a store in the directory `path`, or kill the process `pid` for good."""

    path: str | None = None
    pid: int = 0


_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply, dec_hook=lambda _, text: Path(text))


class Wire:
    """One end of a stream socket. Each `receive_` returns None when the other end is gone."""

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")

    def send(self, message: Request | Reply) -> None:
        """Raises `OSError` if the other end is gone."""
        body = _encoder.encode(message)
        self._connection.sendall(LENGTH.pack(len(body)) + body)

    def receive_request(self) -> Request | None:
        body = self._receive()
        return None if body is None else _requests.decode(body)

    def receive_reply(self) -> Reply | None:
        body = self._receive()
        return None if body is None else _replies.decode(body)

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def _receive(self) -> bytes | None:
        try:
            head = self._reader.read(LENGTH.size)
            if len(head) < LENGTH.size:
                return None
            (length,) = LENGTH.unpack(head)
            body = self._reader.read(length)
        except ConnectionResetError:
            return None
        return body if len(body) == length else None
