"""Targets: the files of a PySyncObj journal, which hold pickles: nothing in them may be called."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, Final

from raftstore.adapters.pysyncobj import journal_file
from raftstore.errors import CorruptionError, FormatError
from raftstore.testing.fuzz.target import Target

REFUSALS: Final = (CorruptionError, FormatError)
META_SPARE_BYTES: Final = 2 * journal_file.META_BYTES_MAX
"""So much is read at once."""


def targets(scratch: Path) -> list[Target]:
    """All of them; they use files in `scratch`."""
    from pysyncobj.journal import FileJournal  # type: ignore[import-untyped,unused-ignore]

    sample = scratch / "sample-journal"
    journal: Any = FileJournal(str(sample))
    for index in range(1, 6):
        journal.add(b"command %d" % index, index, index // 2)
    journal.setRaftCommitIndex(3)
    journal.setCurrentTerm(5, "n2:4321")
    journal._destroy()
    file = scratch / "journal"

    def check_entries(data: bytes) -> None:
        file.write_bytes(data)
        for _ in journal_file.read_entries(file):
            pass

    def check_meta(data: bytes) -> None:
        journal_file.meta_path(file).write_bytes(data)
        journal_file.read_hard_state(file, 3)

    used = sample.read_bytes().rstrip(b"\0") + bytes(8)
    return [
        Target(name="pysyncobj-journal", samples=[used], check=check_entries, refusals=REFUSALS, seal=seal),
        Target(
            name="pysyncobj-meta",
            samples=[journal_file.meta_path(sample).read_bytes(), pickle.dumps(print)],
            check=check_meta,
            refusals=REFUSALS,
            spare_bytes=META_SPARE_BYTES,
        ),
    ]


def seal(data: bytes) -> bytes:
    """The end of the entries, as the header names it, is that of the file."""
    return data[:36] + struct.pack("<I", len(data)) + data[40:]
