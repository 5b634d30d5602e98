"""The shim where a file system lacks what others have."""

from __future__ import annotations

import errno

import pytest

from raftstore.registry import backend_names
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.events import ALLOCATE, Kind
from raftstore.testing.crash.lab import Fault
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.record import Op

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_blocks_cannot_be_allocated_they_are_written_as_the_c_library_does(
    bench: Bench, backend: str
) -> None:
    """`posix_fallocate` never says that it is not there."""
    missing = Fault(ALLOCATE, 1, "fail", errno.EOPNOTSUPP, sticky=True)
    plan = Plan(backend=backend, seed=12, steps=20, mix="plain")
    run, records = bench.record(plan, missing)
    kinds = {event.kind for event in run.events}
    assert (run.status, Kind.FIRED in kinds, Kind.CLOSED in kinds) == (0, True, True), run.words
    assert bench.judge(plan, run, "no fault", "", killed=False)[0] is Verdict.OK
    assert not any(record.op is Op.ALLOCATE and not record.error for record in records)
    assert any(record.op is Op.WRITE and record.data == bytes(len(record.data)) for record in records)
