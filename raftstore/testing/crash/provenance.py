"""With what a run was made: so that its numbers can be had again."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

LIBRARIES: Final = ("raftstore", "lmdb", "rocksdict", "crc32c", "msgspec")


class Provenance(msgspec.Struct, frozen=True):
    """Of one run. Equal for runs of the same tree with the same libraries on the same kernel."""

    commit: str | None
    """Of the tree that was tested, if it is one of git; `+` after it: with changes."""
    kernel: str
    python: str
    versions: dict[str, str]

    @property
    def text(self) -> str:
        """For people, without the commit."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"Linux {self.kernel}, Python {self.python}, {versions}"


def provenance() -> Provenance:
    """Of a run here and now."""
    return Provenance(_commit(), platform.release(), sys.version.split()[0], _versions())


def _commit() -> str | None:
    place = Path(__file__).parent
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=place, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=place, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + "+" * bool(changed.returncode)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
