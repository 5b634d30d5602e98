"""Refusals that are known, and that our backends mend only in part: counted apart, with their reason.

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
        "The name of a sorted file that an opening made is lost, and what names it is not: that is "
        "mended where the older manifest and the logs prove that nothing is lost by it; "
        "refused where they do not.",
    ),
    Explanation(
        "rocksdb",
        ("posix", "ext4"),
        re.compile(r"Corruption: checksum mismatch.*MANIFEST-\d+ may be corrupted"),
        "The last, un-synced record of RocksDB's manifest is torn. It is cut off where the logs prove that "
        "nothing is lost by it; where they do not, the store is refused.",
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
