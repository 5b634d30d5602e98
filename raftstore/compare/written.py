"""How many bytes this process has handed to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

COUNTERS: Final = Path("/proc/self/io")


def bytes_written() -> int:
    """Pages that this process dirtied, in bytes, since it began (`write_bytes`, proc(5)); 0 where the system
    does not tell. It does not grow on a file system in memory."""
    if not COUNTERS.exists():
        return 0
    lines = COUNTERS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
