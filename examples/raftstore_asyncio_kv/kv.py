"""The state machine: a dictionary, and the file that keeps a snapshot of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from raftstore import Entry, LogId

from .wire import Command, Done

COMMAND: Final = 0
NEW_TERM: Final = 1
"""The kinds of entries: `Entry.kind` is ours to use."""


class Machine(msgspec.Struct):
    """Equal on every node that has applied the same entries: it depends on nothing else."""

    applied: LogId = LogId(0, 0)
    values: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    answered: dict[str, tuple[int, Done]] = msgspec.field(default_factory=dict[str, tuple[int, Done]])
    """Of each client, its newest command and the answer: a repeated command is not applied again (Raft §8).
    It grows with the number of clients; a larger store would forget those who say good-bye."""

    def apply(self, entry: Entry) -> Done | None:
        """Apply the next committed entry; the answer to its client, if it has one."""
        assert entry.index == self.applied.index + 1
        self.applied = entry.id
        if entry.kind == NEW_TERM:
            return None
        command = decode(entry.data)
        number, done = self.answered.get(command.client, (0, Done(None)))
        if command.number > number:
            done = self._execute(command)
            self.answered[command.client] = (command.number, done)
        return done

    def _execute(self, command: Command) -> Done:
        value = self.values.get(command.key)
        if command.value is None or command.expected not in (msgspec.UNSET, value):
            return Done(value)
        self.values[command.key] = command.value
        return Done(command.value, is_set=True)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Command).decode
decode_machine = msgspec.msgpack.Decoder(Machine).decode


def load(path: Path) -> Machine:
    """The machine of the newest snapshot; an empty one if there is none yet."""
    return decode_machine(path.read_bytes()) if path.exists() else Machine()


def save(path: Path, data: bytes) -> None:
    """Replace the snapshot: after a crash at any moment the file is the old or the new one, complete.

    On return the new one is durable, so that what it covers may be purged from the log.
    """
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
