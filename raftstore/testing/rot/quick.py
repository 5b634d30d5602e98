"""Child processes by fork instead of by a new interpreter, in the processes of these tests only.

What a backend looks at from a child process is looked at from one here too, only sooner.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

_CHUNK: Final = 1 << 16
_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1


def forked(body: Callable[[], bytes], timeout_s: float) -> tuple[int | None, bytes]:
    """Run `body` in a forked child. Its exit status, None if it had to be killed, and what it returned.

    Status 0: `body` returned. 1: it raised, and the output is the traceback. Negative: the signal.
    On Linux the child does not outlive this thread: one that was forked in a child dies with that.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _die_with(parent)
        _live(body, writing)
    os.close(writing)
    try:
        output, ended = _collect(reading, time.monotonic() + timeout_s)
    finally:
        os.close(reading)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return (os.waitstatus_to_exitcode(status) if ended else None), output


def _die_with(parent: int) -> None:
    """Let this process be killed when `parent` ends, which may have happened already."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _live(body: Callable[[], bytes], writing: int) -> None:
    status = 1
    try:
        try:
            output, status = body(), 0
        except BaseException:  # noqa: BLE001
            output = traceback.format_exc().encode()
        with os.fdopen(writing, "wb") as stream:
            stream.write(output)
    finally:
        os._exit(status)


def _collect(reading: int, end: float) -> tuple[bytes, bool]:
    """All that comes until the other end closes, and whether it did so in time."""
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([reading], [], [], max(end - time.monotonic(), 0))
        if not ready:
            return b"".join(parts), False
        part = os.read(reading, _CHUNK)
        if not part:
            return b"".join(parts), True
        parts.append(part)


def make_quick() -> None:
    """Let the backends of this library, as far as they are imported, fork where they start an interpreter."""
    for name, install in (("raftstore_lmdb._examine", _lmdb), ("raftstore_rocksdb.child", _rocksdb)):
        try:
            install(importlib.import_module(name))
        except ImportError:
            continue


def _lmdb(examine: Any) -> None:
    walk: Any = importlib.import_module("raftstore_lmdb._walk")

    def run(path: Path, *, deep: bool) -> tuple[list[Any], str | None]:
        with tempfile.TemporaryFile() as lines:

            def body() -> bytes:
                for line in walk.walk(path, deep=deep):
                    os.write(lines.fileno(), msgspec.json.encode(line) + b"\n")
                return b""

            status, words = forked(body, examine._PATIENCE_S)
            lines.seek(0)
            output = lines.read()
        if status == 1:
            raise OSError(f"could not look: {words.decode(errors='replace')[-500:]}")
        end = "does not end" if status is None else f"kills the process, {status}" if status else None
        return examine._lines(output), end

    examine._run = run


def _rocksdb(child: Any) -> None:
    look: Any = importlib.import_module("raftstore_rocksdb.look")

    def look_from_child(path: Path, *, deep: bool, timeout_s: float, scratch: Path | None = None) -> Any:
        with tempfile.TemporaryDirectory(
            prefix=child.LINKS_PREFIX, dir=scratch, ignore_cleanup_errors=True
        ) as links:
            status, output = forked(
                lambda: msgspec.json.encode(look.look(path.absolute(), Path(links), deep=deep)), timeout_s
            )
        if status == 0:
            return msgspec.json.decode(output, type=look.Examination)
        words = f"RocksDB ended with {status}: {output.decode(errors='replace')[-500:]}"
        raise child.ChildFailedError(words, by_store=status != 1)

    for name in ("backend", "opening"):
        module: Any = importlib.import_module(f"raftstore_rocksdb.{name}")
        module.look_from_child = look_from_child
