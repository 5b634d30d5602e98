"""Refusals that are known, and that no backend of ours can mend: counted apart, with their reason.

Only openings that raise can stand here. A lost or a mixed state is never explained away.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from raftstore.testing.crash.oracle import Verdict


class Explanation(msgspec.Struct, frozen=True):
    """When an opening may raise, and why."""

    backend: str
    models: tuple[str, ...]
    """The models of the disk in which it happens."""
    words: re.Pattern[str]
    """Of the error."""
    reason: str


EXPLANATIONS: Final = (
    Explanation(
        "rocksdb",
        ("posix",),
        re.compile(r"No such file or directory: While open a file for random read: .*\.sst: No such file"),
        "At an opening RocksDB writes what its log held to a sorted file, names that in a new manifest, lets "
        "CURRENT name the manifest, and then syncs the directory once. A file system that keeps a later "
        "change of a directory without an earlier one may keep the manifest and lose the name of the sorted "
        "file. Journaling file systems (ext4, xfs) keep the order. The log and the older manifest are there.",
    ),
    Explanation(
        "rocksdb",
        ("posix", "ext4"),
        re.compile(r"Corruption: checksum mismatch.*MANIFEST-\d+ may be corrupted"),
        "RocksDB appends what it did to its manifest, and then syncs that. A disk that keeps some sectors of "
        "this un-synced write and not others leaves a torn record at the end, which RocksDB takes for damage "
        "instead of an unfinished write. Nothing was acknowledged on account of it: the log is there.",
    ),
)


def explained(backend: str, model: str, verdict: Verdict, words: str) -> str | None:
    """The reason for a refusal that is known, or None."""
    if verdict is not Verdict.REFUSED:
        return None
    for known in EXPLANATIONS:
        if known.backend == backend and model in known.models and known.words.search(words):
            return known.reason
    return None
