"""Target: the reports that `raftstore compare` reads again."""

from __future__ import annotations

from pathlib import Path

from raftstore.compare.report import VERSION, load
from raftstore.errors import ConfigError
from raftstore.testing.fuzz.core import of_file
from raftstore.testing.fuzz.target import Target


def targets(scratch: Path) -> list[Target]:
    """It uses a file in `scratch`."""
    sample = b'{"version":%d,"machine":{"cpu":"x","is_in_memory":false},"cells":[{"a":[1.5,2]}]}' % VERSION
    return [
        Target(
            name="report",
            samples=[sample, b"[" * 4000],
            check=of_file(scratch / "report.json", load),
            refusals=(ConfigError,),
        )
    ]
