"""What a run of the fuzzers came to: written by the command, read by the page about reliability."""

from __future__ import annotations

from pathlib import Path

import msgspec

from raftstore.testing.crash.provenance import Provenance


class Result(msgspec.Struct, frozen=True):
    """What fuzzing one target came to."""

    target: str
    inputs: int
    seconds: float
    cpu_seconds: float
    """Of the process that had the inputs, reading the samples included."""
    guided: bool
    found: str | None = None
    """What went wrong, for people."""
    kept: str | None = None
    """The file with the input that did it."""


class Report(msgspec.Struct, frozen=True):
    """One run of the command."""

    seed: int
    seconds: float
    """Wanted for each target."""
    made_with: Provenance
    results: list[Result]

    @property
    def has_failed(self) -> bool:
        return any(result.found is not None for result in self.results)


def save(path: Path, report: Report) -> None:
    """Write it as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def load(path: Path) -> Report:
    """What `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Report)
