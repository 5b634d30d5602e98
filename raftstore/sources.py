"""Where a config comes from: a TOML file, a URL, the environment. Each becomes settings with their origin.

A setting is one leaf (`limits.cache_bytes`) with the place it was read from, so that an error found later
can still say where to look.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

import msgspec

from raftstore.errors import ConfigError
from raftstore.spelling import as_table

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX: Final = "RAFTSTORE_"
TEST_PREFIX: Final = "RAFTSTORE_TEST_"
"""Variables for test suites; they configure no store."""
FILE_BYTES_MAX: Final = 1 << 20

LEVELS_MAX: Final = 16
"""Tables within tables, as a key with dots names them. The parser takes memory by their square."""

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP: Final = re.compile(
    rf"(?:^|[\[{{,])[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{{LEVELS_MAX}}}", re.MULTILINE
)
_URL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.+-]*)://([^?#]*)(?:\?([^#]*))?")
_NO_EFFECT: Final = {"max_buffered_entries", "flush_workers", "channel_capacity", "shutdown_timeout_ms"}

Key = tuple[str, ...]


class Setting(msgspec.Struct, frozen=True):
    """One value and where it stood. `is_text`: a URL or the environment can say nothing but text."""

    value: Any
    label: str
    file: Path | None = None
    is_text: bool = False

    def refuse(self, reason: object) -> NoReturn:
        raise ConfigError(str(reason), file=self.file, key=self.label)


def is_url(source: str) -> bool:
    """True for `name://…`; everything else is the path of a file."""
    return "://" in source and re.match(r"[A-Za-z0-9][A-Za-z0-9_.+-]*://", source) is not None


def read_url(url: str) -> tuple[str, str, dict[str, Setting]]:
    """The backend, the path (still percent-encoded) and the flat settings of a URL."""
    match = _URL.fullmatch(url)
    if match is None or not match[2].startswith("/"):
        raise ConfigError(
            f"{url!r} is no store: write backend:///absolute/path?key=value&…, with %3F for ? and %23 for #",
            key="url",
        )
    return match[1], match[2], _read_query(match[3] or "")


def _read_query(query: str) -> dict[str, Setting]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:
        raise ConfigError(f"{query!r} is not key=value&key=value: {error}", key="url") from error
    settings: dict[str, Setting] = {}
    for key, value in pairs:
        if key in settings:
            settings[key].refuse("given twice; once is allowed")
        settings[key] = Setting(value, key, is_text=True)
    return settings


def read_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    """The flat settings of all `RAFTSTORE_*` variables, in lower case without the prefix.

    An empty variable counts as not set; `RAFTSTORE_TEST_*` belongs to test suites.
    """
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): Setting(value, name, is_text=True)
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(TEST_PREFIX) and value
    }


def read_toml(file: Path) -> dict[Key, Setting]:
    """The settings of the sections `[raft.persistence]` and, stronger, `[raftstore]` of a file.

    Other tables of the file belong to others.
    """
    document = _parse(file)
    ours = _table(document, "raftstore", file)
    raft = as_table(document.get("raft"))
    theirs = _table(raft, "persistence", file) if raft else None
    if ours is None and theirs is None:
        raise ConfigError("no [raftstore] section", file=file, key="raftstore")
    settings = dict(_persistence(theirs or {}, file))
    return settings | dict(_leaves(ours or {}, file))


def _parse(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except IsADirectoryError as error:
        message = "a directory, not a config file; a store is opened as segmented:///absolute/path"
        raise ConfigError(message, file=file) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"longer than {FILE_BYTES_MAX} bytes", file=file)
    try:
        text = raw.decode()
        too_deep = _DEEP.search(text) is not None
        document = {} if too_deep else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", file=file) from error
    if too_deep:
        raise ConfigError(f"a key has more than {LEVELS_MAX} parts", file=file)
    return document


def _table(parent: dict[str, Any], name: str, file: Path) -> dict[str, Any] | None:
    table = as_table(parent.get(name))
    if table is None and name in parent:
        raise ConfigError("must be a table", file=file, key=name)
    return table


def _leaves(section: dict[str, Any], file: Path) -> Iterator[tuple[Key, Setting]]:
    """The settings of `[raftstore]`: its own keys, those of `limits`, and those of each backend."""
    depths = {"limits": 1, "backends": 2}
    for name, value in section.items():
        yield from _descend((name,), value, depths.get(name, 0), file)


def _descend(key: Key, value: Any, depth: int, file: Path) -> Iterator[tuple[Key, Setting]]:
    setting = Setting(value, ".".join(("raftstore", *key)), file)
    if depth == 0:
        yield key, setting
        return
    table = as_table(value)
    if table is None:
        setting.refuse("must be a table")
    for name, inner in table.items():
        yield from _descend((*key, name), inner, depth - 1, file)


def _persistence(section: dict[str, Any], file: Path) -> Iterator[tuple[Key, Setting]]:
    """The settings of d-engine's section, in the spellings of all its versions."""
    for name, value in section.items():
        setting = Setting(value, f"raft.persistence.{name}", file)
        if name in _NO_EFFECT:
            logger.warning("%s: %s has no effect on a raftstore", file, setting.label)
        elif name == "strategy":
            yield (name,), setting
        elif name == "flush_policy":
            yield (name,), msgspec.structs.replace(setting, value=_without_idle_timer(value))
        else:
            allowed = ", ".join(["strategy", "flush_policy", *sorted(_NO_EFFECT)])
            setting.refuse(f"unknown key; allowed are {allowed}")


def _without_idle_timer(policy: Any) -> Any:
    """d-engine 0.2.4 flushes after each write; its `idle_flush_interval_ms` is a timer beside that."""
    fields = as_table((as_table(policy) or {}).get("Batch")) or {}
    return "Immediate" if list(fields) == ["idle_flush_interval_ms"] else policy
