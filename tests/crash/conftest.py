"""What the crash tests need: the shim, where a compiler is there, and a bench without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.record import CannotRecordError, build_shim
from raftstore.testing.crash.tally import Tally


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, or the test is skipped."""
    try:
        return build_shim(tmp_path_factory.mktemp("shim"))
    except CannotRecordError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def recording(shim: Path, private_tmp: Path) -> Iterator[Bench]:
    with Bench(shim) as bench:
        yield bench


@pytest.fixture(scope="session")
def plain(private_tmp: Path) -> Iterator[Bench]:
    with Bench(None) as bench:
        yield bench


@pytest.fixture
def bench(recording: Bench) -> Bench:
    """A bench that can record, and fail calls; its tally is empty."""
    recording.tally = Tally()
    return recording


@pytest.fixture
def plain_bench(plain: Bench) -> Bench:
    """A bench that can only kill; its tally is empty."""
    plain.tally = Tally()
    return plain
