"""Ctrl-C at a chosen line of a call, the same line in every run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def nothing_collected() -> Iterator[None]:
    """No garbage is collected in the block, by any thread: a collection begins anywhere, and may run the
    finalizers of what an earlier test left, which would be counted, or struck, with what the block runs.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def interrupt(
    step: int, is_ours: Callable[[str], bool], may_strike: Callable[[FrameType], bool] = lambda _frame: True
) -> Iterator[list[str]]:
    """KeyboardInterrupt at the `step`-th line, from 1, of the files that are ours; yields where that was.

    Only in this thread. No garbage is collected meanwhile.
    """
    left, where = step, list[str]()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        return trace if is_ours(frame.f_code.co_filename) else None

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if event == "line" and may_strike(frame):
            left -= 1
            if left == 0:
                where.append(f"{frame.f_code.co_qualname}, line {frame.f_lineno}")
                raise KeyboardInterrupt
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # Without a collection before: that would be a slow one for each step.
    sys.settrace(enter)
    try:
        yield where
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
