"""The process that serves a `FaultFs`: takes orders on its input, until that ends, and then unmounts.

`python -m raftstore.testing.crash.fuse_server DIRECTORY`. It says `ready` when the directory is mounted. Then
an order begins a run, and an empty line ends it and is answered by a number and so many bytes: what happened
in it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from raftstore.testing.crash.fuse_diary import Order
from raftstore.testing.crash.fuse_fs import FaultFs


def main() -> None:
    """Serve until the input ends, or a signal comes."""
    fuse: Any = importlib.import_module("mfusepy")
    files = _Announced()
    threading.Thread(target=_obey, args=(files,), daemon=True).start()
    with suppress(BrokenPipeError, RuntimeError):  # raised when a signal ends it
        fuse.FUSE(files, sys.argv[1], foreground=True, nothreads=True, auto_unmount=True)
    with suppress(OSError):  # nobody else may be left to do it
        Path(sys.argv[1]).rmdir()


class _Announced(FaultFs):
    def init_with_config(self, _connection: Any, config: Any) -> None:
        super().init_with_config(_connection, config)
        _say(b"ready\n")


def _obey(files: FaultFs) -> None:
    try:
        for line in sys.stdin.buffer:
            if line.strip():
                files.begin(msgspec.json.decode(line, type=Order))
                _say(b"begun\n")
            else:
                records = msgspec.msgpack.encode(files.end())
                _say(b"%d\n" % len(records) + records)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # the library unmounts then


def _say(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
