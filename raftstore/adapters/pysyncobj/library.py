"""The PySyncObj that is installed: found once, its version checked, behind one untyped name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from raftstore.errors import BackendMissingError

VERSION_MIN: Final = (0, 3, 16)
"""The first version that hands term and vote to its journal."""

_REMEDY: Final = "pip install 'raftstore[pysyncobj]'"


def load() -> Any:
    """The package `pysyncobj`. Raises `BackendMissingError` if it is absent or too old to be safe."""
    try:
        package = import_module("pysyncobj")
    except ModuleNotFoundError as error:
        raise BackendMissingError(f"PySyncObj is not installed: {_REMEDY}") from error
    check_version(str(import_module("pysyncobj.version").VERSION))
    return package


def check_version(version: str) -> None:
    """Raise `BackendMissingError` for a version below `VERSION_MIN`."""
    if _numbers(version) < VERSION_MIN:
        needed = ".".join(map(str, VERSION_MIN))
        raise BackendMissingError(
            f"PySyncObj {version} keeps term and vote in memory only; {needed} or newer is needed: {_REMEDY}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `0.3.17rc1` is (0, 3, 17)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
