"""One fault in the files of a store at rest. Pure: bytes in, bytes out.

Files are a mapping from the name, relative to the store's directory, to the content. A fault is the set of
files that it changes; None: the file is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2
from random import Random
from typing import Final

import msgspec

SECTOR: Final = 512
PAGE: Final = 4096
ATTEMPTS: Final = 200
"""How often a fault is chosen anew because it would change nothing."""

Files = Mapping[str, bytes]
Changes = dict[str, bytes | None]


class Fault(msgspec.Struct, frozen=True):
    """What happened to which files."""

    kind: str
    words: str
    changes: Changes


class Disk:
    """The files now and at earlier times, and chance: what a fault is made of."""

    def __init__(self, files: Files, earlier: Sequence[Files], random: Random) -> None:
        self.files = files
        self.earlier = earlier
        self.random = random

    def file(self) -> str:
        """Any file; those that hold more are more likely, but not by much."""
        names = sorted(self.files)
        return self.random.choices(names, [1 + log2(1 + _used(self.files[name]) / 64) for name in names])[0]

    def place(self, name: str, unit: int) -> int:
        """The beginning of a unit of the file: mostly one that is not all zeros."""
        data = self.files[name]
        places = range(0, max(len(data), 1), unit)
        if self.random.random() < 0.9:
            return self.random.choice([at for at in places if any(data[at : at + unit])] or places)
        return self.random.choice(places)

    def older(self, name: str) -> bytes | None:
        """The file as it was at one of the earlier times; None if it was not there."""
        return self.random.choice(self.earlier).get(name) if self.earlier else None


def choose(
    files: Files, earlier: Sequence[Files], random: Random, kinds: Sequence[str] | None = None
) -> Fault:
    """A fault, of these kinds only, that changes something."""
    disk, kinds = Disk(files, earlier, random), list(KINDS) if kinds is None else kinds
    for _ in range(ATTEMPTS):
        kind = random.choices(kinds, [KINDS[kind][0] for kind in kinds])[0]
        found = KINDS[kind][1](disk)
        if found is not None and any(files.get(name) != data for name, data in found[1].items()):
            return Fault(kind, *found)
    raise ValueError("there is nothing to damage")


Chosen = tuple[str, Changes] | None


def _used(data: bytes) -> int:
    return len(data.rstrip(b"\0"))


def _put(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece[: len(data) - at] + data[at + len(piece) :]


def _flip(disk: Disk) -> Chosen:
    name = disk.file()
    data = disk.files[name]
    if not data:
        return None
    at = disk.place(name, 16)
    at += disk.random.randrange(min(16, len(data) - at))
    bit = disk.random.randrange(8)
    return f"bit {bit} of byte {at} of {name}", {name: _put(data, at, bytes([data[at] ^ 1 << bit]))}


def _overwriting(unit: int, make: Callable[[Random], bytes]) -> Callable[[Disk], Chosen]:
    def fault(disk: Disk) -> Chosen:
        name = disk.file()
        at = disk.place(name, unit)
        piece = make(disk.random)
        return f"{unit} bytes at {at} of {name}", {name: _put(disk.files[name], at, piece)}

    return fault


def _copied_page(disk: Disk) -> Chosen:
    """A write that went astray: it is found in another place too, or only there."""
    source, name = disk.file(), disk.file()
    origin, at = disk.place(source, PAGE), disk.place(name, PAGE)
    page = disk.files[source][origin : origin + PAGE]
    changes: Changes = {name: _put(disk.files[name], at, page)}
    words = f"the page at {origin} of {source} is at {at} of {name} too"
    older = disk.older(source)
    if older is not None and source != name and disk.random.random() < 0.5:
        changes[source] = _put(disk.files[source], origin, older[origin : origin + PAGE])
        words += ", and older where it belongs"
    return words, changes


def _swapped_pages(disk: Disk) -> Chosen:
    name = disk.file()
    data, one, two = disk.files[name], disk.place(name, PAGE), disk.place(name, PAGE)
    first, second = data[one : one + PAGE], data[two : two + PAGE]
    if len(first) != len(second):
        return None
    return f"the pages at {one} and {two} of {name}", {name: _put(_put(data, one, second), two, first)}


def _lost_write(unit: int) -> Callable[[Disk], Chosen]:
    """A write that the disk reported and never made: the place has what it had before."""

    def fault(disk: Disk) -> Chosen:
        name = disk.file()
        data, older = disk.files[name], disk.older(name)
        if older is None:
            return None
        differing = [at for at in range(0, len(data), unit) if data[at : at + unit] != older[at : at + unit]]
        if not differing:
            return None
        at = disk.random.choice(differing)
        piece = older[at : at + unit].ljust(min(unit, len(data) - at), b"\0")
        return f"{unit} bytes at {at} of {name} are those of earlier", {name: _put(data, at, piece)}

    return fault


def _swapped_files(disk: Disk) -> Chosen:
    one, two = disk.file(), disk.file()
    return f"{one} and {two}", {one: disk.files[two], two: disk.files[one]}


def _duplicated_file(disk: Disk) -> Chosen:
    one, two = disk.file(), disk.file()
    return f"{one} is a copy of {two}", {one: disk.files[two]}


def _stale_file(disk: Disk) -> Chosen:
    name = disk.file()
    older = disk.older(name)
    return None if older is None else (f"{name} is that of earlier", {name: older})


def _returned_file(disk: Disk) -> Chosen:
    gone = sorted({name for files in disk.earlier for name in files} - set(disk.files))
    if not gone:
        return None
    name = disk.random.choice(gone)
    content = next(files[name] for files in disk.earlier if name in files)
    return f"{name} is back", {name: content}


def _truncated(disk: Disk) -> Chosen:
    name = disk.file()
    length = disk.random.randrange(max(len(disk.files[name]), 1))
    if disk.random.random() < 0.5:
        length -= length % PAGE
    return f"{name} has only {length} bytes", {name: disk.files[name][:length]}


def _emptied(disk: Disk) -> Chosen:
    name = disk.file()
    return f"{name} is empty", {name: b""}


def _extended(disk: Disk) -> Chosen:
    name, count = disk.file(), disk.random.choice([1, 100, SECTOR, PAGE, 3 * PAGE])
    more = bytes(count) if disk.random.random() < 0.5 else disk.random.randbytes(count)
    return f"{name} has {count} bytes more", {name: disk.files[name] + more}


def _deleted(disk: Disk) -> Chosen:
    name = disk.file()
    return f"{name} is gone", {name: None}


KINDS: Final[Mapping[str, tuple[int, Callable[[Disk], Chosen]]]] = {
    "bit flip": (10, _flip),
    "zeroed sector": (5, _overwriting(SECTOR, lambda _: bytes(SECTOR))),
    "garbage sector": (3, _overwriting(SECTOR, lambda random: random.randbytes(SECTOR))),
    "zeroed page": (4, _overwriting(PAGE, lambda _: bytes(PAGE))),
    "misdirected page": (5, _copied_page),
    "swapped pages": (2, _swapped_pages),
    "lost page": (4, _lost_write(PAGE)),
    "lost sector": (3, _lost_write(SECTOR)),
    "swapped files": (2, _swapped_files),
    "duplicated file": (1, _duplicated_file),
    "stale file": (3, _stale_file),
    "returned file": (1, _returned_file),
    "truncated file": (3, _truncated),
    "emptied file": (1, _emptied),
    "extended file": (2, _extended),
    "deleted file": (2, _deleted),
}
"""Every kind of fault, with its weight."""
