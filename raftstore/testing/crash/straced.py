"""The recorder for machines without a compiler: the same records, read from what `strace` writes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.crash.record import (
    CREATED,
    DATA_ONLY,
    DIRECTORY,
    EMPTIED,
    SYNCED,
    CannotRecordError,
    Op,
    Record,
)

_OF_FILES: Final = "open,openat,creat,lseek,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync"
_OF_NAMES: Final = "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat"
_LINE: Final = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<[^>]*>)?(?: (\w+) .*)?$")
_BEGUN: Final = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_DESCRIPTOR: Final = re.compile(r"(?:(\d+)|AT_FDCWD)<([^>]*)>")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_NUMBER: Final = re.compile(r", (\d+)")


def find_strace() -> str:
    """Its path. Raises `CannotRecordError`."""
    found = shutil.which("strace")
    if found is None:
        raise CannotRecordError("there is no strace either")
    return found


def command(output: Path) -> list[str]:
    """What stands before a command whose process is to be recorded."""
    return [
        find_strace(),
        "-f",
        "-y",
        "-xx",
        "-s",
        "20000000",
        "-e",
        f"trace={_OF_FILES},{_OF_NAMES}",
        "-o",
        str(output),
    ]


class _Call(msgspec.Struct, frozen=True):
    """One finished system call."""

    name: str
    text: str
    result: int
    is_error: bool

    def descriptor(self) -> tuple[int, str]:
        match = _DESCRIPTOR.match(self.text)
        return (int(match[1] or -1), _unescaped(match[2])) if match else (-1, "")

    def strings(self) -> list[bytes]:
        found = _STRING.findall(self.text)
        if any(dots for _, dots in found):
            raise CannotRecordError("strace cut a string")
        return [bytes.fromhex(text.replace("\\x", "")) for text, _ in found]

    def paths(self) -> list[str]:
        """The paths among the arguments, absolute: each may stand after the descriptor of its directory."""
        given = [data.decode(errors="surrogateescape") for data in self.strings()]
        places = [_unescaped(match[2]) for match in _DESCRIPTOR.finditer(self.text)]
        return [
            path if path.startswith("/") or not places else f"{places[min(n, len(places) - 1)]}/{path}"
            for n, path in enumerate(given)
        ]

    def numbers(self) -> list[int]:
        return [int(number) for number in _NUMBER.findall(_STRING.sub('""', self.text))]


def _unescaped(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


def _calls(output: Path) -> list[_Call]:
    """Finished calls. One during which others ran stands where it began if it syncs, else where it ended:
    so a sync is never taken to cover what was written beside it."""
    calls: list[_Call | None] = []
    begun: dict[str, tuple[str, int | None]] = {}
    for line in output.read_text().splitlines():
        start, rest, place = _BEGUN.match(line), _RESUMED.match(line), None
        if start is not None:
            if "sync(" in start[2]:
                place = len(calls)
                calls.append(None)
            begun[start[1]] = (f"{start[1]} {start[2]}", place)
            continue
        if rest is not None:
            beginning, place = begun.pop(rest[1], ("", None))
            line = beginning + rest[2]
        found = _LINE.match(line)
        if found is None:
            continue
        call = _Call(found[2], found[3], int(found[4]), found[4] == "-1")
        if place is None:
            calls.append(call)
        else:
            calls[place] = call
    return [call for call in calls if call is not None]


def read_strace(output: Path, arena: Path, events: Path) -> Iterator[Record]:
    """The records of what happened below `arena`, and of the events, in the order of the calls."""
    return _Reader(str(arena), str(events)).records(_calls(output))


class _Reader:
    """Numbers files as they appear: a file keeps its number when it is renamed."""

    def __init__(self, arena: str, events: str) -> None:
        self._arena = arena
        self._events = events
        self._inodes: dict[str, int] = {"": 1}
        self._newest = 1
        self._synced: set[int] = set()
        self._offsets: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def records(self, calls: list[_Call]) -> Iterator[Record]:
        for call in calls:
            if call.is_error:
                continue
            if call.name in ("open", "openat", "creat"):
                yield from self._opened(call)
            elif call.name in _OF_NAMES.split(","):
                yield from self._named(call)
            else:
                yield from self._changed(call)

    def _below(self, path: str) -> str | None:
        path = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
        if path == self._arena:
            return ""
        return path[len(self._arena) + 1 :] if path.startswith(f"{self._arena}/") else None

    def _opened(self, call: _Call) -> Iterator[Record]:
        path = self._below(call.paths()[0])
        self._synced.discard(call.result)
        if path is None:
            return
        if "O_DSYNC" in call.text or "O_SYNC" in call.text:
            self._synced.add(call.result)
        created = path not in self._inodes and "O_CREAT" in call.text
        inode = self._inodes.get(path) or self._fresh(path)
        self._offsets[call.result] = self._sizes.get(inode, 0) if "O_APPEND" in call.text else 0
        flags = (CREATED if created else 0) | (EMPTIED if "O_TRUNC" in call.text else 0)
        flags |= DIRECTORY if "O_DIRECTORY" in call.text or path == "" else 0
        yield _record(Op.OPEN, flags=flags, inode=inode, path=path)

    def _fresh(self, path: str) -> int:
        self._newest += 1
        self._inodes[path] = self._newest
        return self._newest

    def _changed(self, call: _Call) -> Iterator[Record]:
        fd, name = call.descriptor()
        if name == self._events:
            yield _record(Op.EVENT, data=b"".join(call.strings()))
            return
        path = self._below(name)
        if path is None or path not in self._inodes:
            return
        inode, numbers = self._inodes[path], call.numbers()
        match call.name:
            case "lseek":
                self._offsets[fd] = call.result
            case "fsync" | "fdatasync":
                yield _record(Op.SYNC, flags=DATA_ONLY if call.name == "fdatasync" else 0, inode=inode)
            case "ftruncate":
                yield _record(Op.TRUNCATE, inode=inode, length=numbers[0])
            case "fallocate":
                if "KEEP_SIZE" not in call.text:
                    yield _record(Op.ALLOCATE, inode=inode, offset=numbers[-2], length=numbers[-1])
            case _:
                data = b"".join(call.strings())[: call.result]
                at = numbers[-1] if call.name.startswith("p") else self._offsets.get(fd, 0)
                self._offsets[fd] = at + len(data)
                self._sizes[inode] = max(self._sizes.get(inode, 0), at + len(data))
                flags = SYNCED if fd in self._synced else 0
                yield _record(Op.WRITE, flags=flags, inode=inode, offset=at, data=data)

    def _named(self, call: _Call) -> Iterator[Record]:
        paths = [self._below(path) for path in call.paths()]
        if not paths or paths[0] is None:
            return
        path, new_path = paths[0], paths[-1]
        if call.name.startswith("rename") and new_path is not None:
            for old in [name for name in self._inodes if name == path or name.startswith(f"{path}/")]:
                self._inodes[new_path + old[len(path) :]] = self._inodes.pop(old)
            yield _record(Op.RENAME, path=path, new_path=new_path)
        elif call.name.startswith("link") and new_path is not None:
            self._inodes[new_path] = self._inodes[path]
            yield _record(Op.LINK, path=path, new_path=new_path)
        elif call.name.startswith("mkdir"):
            yield _record(Op.MKDIR, inode=self._fresh(path), path=path)
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self._inodes.pop(path, None)
            gone = Op.RMDIR if call.name == "rmdir" or "AT_REMOVEDIR" in call.text else Op.UNLINK
            yield _record(gone, path=path)


def _record(
    op: Op,
    *,
    flags: int = 0,
    inode: int = 0,
    offset: int = 0,
    length: int = 0,
    path: str = "",
    new_path: str = "",
    data: bytes = b"",
) -> Record:
    return Record(op, flags, 0, inode, offset, length, path, new_path, data)
