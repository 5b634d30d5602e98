"""What the tests of the log share: with which strategies and policies they run."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from raftstore.errors import StoreFullError
from raftstore.policy import Batch, Immediate
from raftstore.strategy import DiskFirst, MemFirst
from raftstore.testing.tools import PATIENCE_S

both = pytest.mark.parametrize("strategy", [DiskFirst(), MemFirst()], ids=["DiskFirst", "MemFirst"])
policies = pytest.mark.parametrize("policy", [Immediate(), Batch(8, 1)], ids=["Immediate", "Batch"])
NEVER = Batch(10**6, 10**6)
"""A policy under which nothing but an urgent call flushes."""


def in_the_end(call: Callable[[], object]) -> None:
    """Call again while the disk is said to be full: what it takes now is refused with what comes before it
    if that is being refused at this moment. It is tried again all the time.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            call()
        except StoreFullError:
            assert time.monotonic() < end
        else:
            return
