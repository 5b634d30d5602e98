"""LazyFS, mounted: a file system that keeps what was not synced in its own memory, and drops it when told to.

The program is asked over a FIFO, and answers over another one when it is done.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from raftstore.testing.crash.block_mount import is_mounted
from raftstore.testing.crash.fuse_mount import DEVICE
from raftstore.testing.crash.patience import PATIENCE_S

PROGRAM: Final = "lazyfs"
VARIABLE: Final = "RAFTSTORE_LAZYFS"
"""The variable of the environment that holds the program's path, where it is not on PATH."""
CACHE: Final = "256mb"
"""More than any workload writes: a full cache would write on its own."""
CLEAR: Final = b"lazyfs::clear-cache\n"
CLEARED: Final = b"finished::clear-cache\n"
ANSWER_S: Final = PATIENCE_S
POLL_S: Final = 0.01


class LazyFsError(Exception):
    """LazyFS did not do what it was asked; says what."""


class Torn(msgspec.Struct, frozen=True):
    """The `occurrence`th write to one of `files` is cut in parts; only some reach the disk, and LazyFS dies.

    Part 1 is the first; all are of one length.
    """

    files: Sequence[Path]
    occurrence: int
    parts: int
    persist: Sequence[int]

    def text(self) -> str:
        """As LazyFS wants it in its configuration."""
        return "\n".join(map(self._text_of, self.files))

    def _text_of(self, file: Path) -> str:
        lines = ['type="torn-op"', f'file="{file}"', f"occurrence={self.occurrence}"]
        lines += [f"parts={self.parts}", f"persist={list(self.persist)}"]
        return "\n".join(["[[injection]]", *lines, ""])


def program() -> str | None:
    """The path of the program, if there is one."""
    given = os.environ.get(VARIABLE)
    return shutil.which(PROGRAM if given is None else given)


def lacking() -> str | None:
    """Why LazyFS cannot be mounted here, with what to install, or None."""
    if program() is None:
        return (
            f"the program {PROGRAM}, on PATH or named by {VARIABLE}: build dsrhaslab/lazyfs of GitHub "
            "(Debian: apt-get install g++ libfuse3-dev libtoml11-dev libspdlog-dev)"
        )
    for command, package in (("fusermount3", "fuse3"), ("setpriv", "util-linux")):
        if shutil.which(command) is None:
            return f"{command}: install {package}"
    return None if os.access(DEVICE, os.R_OK | os.W_OK) else f"{DEVICE}, and to be allowed to open it"


def configuration(asked: Path, answered: Path, torn: Torn | None) -> str:
    """What LazyFS reads when it starts. `asked` and `answered`: the paths of its FIFOs."""
    return "\n".join(
        [
            "[faults]",
            f'fifo_path="{asked}"',
            f'fifo_path_completed="{answered}"',
            "[cache]",
            "apply_eviction=false",
            "[cache.simple]",
            f'custom_size="{CACHE}"',
            "blocks_per_page=1",
            "[filesystem]",
            "log_all_operations=false",
            "",
            torn.text() if torn is not None else "",
        ]
    )


STORES: Final = ("arena0", "arena1")
"""The directories on it. Where it is not mounted these are files, so that nobody makes a new store there."""


class LazyFs:
    """A context, in which LazyFS is mounted at `path`. After it nothing is mounted and nothing left.

    If this process dies, the program is killed, and `fusermount3` unmounts.
    """

    def __init__(self, scratch: Path) -> None:
        """To be made in `scratch`, where `root` will hold what is on the disk."""
        self._place = scratch / "lazyfs"
        self.root = self._place / "root"
        self.path = self._place / "mount"
        self._asked = self._place / "asked"
        self._answered = self._place / "answered"
        self._program: subprocess.Popen[bytes] | None = None
        self._fifos: list[int] = []

    def __enter__(self) -> Self:
        """Mount it. Raises `LazyFsError`."""
        shutil.rmtree(self._place, ignore_errors=True)
        for directory in (self._place, self.root, self.path):
            directory.mkdir()
        for name in STORES:
            (self.path / name).touch()
        try:
            for fifo in (self._asked, self._answered):
                os.mkfifo(fifo, 0o600)
                self._fifos.append(os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.unmount()
        finally:  # whatever interrupts it, the rest is done
            while self._fifos:
                os.close(self._fifos.pop())
            if not is_mounted(self.path):
                shutil.rmtree(self._place, ignore_errors=True)

    @property
    def is_alive(self) -> bool:
        """Whether the program runs: it dies of a torn write."""
        return self._program is not None and self._program.poll() is None

    def mount(self, torn: Torn | None = None) -> None:
        """Start the program, with what is in `root`. Raises `LazyFsError`."""
        (self._place / "config").write_text(configuration(self._asked, self._answered, torn))
        with (self._place / "words").open("wb") as words:
            self._program = subprocess.Popen(
                command(self.path, self.root),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=self._place,
                start_new_session=True,  # an interrupt from the keyboard is for us: we unmount
            )
        until = time.monotonic() + ANSWER_S
        while not is_mounted(self.path):
            self._check(until, "mount")
            time.sleep(POLL_S)

    def unmount(self) -> None:
        """End the program; what it holds in memory is lost. Nothing if nothing is mounted."""
        running, self._program = self._program, None
        if running is not None:
            running.kill()
            running.wait()
        until = time.monotonic() + ANSWER_S
        while is_mounted(self.path) and time.monotonic() < until:
            subprocess.run(["fusermount3", "-u", "-z", "-q", str(self.path)], check=False)

    def clear(self) -> None:
        """Drop all that was not synced. Raises `LazyFsError`."""
        asked, answered = self._fifos
        os.write(asked, CLEAR)
        until, answer = time.monotonic() + ANSWER_S, b""
        while answer != CLEARED:
            self._check(until, "clear its cache")
            if select.select([answered], [], [], POLL_S)[0]:
                answer += os.read(answered, len(CLEARED))

    def _check(self, until: float, what: str) -> None:
        if self.is_alive and time.monotonic() < until:
            return
        said = (self._place / "words").read_bytes()[-800:].decode(errors="replace").strip()
        raise LazyFsError(f"LazyFS did not {what}: {said}")


def command(mount: Path, root: Path) -> list[str]:
    """What starts it in the directory of its file `config`, to be killed when its parent dies."""
    found = program()
    assert found is not None
    options = f"modules=subdir,subdir={root},auto_unmount"
    start = ["setpriv", "--pdeathsig", "KILL", "--", str(Path(found).resolve())]
    return [*start, str(mount), "--config-path", "config", "-f", "-o", options]
