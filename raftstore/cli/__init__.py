"""The command `raftstore`."""

from __future__ import annotations

import sys
import traceback
from io import TextIOWrapper

COULD_NOT_RUN = 2


def main() -> None:
    """Run the command line. The exit status of an error that nobody foresaw is 2: 1 has a meaning."""
    _escape_what_cannot_be_shown()
    try:
        from raftstore.cli.app import app
    except ModuleNotFoundError as error:
        sys.stderr.write(f"the command raftstore needs {error.name}: pip install 'raftstore[cli]'\n")
        sys.exit(COULD_NOT_RUN)
    try:
        app()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        sys.exit(COULD_NOT_RUN)


def _escape_what_cannot_be_shown() -> None:
    """Whatever the locale, no character that a terminal lacks ends a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
