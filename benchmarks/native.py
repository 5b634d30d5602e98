"""Programs in C that are compiled when needed, and the limit that a row is measured against."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from raftstore.compare.budget import Budget
from raftstore.compare.limit import BareDisk

SOURCES: Final = Path(__file__).with_name("native")
COMPILE_S: Final = 120
END_S: Final = 10


class UnavailableError(Exception):
    """What is needed is not installed here; the message says what to install."""


def compile_program(source: str, directory: Path, flags: Sequence[str], *, needs: str) -> Path:
    """The program of `native/<source>` in `directory`. Raises `UnavailableError`, which names `needs`."""
    compiler = "c++" if source.endswith(".cc") else "cc"
    if shutil.which(compiler) is None:
        raise UnavailableError(f"no C compiler: install {needs}")
    program = directory / Path(source).stem
    command = [compiler, "-O2", "-o", str(program), str(SOURCES / source), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise UnavailableError(f"{source} cannot be compiled, install {needs}: {first}")
    return program


class Native:
    """A running program that takes orders as `native/slices.h` says. Use it as a context manager."""

    def __init__(self, program: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.version = self._answer().split()[1]  # It is ready: what it prepares is not measured.
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Native:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batch(self, count: int, size: int, seconds: float) -> float:
        """Entries a second that become durable, `count` entries of `size` bytes a write."""
        return self._order("batch", count, size, seconds)

    def threads(self, count: int, size: int, seconds: float) -> float | None:
        """The same with `count` threads, each with its own entry."""
        return self._order("threads", count, size, seconds)

    def close(self) -> str:
        """End the program; what it wrote to stderr."""
        try:
            return self._process.communicate(timeout=END_S)[1]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()[1]

    def _order(self, kind: str, count: int, size: int, seconds: float) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {count} {size} {int(seconds * 1e9)}\n")
        self._process.stdin.flush()
        entries, nanoseconds = self._answer().split()
        return int(entries) * 1e9 / int(nanoseconds)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended: {self.close()}")
        return line


class Limit(Protocol):
    """What the disk gives beside a measurement."""

    def batch(self, count: int, size: int, seconds: float) -> float: ...

    def threads(self, count: int, size: int, seconds: float) -> float | None: ...

    def close(self) -> object: ...


class PythonLimit:
    """The bare loop of `raftstore compare`: the limit as Python has it. Stands in without a compiler."""

    def __init__(self, directory: Path) -> None:
        self._bare = BareDisk(directory)

    def batch(self, count: int, size: int, seconds: float) -> float:
        return count / self._bare.seconds_per_write(count * size, Budget(seconds))

    def threads(self, count: int, size: int, seconds: float) -> float | None:
        return None

    def write(self, data: bytes) -> None:
        """One durable write."""
        self._bare.write(data)

    def close(self) -> None:
        self._bare.close()


def open_limit(directory: Path) -> tuple[Limit, str]:
    """The limit program on a file in `directory`, and what it is, for the report."""
    try:
        program = compile_program("limit.c", directory, ["-pthread"], needs="gcc or clang")
    except UnavailableError as reason:
        (directory / "python").mkdir()
        return PythonLimit(directory / "python"), f"a loop in Python ({reason})"
    return Native(program, str(directory / "limit.file")), "C (benchmarks/native/limit.c)"
