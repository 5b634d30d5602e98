"""What `benchmarks.profile` found: kept beside the results, shown as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.result import Target

PROFILE_JSON: Final = "profile.json"


class Profiled(msgspec.Struct, frozen=True):
    """One row. Microseconds are those of a round: a call of one caller, an entry of every proposer."""

    name: str
    target: Target
    layers: dict[str, float]
    calls: dict[str, float]
    limit_us: float
    ours_us: float
    compiled_us: float
    ratio: float
    compiled_ratio: float

    @property
    def rest_us(self) -> float:
        """What is neither the disk nor the interpreter: switching threads, other calls of the system."""
        return self.ours_us - self.limit_us - sum(self.layers.values())


class Profile(msgspec.Struct, frozen=True):
    """Taken together, on one machine."""

    when: str
    machine: dict[str, str]
    rows: list[Profiled]


def read_profile(json: Path) -> Profile | None:
    """The profile beside the results in `json`, if there is one."""
    path = json.with_name(PROFILE_JSON)
    return msgspec.json.decode(path.read_bytes(), type=Profile) if path.exists() else None


def write_profile(json: Path, found: Profile) -> None:
    json.with_name(PROFILE_JSON).write_bytes(
        msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    )


def tables(found: Profile) -> list[str]:
    """What a round takes and where; then the ratios; then the system calls."""
    head = [
        "`--only`",
        "ours, µs",
        "the disk (limit)",
        *(found.rows[0].layers if found.rows else ()),
        "the rest",
    ]
    lines = _table(head, [_micros(row) for row in found.rows])
    head = ["`--only`", "target", "as it is", "compiled", "compiled, µs", "met if compiled"]
    lines += ["", *_table(head, [_ratios(row) for row in found.rows])]
    return [*lines, "", *(f"- `{row.name}`: {_named(row.calls)}" for row in found.rows)]


def _micros(row: Profiled) -> list[str]:
    numbers = [row.ours_us, row.limit_us, *row.layers.values(), row.rest_us]
    return [f"`{row.name}`", *(f"{number:,.1f}" for number in numbers)]


def _ratios(row: Profiled) -> list[str]:
    is_met = "yes" if row.target.is_met(row.compiled_ratio) else "no"
    ratios = [f"{row.ratio:.3f}", f"{row.compiled_ratio:.3f}"]
    return [f"`{row.name}`", f"≥ {row.target.bound:g}", *ratios, f"{row.compiled_us:,.1f}", is_met]


def _named(calls: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:.1f}" for name, count in calls.items()) or "strace is not installed"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
