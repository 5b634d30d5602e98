"""What one durable append costs in system calls, counted from outside by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.backend("segmented"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

APPENDS = 40

PROGRAM = """
import os, sys
from pathlib import Path
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore_segmented import SegmentedBackend

backend = SegmentedBackend(Path(sys.argv[1]))
backend.write(WriteBatch(1, entries=[Entry(1, 1, b"first")]))
backend._worker.wait_idle()
os.write(1, b"begin\\n")
for number in range(2, 2 + int(sys.argv[2])):
    backend.write(WriteBatch(number, entries=[Entry(1, number * 100 + i, b"x" * 100) for i in range(3)]))
os.write(1, b"end\\n")
backend.close()
"""


def traced(path: Path) -> list[str]:
    """The names of the system calls between the two marks, of all threads."""
    log = path / "trace"
    store = path / "store"
    store.mkdir()
    calls = "trace=desc,file,memory,process,%net"
    command = ["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o", str(log)]
    program = [sys.executable, "-c", PROGRAM, str(store), str(APPENDS)]
    subprocess.run([*command, *program], check=True, stdout=subprocess.DEVNULL, timeout=600, env=os.environ)
    names: list[str] = []
    counting = False
    for line in log.read_text().splitlines():
        if '"begin\\n"' in line or '"end\\n"' in line:
            counting = '"begin\\n"' in line
        elif counting and (found := re.match(r"\d+ +(\w+)\(", line)):
            names.append(found[1])
    return names


def test_an_append_is_one_write_and_one_fdatasync_and_nothing_else(tmp_path: Path) -> None:
    counts = Counter(traced(tmp_path))
    assert counts.pop("pwrite64") == APPENDS
    assert counts.pop("fdatasync") == APPENDS
    memory = sum(counts.pop(name, 0) for name in ("mmap", "munmap", "brk", "madvise"))
    assert memory <= 4  # the allocator's, now and then
    assert not counts
