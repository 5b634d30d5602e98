"""The report of a run: what was done with what, printed for people and kept for `page`.

A report is a JSON file. Beside it, in a file that ends in `.images`, are the names of all images that were
opened, so that several runs can be added up without counting an image twice.
"""

from __future__ import annotations

import shlex
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from raftstore.testing.crash.provenance import Provenance, provenance
from raftstore.testing.crash.tally import Counts, Planted, Tally

Images = Mapping[str, Mapping[str, set[int]]]
"""By backend and kind, the names of images."""


class Outcome(msgspec.Struct, frozen=True):
    """One backend's part of a run."""

    backend: str
    seed: int
    seconds: float
    unique: int
    """Different images that were opened."""
    kinds: Counts
    """The same by method, model and strategy; an image may be of several kinds."""
    tally: Tally
    """Without the names of the images."""


class Report(msgspec.Struct, frozen=True):
    """A whole run: what `--json` prints."""

    command: str
    made_with: Provenance
    outcomes: Sequence[Outcome]

    @property
    def has_failed(self) -> bool:
        return any(outcome.tally.has_failed for outcome in self.outcomes)


def outcome_of(backend: str, seed: int, seconds: float, tally: Tally) -> Outcome:
    """What `tally` counted."""
    kinds = {kind: len(names) for kind, names in sorted(tally.images.items())}
    bare = msgspec.structs.replace(tally, images={})
    return Outcome(backend, seed, round(seconds, 1), tally.unique, kinds, bare)


def report(outcomes: Sequence[Outcome]) -> Report:
    """What was done here and now, with what it was done."""
    command = shlex.join(["python", "-m", "raftstore.testing.crash", *sys.argv[1:]])
    return Report(command, provenance(), outcomes)


def save(path: Path, whole: Report, images: Images) -> None:
    """Write the report to `path`, and the names of the images beside it."""
    packed = {
        backend: {kind: array("Q", sorted(names)).tobytes() for kind, names in kinds.items()}
        for backend, kinds in images.items()
    }
    _images_of(path).write_bytes(msgspec.msgpack.encode(packed))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")


def load(path: Path) -> tuple[Report, Images]:
    """What `save` wrote."""
    packed = msgspec.msgpack.decode(_images_of(path).read_bytes(), type=dict[str, dict[str, bytes]])
    images = {
        backend: {kind: set(array("Q", names)) for kind, names in kinds.items()}
        for backend, kinds in packed.items()
    }
    return msgspec.json.decode(path.read_bytes(), type=Report), images


def _images_of(path: Path) -> Path:
    return path.with_suffix(".images")


def as_text(whole: Report) -> str:
    """Everything, one line a number."""
    lines: list[str] = []
    for outcome in whole.outcomes:
        lines += _text_of(outcome)
    return "\n".join([*lines, whole.made_with.text])


def _text_of(outcome: Outcome) -> list[str]:
    tally = outcome.tally
    lines = [
        f"{outcome.backend}: seed {outcome.seed}, {outcome.seconds:.0f} s",
        f"  images: {tally.generated} generated, {outcome.unique} different and opened, "
        f"at {tally.instants} instants",
    ]
    lines += [f"    {kind}: {count}" for kind, count in outcome.kinds.items()]
    lines.append(f"  kills: {tally.kills}; faults: {sum(tally.faults.values())} ({listed(tally.faults)})")
    if tally.done:
        lines.append(f"  {listed(tally.done)}")
    lines += [f"  {method}: {listed(counts)}" for method, counts in sorted(tally.verdicts.items())]
    if tally.planted:
        caught = [planted for planted in tally.planted if planted.verdict is not None]
        lines.append(f"  planted bugs caught: {len(caught)}/{len(tally.planted)}")
        missed = [planted for planted in tally.planted if planted.verdict is None]
        lines += [f"  NOT CAUGHT by {p.method}: {p.name}{_instead(p)}" for p in missed]
    lines += [f"  refused, as explained, {count} times: {why}" for why, count in tally.explained.items()]
    lines += [f"  SKIPPED: {note}" for note in tally.notes]
    for failure in tally.failures:
        where = f" (image in {failure.kept})" if failure.kept is not None else ""
        lines.append(f"  {failure.verdict}: {failure.where}{where}\n    {failure.words}")
    return lines


def _instead(missed: Planted) -> str:
    """What was found that the bug need not produce."""
    return f" ({' '.join(missed.words.split())})" if missed.words else ""


def listed(counts: Counts) -> str:
    """In one line."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
