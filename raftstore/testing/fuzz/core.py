"""Targets: the small files of a store, hard state and metadata, configs, reports."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from raftstore.config import load
from raftstore.entry import HardState
from raftstore.errors import BackendMissingError, ConfigError, CorruptionError, FormatError
from raftstore.formatfile import read_format, write_format
from raftstore.hardstate import decode_hard_state, decode_meta, encode_hard_state, encode_meta
from raftstore.lock import Holder, read_holder
from raftstore.sources import is_url
from raftstore.testing.fuzz.target import Target
from raftstore.witness import SLOT_BYTES, create_witness, read_witness

DAMAGE: Final = (CorruptionError, FormatError)
CONFIG: Final = (ConfigError, BackendMissingError)
CONFIG_SPARE_BYTES: Final = 1 << 21
TOML: Final = b"""[raftstore]
path = "/nowhere/raft"
backend = "segmented"
strategy = { MemFirst = { sync_on_commit = true } }
flush_policy = { Batch = { threshold = 1000, interval = 10 } }
[raftstore.limits]
cache_bytes = "64MiB"
[raftstore.backends.segmented]
segment_bytes = "64MiB"
[raft.persistence]
strategy = "MemFirst"
"""
URL: Final = b"segmented:///nowhere/raft?strategy=MemFirst&flush_policy=Batch:1000:10&pending_bytes_max=1MiB"


def of_file(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A check that writes its input to `file` and lets `read` have it."""

    def check(data: bytes) -> object:
        file.write_bytes(data)
        return read(file)

    return check


def written(file: Path, write: Callable[[Path], object]) -> bytes:
    """What `write` puts into `file`."""
    write(file)
    data = file.read_bytes()
    file.unlink()
    return data


def targets(scratch: Path) -> list[Target]:
    """All of them; they use files in `scratch`."""
    sample = scratch / "sample"
    return [
        Target(
            name="format",
            samples=[written(sample, lambda path: write_format(path, "lmdb"))],
            check=of_file(scratch / "FORMAT", read_format),
            refusals=DAMAGE,
            seal=seal_format,
        ),
        Target(
            name="witness",
            samples=[written(sample, lambda path: create_witness(path, 7))],
            check=of_file(scratch / "WITNESS", read_witness),
            refusals=DAMAGE,
            seal=seal_witness,
        ),
        Target(
            name="lock",
            samples=[msgspec.json.encode(Holder(1, "host", 1.5))],
            check=of_file(scratch / "LOCK", read_holder),
            refusals=(),
        ),
        Target(
            name="state",
            samples=[encode_hard_state(HardState(7, "n1", 3)), encode_meta({"a": b"x", "peers": b""})],
            check=check_state,
            refusals=(),
        ),
        Target(
            name="config",
            samples=[TOML],
            check=of_file(scratch / "raftstore.toml", lambda path: load(path, {})),
            refusals=CONFIG,
            spare_bytes=CONFIG_SPARE_BYTES,
        ),
        Target(
            name="url",
            samples=[URL],
            check=check_url,
            refusals=CONFIG,
            spare_bytes=CONFIG_SPARE_BYTES,
        ),
    ]


def check_state(data: bytes) -> None:
    """Both decoders, whatever one of them says."""
    with suppress(CorruptionError):
        state = decode_hard_state(data)
        assert 0 <= state.term < 1 << 63, state
        assert 0 <= state.commit < 1 << 63, state
    with suppress(CorruptionError):
        values = decode_meta(data)
        assert all(isinstance(key, str) for key in values), values


def check_url(data: bytes) -> None:
    """Whatever is no URL is the path of a file, and none of ours."""
    text = data.decode(errors="surrogateescape")
    if is_url(text):
        load(text)


def seal_format(data: bytes) -> bytes:
    start, stop = data.find(b'{"version"'), data.rfind(b',"crc32"')
    if not 0 <= start < stop:
        return data
    return data[:stop] + b',"crc32":%d}\n' % zlib.crc32(data[start:stop])


def seal_witness(data: bytes) -> bytes:
    slots = [bytearray(data[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES)]
    for slot in slots:
        slot[28:32] = zlib.crc32(slot[:28]).to_bytes(4, "little")
    return b"".join(slots)
