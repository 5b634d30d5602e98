"""Deliberately broken backends: `BackendSuite` must catch every one, by name.

A suite that finds nothing wrong with these cannot be trusted with yours. Those of `files` work on real
files and are killed for real; the others work in memory.
"""

from __future__ import annotations

import inspect

from raftstore.testing.broken import crashing, opening, reading, writing
from raftstore.testing.broken.base import BrokenBackend


def broken_backends() -> list[type[BrokenBackend]]:
    """Those that work in memory."""
    modules = (writing, reading, opening, crashing)
    found = [found for module in modules for _, found in inspect.getmembers(module, inspect.isclass)]
    return [each for each in found if issubclass(each, BrokenBackend) and each.caught_by]


__all__ = ["BrokenBackend", "broken_backends"]
