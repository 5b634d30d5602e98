"""Ending early: however a command is told to stop, it removes what it made and ends what it started."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""The exit status of a command that was told to stop: neither good nor bad was found."""


@contextmanager
def interruptible() -> Generator[None]:
    """SIGTERM and SIGHUP raise `KeyboardInterrupt` meanwhile, as Ctrl-C does. In the main thread only.

    Only the first of them does: `timeout`, and a terminal that is closed, send theirs twice, and the second
    must not cut short what the first has begun to remove. A SIGHUP that is ignored, as under `nohup`, stays
    ignored.
    """
    has_ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal has_ended
        if not has_ended:
            has_ended = True
            signal.default_int_handler(number, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
