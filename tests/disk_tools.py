"""Small disks, and how they become full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, size: str) -> Iterator[None]:
    """A file system of that size is mounted there, in memory; skips where that is not possible."""
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def take_the_rest(file: Path) -> None:
    """All that is free, as another process might."""
    with suppress(OSError), file.open("wb", buffering=0) as taken:
        while taken.write(bytes(4096)):
            pass
