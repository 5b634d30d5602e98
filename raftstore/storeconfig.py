"""The effective configuration of a store as a value: checked when made, and written down again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlencode

import msgspec
import tomli_w

from raftstore.errors import ConfigError
from raftstore.policy import FlushPolicy, Immediate
from raftstore.spelling import (
    INTERVAL_MS_MAX,
    POLICIES,
    STRATEGIES,
    check_policy,
    check_strategy,
    encode_choice,
    encode_short,
    format_size,
)
from raftstore.strategy import DiskFirst, Strategy

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=INTERVAL_MS_MAX)]
BackendName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]
"""Also the name of the engine's directory in the store: never a path, never that of another file there."""
Startup = Literal["lazy", "preload"]
Options = Mapping[str, Mapping[str, object]]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on everything. Sizes in bytes, durations in milliseconds."""

    cache_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 64 * MIB
    """DiskFirst: payloads kept in memory for reads, beside what is not durable yet."""
    memory_bytes_max: Bytes = GIB
    """MemFirst: the working set; above it appends get `BackpressureError`."""
    pending_bytes_max: Bytes = 16 * MIB
    """Accepted and not durable; reaching it makes the flush due at once."""
    entry_bytes_max: Bytes = 64 * MIB
    """The payload of one entry."""
    write_bytes_max: Bytes = 256 * MIB
    """The payloads of one call together."""
    backpressure_timeout_ms: Milliseconds = 1000
    """MemFirst: how long an append waits for room before `BackpressureError`."""
    lock_timeout_ms: Milliseconds = 2000
    """How long opening waits for a dying holder of the store."""


LIMIT_TYPES: Final[Mapping[str, Any]] = {field.name: field.type for field in msgspec.structs.fields(Limits)}
PLAIN_TYPES: Final[Mapping[str, Any]] = {"backend": BackendName, "startup": Startup, "create": bool}


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that opening a store needs. Immutable, comparable, hashable.

    `path` becomes absolute when the object is made. `backends` holds a table of options for each backend
    name; only those of `backend` are used. A flush policy may be any object with `due_s`; one that is not of
    this library cannot be written down. Raises `ConfigError` for a wrong type or a value out of its range;
    what only the backend's class knows (its name, its options) is checked by `raftstore.config.load`.
    """

    path: Path
    backend: str = "segmented"
    strategy: Strategy = DiskFirst()
    flush_policy: FlushPolicy = Immediate()
    startup: Startup = "lazy"
    create: bool = True
    """If false, an absent store is an error: an unmounted disk cannot become an empty log."""
    limits: Limits = Limits()
    backends: Options = {}

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "path", _absolute(self.path))
        _check(self)
        msgspec.structs.force_setattr(self, "backends", _frozen(self.backends))

    def __hash__(self) -> int:
        return hash((self.path, self.backend, self.startup, self.create, self.limits))

    @property
    def options(self) -> Mapping[str, object]:
        """The options of the chosen backend."""
        return self.backends.get(self.backend, {})

    def to_toml(self) -> str:
        """The whole config as TOML, defaults included.

        Raises `ConfigError` for what TOML cannot say: a flush policy of your own, a path that is not UTF-8.
        """
        section = {
            "path": _utf8(self.path),
            "backend": self.backend,
            "strategy": _decide("strategy", encode_choice, self.strategy, STRATEGIES),
            "flush_policy": _decide("flush_policy", encode_choice, self.flush_policy, POLICIES),
            "startup": self.startup,
            "create": self.create,
            "limits": _limit_texts(self.limits),
            "backends": {name: dict(options) for name, options in self.backends.items()},
        }
        text: str = _decide("backends", tomli_w.dumps, {"raftstore": section})
        return text

    def to_url(self) -> str:
        """The config as a URL, with what differs from the defaults.

        Raises `ConfigError` for what a URL cannot say: a flush policy of your own, an option that is a list.
        """
        defaults = _url_pairs(StoreConfig(path=self.path))
        pairs = {key: text for key, text in _url_pairs(self).items() if text != defaults.get(key)}
        query = urlencode(pairs, safe=":")
        return f"{self.backend}://{quote(os.fsencode(self.path))}" + (f"?{query}" if query else "")


CORE_KEYS: Final = tuple(key for key in StoreConfig.__struct_fields__ if key not in ("limits", "backends"))


def _absolute(path: object) -> Path:
    text: str = _decide("path", os.fsdecode, path)
    if not text or "\0" in text:
        raise ConfigError(f"{text!r} is not the path of a directory", key="path")
    return Path(text).absolute()


def _check(config: StoreConfig) -> None:
    for name, kind in PLAIN_TYPES.items():
        _decide(name, msgspec.convert, getattr(config, name), kind)
    _decide("strategy", check_strategy, config.strategy)
    _decide("flush_policy", check_policy, config.flush_policy)
    if not isinstance(config.limits, Limits):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"a Limits, not {config.limits!r}", key="limits")
    for name, kind in LIMIT_TYPES.items():
        _decide(f"limits.{name}", msgspec.convert, getattr(config.limits, name), kind)
    _decide("backends", msgspec.convert, config.backends, dict[BackendName, dict[str, Any]])


def _decide(key: str, decide: Callable[..., Any], *arguments: Any) -> Any:
    """`decide(*arguments)`; what it refuses becomes a `ConfigError` that names `key`."""
    try:
        return decide(*arguments)
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise ConfigError(str(error), key=key) from error


def _frozen(backends: Options) -> Options:
    """A read-only copy, in order, without the tables that say nothing."""
    tables = {name: dict(sorted(backends[name].items())) for name in sorted(backends) if backends[name]}
    return MappingProxyType({name: MappingProxyType(options) for name, options in tables.items()})


def _utf8(path: Path) -> str:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path!r} is not UTF-8, which TOML needs", key="path") from error
    return str(path)


def _limit_texts(limits: Limits) -> dict[str, int | str]:
    values = msgspec.structs.asdict(limits)
    return {name: format_size(value) if "bytes" in name else value for name, value in values.items()}


def _url_pairs(config: StoreConfig) -> dict[str, str]:
    pairs: dict[str, object] = {
        "strategy": _decide("strategy", encode_short, config.strategy, STRATEGIES),
        "flush_policy": _decide("flush_policy", encode_short, config.flush_policy, POLICIES),
        "startup": config.startup,
        "create": config.create,
    }
    pairs |= _limit_texts(config.limits)
    for name, options in config.backends.items():
        for key, value in options.items():
            is_own = name == config.backend and key not in CORE_KEYS and key not in LIMIT_TYPES
            pairs[key if is_own else f"backends.{name}.{key}"] = value
    return {key: _url_text(key, value) for key, value in pairs.items()}


def _url_text(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{value!r} cannot stand in a URL; use TOML", key=key)
