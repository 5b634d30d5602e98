"""What is fuzzed: a decoder, samples of what it reads, and the errors that it may raise."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

SPARE_BYTES: Final = 1 << 17
"""What any decoder may take, whatever it is given."""
TIMES_MAX: Final = 40
"""And so much more than it is given: small numbers in a file become objects of Python."""
TRIES: Final = 3
"""What takes too much memory does so every time; what a cache or the fuzzer itself took, does not."""
SECONDS_MAX: Final = 5.0
"""Of the processor: how busy the machine is, is not the decoder's fault."""
SEAL: Final = 1
"""In the first byte of an input: make the checksums of the rest right."""
_FORBIDDEN: Final = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
        "pickle.find_class",
        "socket.connect",
        "subprocess.Popen",
    }
)
_CODE: Final = (".py", ".pyc", ".so")
_NO_FILE: Final = "<unknown>"
"""Python looks for it when it shows a traceback, as in a log, and cannot parse a line of that."""
_INSTALLED: Final = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    *(part for part in sys.path if part),
)
"""What is imported, and what says which backends are installed."""


class WrongError(Exception):
    """An input made a decoder do what it must not."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder. `check` raises one of `refusals`, or nothing."""

    name: str
    samples: Sequence[bytes]
    check: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seal: Callable[[bytes], bytes] = bytes
    spare_bytes: int = SPARE_BYTES

    def seeds(self) -> Iterator[bytes]:
        """Inputs to begin with."""
        for sample in self.samples:
            yield bytes([0]) + sample
            yield bytes([SEAL]) + sample


class Guard:
    """Watches a decoder at work. One a process: what it listens to cannot be let go."""

    def __init__(self, scratch: Path) -> None:
        """Files may be opened below `scratch`, and nowhere else."""
        self._scratch = f"{scratch}{os.sep}"
        self._watching = False
        self._seen: str | None = None
        sys.addaudithook(self._listen)

    def warm_up(self, target: Target) -> None:
        """Let the target import what it needs, and check all of its samples. Raises as `run`."""
        for seed in target.seeds():
            with suppress(*target.refusals):
                target.check(seed[1:])
        for seed in target.seeds():
            self.run(target, seed)

    def run(self, target: Target, data: bytes) -> None:
        """Give an input to the target. Raises `WrongError`, or whatever else the decoder must not raise."""
        body = data[1:]
        if data[:1] and data[0] & SEAL:
            body = target.seal(body)
        bytes_max = target.spare_bytes + TIMES_MAX * len(data)
        peaks, begin = list[int](), time.process_time()
        while not peaks or (peaks[-1] > bytes_max and len(peaks) < TRIES):
            with self._watched():
                peaks.append(_peak_of(lambda: target.check(body), target.refusals))
        if self._seen is not None:
            raise WrongError(self._seen)
        if min(peaks) > bytes_max:
            raise WrongError(f"{min(peaks)} bytes of memory for {len(data)} bytes of input")
        seconds = time.process_time() - begin
        if seconds > SECONDS_MAX:
            raise WrongError(f"{seconds:.1f} s for {len(data)} bytes of input")

    @contextmanager
    def _watched(self) -> Generator[None]:
        self._watching, self._seen = True, None
        try:
            yield
        finally:
            self._watching = False

    def _listen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in _FORBIDDEN:
            self._seen = f"{event}: {arguments!r:.200}"
        elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[0] != _NO_FILE:
            path = os.fsdecode(arguments[0])
            if not path.startswith((self._scratch, *_INSTALLED)) and not path.endswith(_CODE):
                self._seen = f"{path!r:.200} was opened"


def _peak_of(call: Callable[[], object], refusals: tuple[type[Exception], ...]) -> int:
    tracemalloc.start()
    try:
        with suppress(*refusals):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
