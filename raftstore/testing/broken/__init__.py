"""Deliberately broken backends: `BackendSuite` must catch every one, by name.

A suite that finds nothing wrong with these cannot be trusted with yours.
"""

from __future__ import annotations

import inspect

from raftstore.testing.broken import crashing, opening, reading, writing
from raftstore.testing.broken.base import BrokenBackend


def broken_backends() -> list[type[BrokenBackend]]:
    """All that work in memory."""
    return [
        found
        for module in (writing, reading, opening, crashing)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, BrokenBackend) and found.caught_by
    ]


__all__ = ["BrokenBackend", "broken_backends"]
