"""`python -m raftstore.testing.fuzz`: fuzz one target after the other. Exit status 1 if anything was found.

Guided by coverage with atheris (the extra `fuzz`, CPython on Linux); without it at random, which finds less.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from raftstore.cli.ending import INTERRUPTED, interruptible
from raftstore.errors import BackendMissingError
from raftstore.testing.arguments import file_to_write
from raftstore.testing.crash.provenance import provenance
from raftstore.testing.fuzz.guided import COMMAND, memory
from raftstore.testing.fuzz.report import Report, Result, save
from raftstore.testing.fuzz.target import SECONDS_MAX, Guard, Target
from raftstore.testing.fuzz.targets import NAMES, target_named

INPUT_BYTES_MAX: Final = 16_384
MEMORY_MIB_MAX: Final = 2048
LIES: Final = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for number in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
    for order in ("little", "big")
)
"""Numbers at the ends of what a field can hold."""


_NOISE: Final = ("INFO: ", "#", "WARNING: ")
"""How lines begin that say nothing of what was found."""


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    try:
        with interruptible():
            results = _fuzz(arguments, seed)
    except KeyboardInterrupt:
        return INTERRUPTED
    report = Report(seed, arguments.seconds, provenance(), results)
    if arguments.json:
        save(arguments.json, report)
    return int(report.has_failed)


def _fuzz(arguments: argparse.Namespace, seed: int) -> list[Result]:
    """One target after the other, but those whose library is missing."""
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: at random (pip install 'raftstore[fuzz]')", file=sys.stderr)
    run, results = _guided if guided else _at_random, list[Result]()
    for name in arguments.target or NAMES:
        with tempfile.TemporaryDirectory(prefix="raftstore-fuzz-") as scratch:
            corpus = Path(arguments.corpus or scratch, name).resolve()
            corpus.mkdir(parents=True, exist_ok=True)
            try:
                results.append(run(name, arguments.seconds, seed, corpus))
            except (ImportError, BackendMissingError) as error:
                print(f"{name}: SKIPPED: {error}", flush=True)
                continue
        print(_line(results[-1]), flush=True)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=NAMES, help="repeatable; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, help="default: the time")
    parser.add_argument("--corpus", metavar="DIR", help="keep inputs there, and go on with those that are")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write the numbers there, too")
    return parser


def _line(result: Result) -> str:
    how = "guided by coverage" if result.guided else "at random"
    words = f"{result.target}: {result.inputs:,} inputs in {result.seconds:.0f} s, {how}"
    if result.found is None:
        return f"{words}: nothing found"
    return f"{words}: FOUND, input in {result.kept or 'the samples'}\n{result.found}"


def _guided(name: str, seconds: float, seed: int, corpus: Path) -> Result:
    with (
        tempfile.TemporaryDirectory(prefix="raftstore-fuzz-") as directory,
        tempfile.TemporaryDirectory(prefix="raftstore-fuzz-", dir=memory()) as scratch,
    ):
        place = Path(directory)
        (place / "words").write_text("".join(map(_word, LIES)))
        _write_seeds(name, place)
        begin, cpu_begin = time.monotonic(), _cpu_of_children()
        done = subprocess.run(
            [
                *(sys.executable, "-c", COMMAND, name, scratch, f"-max_total_time={max(1, round(seconds))}"),
                *(f"-seed={seed % (1 << 32) or 1}", f"-timeout={SECONDS_MAX * 2:.0f}"),
                *(f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-max_len={INPUT_BYTES_MAX}", "-print_final_stats=1"),
                *(
                    f"-artifact_prefix={place}/",
                    f"-dict={place / 'words'}",
                    str(corpus),
                    str(place / "seeds"),
                ),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        words = "".join(line for line in _lines(done.stdout) if not line.startswith(_NOISE))
        counted = re.search(r"number_of_executed_units:\s*(\d+)", words)
        inputs = int(counted[1]) if counted else 0
        cpu_seconds = _cpu_of_children() - cpu_begin
        result = Result(name, inputs, time.monotonic() - begin, cpu_seconds, guided=True)
        if not done.returncode:
            return result
        culprit = next((file for file in place.iterdir() if "-" in file.name), None)
        kept = None if culprit is None else str(shutil.copy(culprit, corpus.parent / f"{name}-found"))
        return msgspec.structs.replace(result, found=words[-3000:], kept=kept)


def _cpu_of_children() -> float:
    """Seconds that the children which have ended ran."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _lines(output: bytes) -> list[str]:
    return output.decode(errors="replace").splitlines(keepends=True)


def _word(lie: bytes) -> str:
    """As libFuzzer reads them."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in lie) + '"\n'


def _write_seeds(name: str, place: Path) -> None:
    (place / "scratch").mkdir()
    (place / "seeds").mkdir()
    for number, seed in enumerate(target_named(name, place / "scratch").seeds()):
        (place / "seeds" / str(number)).write_bytes(seed)


def _at_random(name: str, seconds: float, seed: int, corpus: Path) -> Result:
    with tempfile.TemporaryDirectory(prefix="raftstore-fuzz-", dir=memory()) as directory:
        scratch, begin, random = Path(directory).resolve(), time.monotonic(), Random(seed)
        target = target_named(name, scratch)
        guard, cpu_begin = Guard(scratch), time.process_time()
        inputs, data, found = 0, b"", None
        guard.warm_up(target)
        while found is None and (inputs == 0 or time.monotonic() - begin < seconds):
            data, inputs = _mutated(target, random), inputs + 1
            try:
                guard.run(target, data)
            except Exception:  # noqa: BLE001  (that is what is looked for)
                found = traceback.format_exc()
        seconds, cpu_seconds = time.monotonic() - begin, time.process_time() - cpu_begin
    result = Result(name, inputs, seconds, cpu_seconds, guided=False)
    if found is None:
        return result
    kept = corpus.parent / f"{name}-found"
    kept.write_bytes(data)
    return msgspec.structs.replace(result, found=found, kept=str(kept))


def _mutated(target: Target, random: Random) -> bytes:
    data = bytearray(random.choice(list(target.seeds())))
    for _ in range(random.choice([1, 1, 2, 4])):
        at, piece = random.randrange(len(data) + 1), random.choice(LIES)
        data[at : at if random.random() < 0.3 else at + len(piece)] = piece
    return bytes(data[: random.randrange(len(data) + 1) if random.random() < 0.1 else None])


if __name__ == "__main__":
    sys.exit(main())
