"""How long a process may say nothing before it counts as hanging: long, since machines may be busy."""

from __future__ import annotations

import os
from typing import Final

PATIENCE_S: Final = 240.0
"""What never comes back keeps a run waiting for so long; what is only slow, on a machine that has fifty times
as much to do as it can, is not taken for it."""


def hang(what: str, seconds: float) -> str:
    """The words of a HANG: what did not happen, in how long, on how busy a machine."""
    return f"{what} within {seconds:g} s, at a load average of {os.getloadavg()[0]:.1f}"
