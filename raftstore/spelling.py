"""How sizes, strategies and flush policies are spelled in a deployment config, and read back.

One table maps the names to the classes. A value with fields has a table form, `{ Batch = { threshold =
1000, interval = 10 } }`, and a short form for URLs and the environment, `Batch:1000:10`. Everything here
raises ValueError with a message that says what is allowed; `config.py` adds where it stood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from raftstore.policy import Batch, Immediate
from raftstore.strategy import DiskFirst, MemFirst

Choices = Mapping[str, type[msgspec.Struct] | None]
"""From a name in a config to its class; None for a name that this version does not offer yet."""

STRATEGIES: Final[Choices] = {"DiskFirst": DiskFirst, "MemFirst": MemFirst}
POLICIES: Final[Choices] = {"Immediate": Immediate, "Batch": Batch, "Adaptive": None}

THRESHOLD_MAX: Final = 1_000_000_000
"""Entries."""
INTERVAL_MS_MAX: Final = 86_400_000
"""One day: the bound of every duration in a config."""

_UNITS: Final = {"B": 1} | {
    f"{prefix}{infix}B": base ** (power + 1)
    for infix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("KMGT")
}
_SIZE: Final = re.compile(r"([0-9]{1,19}) ?([KMGT]?i?B)")
_SYNONYMS: Final = {"interval_ms": "interval"}


def parse_size(text: str) -> int:
    """The bytes that `text` means: digits and a unit, binary (`64MiB`) or decimal (`64MB`)."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size: write bytes as 65536 or with a unit, as 64KiB, 64MiB or 1GB")
    unit: int = _UNITS[match[2]]
    return int(match[1]) * unit


def format_size(size: int) -> int | str:
    """`size` in the largest binary unit that divides it; the number itself if none does."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return size


def as_table(value: object) -> dict[str, Any] | None:
    """`value` if it is a table of a config, else None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def decode_choice(value: object, choices: Choices) -> Any:
    """The object that `value`, a short form or a table with one name, means among `choices`."""
    if isinstance(value, str):
        name, *arguments = value.split(":")
        kind = _choose(name, choices)
        return _make(name, kind, _short_fields(name, kind, arguments), strict=False)
    table = as_table(value)
    if table is not None and len(table) == 1:
        ((name, inner),) = table.items()
        kind, given = _choose(name, choices), as_table(inner)
        if given is None:
            raise ValueError(f"{name} takes a table, such as {example(kind)}")
        return _make(name, kind, dict(given), strict=True)
    raise ValueError(f"{value!r} is not one of {_names(choices)}, nor a table with one of these names")


def encode_choice(choice: object, choices: Choices) -> str | dict[str, dict[str, Any]]:
    """The name of `choice`, or its table form if a field differs from its default."""
    name, fields = _changed_fields(choice, choices)
    return {name: fields} if fields else name


def encode_short(choice: object, choices: Choices) -> str:
    """The short form of `choice`: a flag is its name, every other field its value."""
    name, fields = _changed_fields(choice, choices)
    return ":".join([name, *(key if value is True else str(value) for key, value in fields.items())])


def example(kind: type[msgspec.Struct]) -> str:
    """The short form of `kind` with the names of its fields in place of values."""
    return ":".join([kind.__name__, *(field.name for field in msgspec.structs.fields(kind))])


def check_strategy(strategy: object) -> None:
    """Raise ValueError if `strategy` is none of this library's, or a field of it has a wrong type."""
    encode_choice(strategy, STRATEGIES)
    assert isinstance(strategy, msgspec.Struct)
    try:
        msgspec.convert(msgspec.structs.asdict(strategy), type(strategy))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def check_policy(policy: object) -> None:
    """Raise ValueError if `policy` is no flush policy, or has a value out of its range."""
    if not callable(getattr(policy, "due_s", None)):
        raise ValueError(f"{policy!r} is no flush policy: it has no method due_s")
    if isinstance(policy, Batch):
        _check_range("threshold", policy.threshold, THRESHOLD_MAX)
        _check_range("interval", policy.interval, INTERVAL_MS_MAX)


def _check_range(name: str, value: object, top: int) -> None:
    if type(value) is not int or not 1 <= value <= top:
        raise ValueError(f"{name} is an integer from 1 to {top}, not {value!r}")


def _choose(name: object, choices: Choices) -> type[msgspec.Struct]:
    if name not in choices:
        raise ValueError(f"{name!r} is not one of {_names(choices)}")
    kind = choices[str(name)]
    if kind is None:
        raise ValueError(f"{name} is not available in this version; use one of {_names(choices)}")
    return kind


def _names(choices: Choices) -> str:
    return ", ".join(name for name, kind in choices.items() if kind is not None)


def _short_fields(name: str, kind: type[msgspec.Struct], arguments: list[str]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    if len(arguments) > len(fields):
        raise ValueError(f"{name} takes no more than {example(kind)}")
    given: dict[str, Any] = {}
    for field, argument in zip(fields, arguments, strict=False):
        if field.type is bool and argument != field.name:
            raise ValueError(f"{name} takes {example(kind)}, not {argument!r}")
        given[field.name] = True if field.type is bool else argument
    return given


def _make(name: str, kind: type[msgspec.Struct], given: dict[str, Any], *, strict: bool) -> Any:
    known = [field.name for field in msgspec.structs.fields(kind)]
    for synonym, key in _SYNONYMS.items():
        if synonym in given and key in known and key not in given:
            given[key] = given.pop(synonym)
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"{name} has no key {unknown[0]!r}; allowed are {', '.join(known) or 'none'}")
    try:
        return msgspec.convert(given, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}; write it as {example(kind)}") from error


def _changed_fields(choice: object, choices: Choices) -> tuple[str, dict[str, Any]]:
    name = next((name for name, kind in choices.items() if kind is type(choice)), None)
    if name is None or not isinstance(choice, msgspec.Struct):
        raise ValueError(f"{choice!r} cannot be written down: it is not one of {_names(choices)}")
    fields = msgspec.structs.fields(choice)
    values = {field.name: getattr(choice, field.name) for field in fields}
    return name, {field.name: values[field.name] for field in fields if values[field.name] != field.default}
