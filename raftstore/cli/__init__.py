"""The command `raftstore`."""

from __future__ import annotations

import sys
import traceback

COULD_NOT_RUN = 2


def main() -> None:
    """Run the command line. The exit status of an error that nobody foresaw is 2: 1 has a meaning."""
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
