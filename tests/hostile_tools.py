"""Bytes from somebody who means harm: at random, or well-formed but for a few fields that lie."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from raftstore.testing.profile import times

T = TypeVar("T")

LIES = sorted(
    {
        number.to_bytes(size, order)
        for size in (1, 2, 4, 8)
        for number in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
        for order in ("little", "big")
    }
)
"""Numbers at the ends of what a field can hold."""

SPARE_BYTES = 1 << 17
"""What any decoder may take, whatever it is given."""
TIMES_MAX = 40
"""And so much more than it is given: small numbers in a file become objects of Python."""

Edit = tuple[int, bytes, bool]
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(st.integers(0, 4096), st.sampled_from(LIES) | st.binary(max_size=9), st.booleans()),
    min_size=1,
    max_size=4,
)


def edited(sample: bytes, changes: Sequence[Edit], length: int | None) -> bytes:
    """`sample` with bytes overwritten or put in at some places, and cut at `length`."""
    data = sample
    for place, piece, inserted in changes:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at if inserted else at + len(piece) :]
    return data if length is None else data[:length]


def hostile(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    lengths = st.none() | st.integers(0, 4096)
    return st.binary(max_size=400) | st.builds(edited, st.sampled_from(samples), edits, lengths)


def many(examples: int) -> settings:
    return settings(
        max_examples=times(examples),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def attempt(
    call: Callable[[], T], given: int, *refusals: type[Exception], spare_bytes: int = SPARE_BYTES
) -> T | None:
    """The result of `call`, None if it refused. Fails on any other exception, and on too much memory."""
    tracemalloc.start()
    try:
        try:
            result = call()
        except refusals:
            result = None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > spare_bytes + TIMES_MAX * given:
        pytest.fail(f"{peak} bytes of memory for {given} bytes of input")
    return result
