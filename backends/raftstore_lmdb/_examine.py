"""Examines a store that nobody has open: the head here, by plain reads, and the rest in a child process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import Damage, Examination
from raftstore.errors import CorruptionError
from raftstore_lmdb import _checksums, _walk
from raftstore_lmdb._datafile import DATA, check_files, stats
from raftstore_lmdb._head import read_head

_CHILD: Final = "import sys; from raftstore_lmdb._walk import main; main(sys.argv[1:])"
_PATIENCE_S: Final = 60.0
_BYTES_PER_S: Final = 2**20
"""What a look at every page, in Python, manages even on a slow machine."""


def examine(path: Path, *, deep: bool) -> Examination:
    """See `DiskBackend.examine`. Raises `FormatError` or `BackendMissingError` if it cannot look."""
    try:
        if not check_files(path):
            raise CorruptionError("there is no data file", file=path / DATA)
        _checksums.checksum(read_head(path / DATA).bounds.checksum)
    except CorruptionError as error:
        return Examination(recovery=None, stats=stats(path, 0), damage=[_walk.as_damage(error)])
    lines, end = _run(path, deep=deep)
    return _examination(path, lines, end)


def _run(path: Path, *, deep: bool) -> tuple[list[_walk.Line], str | None]:
    """The lines that the child wrote, and how it ended if not well."""
    command = [sys.executable, "-P", "-c", _CHILD, str(path), *(["--deep"] if deep else [])]
    patience_s = _PATIENCE_S + (path / DATA).stat().st_size / _BYTES_PER_S
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience_s, env=environment
        )
    except subprocess.TimeoutExpired as error:
        return _lines(error.stdout or b""), f"does not end within {patience_s:.0f} s"
    if done.returncode > 0:
        raise OSError(errno.EIO, f"could not look: {done.stderr.decode(errors='replace')[-500:]}", str(path))
    end = f"kills the process, by {signal.Signals(-done.returncode).name}" if done.returncode else None
    return _lines(done.stdout), end


def _lines(output: bytes) -> list[_walk.Line]:
    complete = output[: output.rfind(b"\n") + 1]
    return [msgspec.json.decode(line, type=_walk.Line) for line in complete.splitlines()]


def _examination(path: Path, lines: Sequence[_walk.Line], end: str | None) -> Examination:
    opened = next((line.opened for line in lines if line.opened is not None), None)
    checked = max((line.checked for line in lines if line.checked is not None), default=None)
    damage = [line.damage for line in lines if line.damage is not None]
    if end is not None:
        damage.append(Damage(f"looking at it {end}", DATA, None, None if checked is None else checked + 1))
    if opened is None:
        return Examination(recovery=None, stats=stats(path, 0), damage=damage)
    anchor = opened.recovery.anchor.index
    return Examination(
        recovery=msgspec.structs.replace(opened.recovery, notes=tuple(opened.recovery.notes)),
        stats=stats(path, opened.live_bytes),
        entries_checked=0 if checked is None else checked - anchor,
        damage=damage,
        details=opened.details,
    )
