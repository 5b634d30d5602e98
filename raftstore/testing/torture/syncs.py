"""How long a sync takes on a file system, and whether to believe it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from raftstore.compare.machine import Machine
from raftstore.meter import quantile

SYNCS: Final = 300
SECONDS: Final = 3.0
BLOCK: Final = bytes(range(256)) * 16
FILE_BYTES: Final = 1 << 20
FAST_S: Final = 20e-6
"""No disk makes anything durable so quickly; one with a battery takes about that long."""
TURN_S: Final = 2e-3
"""A spinning disk waits for half a turn on average, 4 ms at 7,200 turns a minute."""
NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "beegfs", "afs", "gfs2"}
)
REMOTE_FUSE: Final = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "fuse.juicefs")


class Syncs(msgspec.Struct, frozen=True):
    """Latencies in milliseconds of `fdatasync` after each 4 KiB written over old ones."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def measure_syncs(directory: Path) -> Syncs:
    """Write and sync below `directory`, for `SECONDS` at most."""
    times: list[float] = []
    with tempfile.NamedTemporaryFile(prefix="raftstore-sync-", dir=directory) as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(FILE_BYTES), 0)
        os.fsync(fd)
        end = time.perf_counter() + SECONDS
        while len(times) < SYNCS and (time.perf_counter() < end or len(times) < 2):
            os.pwrite(fd, BLOCK, len(times) * len(BLOCK) % FILE_BYTES)
            begin = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    times.sort()
    p50, p90, p99, highest = (1e3 * quantile(times, share) for share in (0.5, 0.9, 0.99, 1))
    return Syncs(len(times), p50, p90, p99, highest)


def warnings_of(machine: Machine, syncs: Syncs, *, is_rotating: bool) -> list[str]:
    """What to know before a store is trusted to that file system. Empty: nothing suspicious."""
    kind = machine.filesystem.split(" ")[0]
    if machine.is_in_memory:
        return [f"{kind} is memory: all of it is gone at a power cut, and a sync promises nothing."]
    found: list[str] = []
    if kind in NETWORK or kind.startswith(REMOTE_FUSE):
        found.append(
            f"{kind} is a network file system: what survives a power cut is decided by the server and its "
            "export options (NFS exports with async acknowledge before they write), and two machines can "
            "mount it, which the store's lock may not see. Prefer a local disk."
        )
    if kind == "overlay":
        found.append("overlay is the file system of a container: it goes with it. Use a volume.")
    if syncs.p50_ms < 1e3 * FAST_S:
        found.append(
            f"half of the syncs took less than {1e6 * FAST_S:.0f} µs: no disk is so fast. Something ignores "
            "them: a virtual disk with cache=unsafe, libeatmydata, a file system mounted with nobarrier."
        )
    elif is_rotating and syncs.p50_ms < 1e3 * TURN_S:
        found.append(
            f"half of the syncs took less than {syncs.p50_ms:.2f} ms, and the system calls the disk a "
            "spinning one, which needs longer: it is a virtual one, or its write cache is not flushed "
            "(hdparm -W), or a battery keeps that cache."
        )
    return found


def is_rotating(directory: Path) -> bool:
    """Whether the system says that the disk below spins. Virtual disks may say so, too."""
    device = directory.stat().st_dev
    base = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (base, base / ".."):
        file = place / "queue" / "rotational"
        if file.exists():
            return file.read_text().strip() == "1"
    return False
