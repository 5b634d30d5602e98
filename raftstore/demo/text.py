"""The input of the demo: lines of real text, without end."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from itertools import chain
from pathlib import Path


def lines(file: Path | None) -> Iterator[str]:
    """The lines of `file`, or of the installed standard library's modules, over and over.

    Bytes that are not UTF-8 are shown as escapes. Raises `OSError` if a file cannot be read, `ValueError` if
    there is no line in it.
    """
    endless = _over_and_over([file] if file is not None else _standard_library())
    return chain([next(endless)], endless)  # What is wrong with the file is told now.


def _over_and_over(files: list[Path]) -> Iterator[str]:
    while True:
        count = 0
        for path in files:
            for line in _lines_of(path):
                count += 1
                yield line
        if not count:
            raise ValueError(f"there is no line to replicate in {', '.join(map(str, files))}")


def _standard_library() -> list[Path]:
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


def _lines_of(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")
