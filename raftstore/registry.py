"""Finds backends by name, through the entry-point group `raftstore.backends`.

Ours and a third party's are found in the same way: a distribution that declares
`[project.entry-points."raftstore.backends"] name = "package:Class"` is enough.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from raftstore.backend import DiskBackend
from raftstore.errors import BackendMissingError, ConfigError

GROUP = "raftstore.backends"


def backend_names() -> list[str]:
    """The names of all registered backends, installed libraries or not."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def backend_class(name: str) -> type[DiskBackend]:
    """The class that is registered as `name`.

    Raises `ConfigError` if no backend has that name, `BackendMissingError` if a library it needs is absent.
    """
    point = _entry_point(name)
    try:
        return cast("type[DiskBackend]", point.load())
    except ImportError as error:
        raise BackendMissingError(f"backend {name!r} needs {_remedy(point, error)}") from error


@cache
def _entry_point(name: str) -> EntryPoint:
    """Looking through all installed distributions takes milliseconds, so what was found is kept."""
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        raise ConfigError(f"no backend {name!r}; registered are {', '.join(backend_names())}", key="backend")
    return point


def _remedy(point: EntryPoint, error: ImportError) -> str:
    owner = point.dist.name if point.dist is not None else point.value
    return f"the library {error.name!r}: pip install '{owner}[{point.name}]'"
