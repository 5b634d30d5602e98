"""What the tests of the log share: with which strategies and policies they run."""

from __future__ import annotations

import pytest

from raftstore.policy import Batch, Immediate
from raftstore.strategy import DiskFirst, MemFirst

both = pytest.mark.parametrize("strategy", [DiskFirst(), MemFirst()], ids=["DiskFirst", "MemFirst"])
policies = pytest.mark.parametrize("policy", [Immediate(), Batch(8, 1)], ids=["Immediate", "Batch"])
NEVER = Batch(10**6, 10**6)
"""A policy under which nothing but an urgent call flushes."""
