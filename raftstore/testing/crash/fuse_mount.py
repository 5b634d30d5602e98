"""A `FaultFs` that is mounted as long as a context lasts."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from raftstore.testing.crash.block_mount import is_mounted
from raftstore.testing.crash.fuse_diary import FuseFault, Order
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.record import Record

DEVICE: Final = Path("/dev/fuse")
END_S: Final = 5.0
ANSWER_S: Final = PATIENCE_S
"""After so long without an answer the file system is given up."""


class CannotMountError(Exception):
    """This machine cannot mount it; the message says what is missing."""


def check_can_mount() -> None:
    """Raise `CannotMountError` if something is not there that a mount needs."""
    if importlib.util.find_spec("mfusepy") is None:
        raise CannotMountError("mfusepy is not installed: pip install 'raftstore[crash]'")
    if shutil.which("fusermount3") is None:
        raise CannotMountError("there is no fusermount3: install fuse3 (Debian: apt-get install fuse3)")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise CannotMountError(f"{DEVICE} is not there, or may not be opened by this user")


class Mount:
    """A context. At its end nothing is mounted and the process that served it is gone.

    If this process dies, the other one unmounts and ends too; if that one dies, `fusermount3` unmounts. So
    nobody waits for an answer that never comes.
    """

    def __enter__(self) -> Self:
        check_can_mount()
        self._place = Path(tempfile.mkdtemp(prefix="raftstore-fuse-")).resolve()
        self._words = tempfile.TemporaryFile()
        self._runs = 0
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "raftstore.testing.crash.fuse_server", str(self._place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
            start_new_session=True,  # an interrupt from the keyboard is for us: we unmount
        )
        if self._line() != b"ready\n":
            raise CannotMountError(f"mounting failed: {self._said()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.abort()
        finally:  # whatever interrupts it, the rest is done
            self._words.close()
            _unmount(self._place)
            if not is_mounted(self._place):  # a driven process may have gone on in the bare directory
                shutil.rmtree(self._place, ignore_errors=True)

    def begin(self, events: Path, fault: FuseFault | None) -> Path:
        """The empty directory of a new run, whose driven process tells its events in the file `events`."""
        events.unlink(missing_ok=True)
        self._runs += 1
        order = Order(str(self._runs), str(events), fault)
        self._write(msgspec.json.encode(order) + b"\n")
        if self._line() != b"begun\n":
            raise RuntimeError(f"the file system is gone: {self._said()}")
        return self._place / order.name

    def end(self) -> list[Record]:
        """What happened in the run, when its process is gone."""
        self._write(b"\n")
        assert self._server.stdout is not None
        size = int(self._line() or b"0")
        return msgspec.msgpack.decode(self._server.stdout.read(size), type=list[Record])

    def abort(self) -> None:
        """End the process that serves: every call that waits for it fails."""
        if not hasattr(self, "_server"):
            return
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(END_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    def _write(self, line: bytes) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line)
        self._server.stdin.flush()

    def _line(self) -> bytes:
        stdout = self._server.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], ANSWER_S)
        return stdout.readline() if ready else b""

    def _said(self) -> str:
        self._words.seek(0)
        return self._words.read()[-800:].decode(errors="replace").strip()


def _unmount(place: Path) -> None:
    """Usually there is nothing to do any more."""
    until = time.monotonic() + 60
    while is_mounted(place) and time.monotonic() < until:
        subprocess.run(["fusermount3", "-u", "-z", "-q", str(place)], check=False)
        time.sleep(0.01)
