"""What every node of the demo can do, whatever its library: the interface of `member_*.py`."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

from raftstore.demo.messages import FromNode, Line, Operation, Status

Say = Callable[[FromNode], None]
"""Sends a message to the demo, from any thread."""


class Member(Protocol):
    """A running member of the cluster. It was made with a `NodeSpec` and a `Say`, and has said `Opened`."""

    def perform(self, operation: Operation) -> None:
        """Begin it; its `Answer` is said when it is known, or never if the outcome is not."""
        ...

    def status(self) -> Status:
        """From any thread."""
        ...

    def lines(self) -> list[Line]:
        """The values whose keys are numbers, in the order in which they were applied."""
        ...


def run_for_ever(step: Callable[[], object]) -> None:
    """Run `step` again and again in a thread. What it raises ends the process: half a node is none."""

    def run() -> None:
        try:
            while True:
                step()
        finally:
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()


def line_of(key: str, value: str) -> Line | None:
    """The line that this key and value are, if they are one."""
    return Line(int(key), value) if key.isdecimal() else None
