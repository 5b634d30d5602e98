"""Loads a deployment config: which store, which strategy, which policy, which limits.

An unknown key, a wrong type or a value out of its range is a `ConfigError` that names file, key and what is
allowed, before anything is touched. Written down (`to_toml`, `to_url`) and loaded again, a config is equal.

    [raftstore]
    path = "/var/lib/n1/raft"            # relative: to the directory of this file
    backend = "segmented"
    strategy = "DiskFirst"               # or "MemFirst", { MemFirst = { sync_on_commit = true } }
    flush_policy = "Immediate"           # or { Batch = { threshold = 1000, interval = 10 } }: entries, ms
    startup = "lazy"                     # or "preload"
    create = true

    [raftstore.limits]
    cache_bytes = "64MiB"

    [raftstore.backends.segmented]
    segment_bytes = "64MiB"

A URL is `backend://` + absolute path + `?key=value&…`. Its keys, and `RAFTSTORE_<KEY>` in the environment,
are flat: the keys above, those of `limits`, and the options of the chosen backend. Another backend's option
is `backends.NAME.OPTION` in a URL. The environment overrides a TOML file, and nothing else: what stands in
code is meant. d-engine's `[raft.persistence]` is read too; a key of `[raftstore]` is stronger.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from raftstore import registry
from raftstore.errors import BackendMissingError, ConfigError
from raftstore.options import decode_value, option_types
from raftstore.sources import Key, Setting, is_url, read_environment, read_toml, read_url
from raftstore.spelling import POLICIES, STRATEGIES, check_policy, decode_choice
from raftstore.storeconfig import CORE_KEYS, LIMIT_TYPES, PLAIN_TYPES, Limits, StoreConfig

__all__ = ["Limits", "StoreConfig", "load"]

Tables = dict[str, dict[str, Setting]]


def load(
    source: StoreConfig | str | os.PathLike[str], environ: Mapping[str, str] = os.environ
) -> StoreConfig:
    """The checked config that `source` means: a URL, the path of a TOML file, or a config itself.

    `environ` overrides a TOML file: `RAFTSTORE_STRATEGY=MemFirst`, `RAFTSTORE_CACHE_BYTES=1MiB`. There an
    unknown `RAFTSTORE_*` variable is an error, an empty one counts as not set, and `RAFTSTORE_TEST_*` is left
    to test suites. The options of a backend whose library is missing are not checked; opening then raises
    `BackendMissingError`. Raises `ConfigError`; changes nothing.
    """
    if isinstance(source, StoreConfig):
        return _with_checked_options(source)
    if isinstance(source, str) and is_url(source):
        return _build(_url_settings(source))
    if isinstance(source, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _build(_file_settings(Path(os.fsdecode(source)), environ))
    raise ConfigError(f"{source!r} is no config: give a URL, the path of a TOML file or a StoreConfig")


def _with_checked_options(config: StoreConfig) -> StoreConfig:
    origin = Setting(config.backend, "backend")
    tables: Tables = {
        name: {key: Setting(value, f"backends.{name}.{key}") for key, value in options.items()}
        for name, options in config.backends.items()
    }
    return msgspec.structs.replace(config, backends=_decode_tables(origin, tables))


def _url_settings(url: str) -> dict[Key, Setting]:
    backend, path, flat = read_url(url)
    for name in ("path", "backend"):
        if name in flat:
            flat[name].refuse("stands before the ? of a URL")
    try:
        decoded = os.fsdecode(unquote_to_bytes(path))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{url!r} is not UTF-8", key="url") from error
    settings: dict[Key, Setting] = {("path",): Setting(decoded, "url"), ("backend",): Setting(backend, "url")}
    return settings | _placed(flat, backend)


def _file_settings(file: Path, environ: Mapping[str, str]) -> dict[Key, Setting]:
    settings, flat = read_toml(file), read_environment(environ)
    settings |= _placed({name: flat.pop(name) for name in CORE_KEYS if name in flat}, "")
    if ("path",) not in settings:
        raise ConfigError("required: the store's directory, here or in RAFTSTORE_PATH", file=file, key="path")
    return settings | _placed(flat, str(_backend(settings).value))


def _backend(settings: Mapping[Key, Setting]) -> Setting:
    return settings.get(("backend",)) or Setting("segmented", "backend")


def _placed(flat: Mapping[str, Setting], backend: str) -> dict[Key, Setting]:
    """Flat keys in their place: the core's, a limit's, or else an option of `backend`."""
    return {_place(name, backend): setting for name, setting in flat.items()}


def _place(name: str, backend: str) -> Key:
    if name in CORE_KEYS:
        return (name,)
    if name in LIMIT_TYPES:
        return ("limits", name)
    if name.startswith("backends.") and name.count(".") == 2:
        return tuple(name.split("."))
    return ("backends", backend, name)


def _build(settings: Mapping[Key, Setting]) -> StoreConfig:
    core: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    tables: Tables = {}
    for key, setting in settings.items():
        match key:
            case ("limits", name):
                limits[name] = _decode("limits", name, setting)
            case ("backends", name, option):
                tables.setdefault(name, {})[option] = setting
            case _:
                core[key[0]] = _decode("core", key[0], setting)
    backends = _decode_tables(_backend(settings), tables)
    return StoreConfig(**core, limits=Limits(**limits), backends=backends)


def _decode(section: str, name: str, setting: Setting) -> Any:
    allowed = LIMIT_TYPES if section == "limits" else (*CORE_KEYS, "limits", "backends")
    if name not in allowed:
        setting.refuse(f"unknown key; allowed are {', '.join(allowed)}")
    try:
        return _limit_value(name, setting) if section == "limits" else _core_value(name, setting)
    except ValueError as error:
        return setting.refuse(error)


def _limit_value(name: str, setting: Setting) -> int:
    value: int = decode_value(setting.value, LIMIT_TYPES[name], lax=setting.is_text, sizes="bytes" in name)
    return value


def _core_value(name: str, setting: Setting) -> Any:
    match name:
        case "path":
            return _path_value(setting)
        case "strategy":
            return decode_choice(setting.value, STRATEGIES)
        case "flush_policy":
            policy = decode_choice(setting.value, POLICIES)
            check_policy(policy)
            return policy
        case _:
            return decode_value(setting.value, PLAIN_TYPES[name], lax=setting.is_text, sizes=False)


def _path_value(setting: Setting) -> Path:
    """A relative path in a file is meant from the file's directory; elsewhere it must be absolute."""
    text = setting.value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{text!r} is not the path of a directory")
    if setting.file is not None:
        return setting.file.absolute().parent / text
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must be an absolute path")
    return Path(text)


def _decode_tables(backend: Setting, tables: Tables) -> dict[str, dict[str, Any]]:
    """The options of every table, checked against their backend's class. `backend` itself must exist too."""
    origins = {backend.value: backend} | {name: next(iter(given.values())) for name, given in tables.items()}
    decoded: dict[str, dict[str, Any]] = {}
    for name, origin in origins.items():
        types = _option_types(name, backend if name == backend.value else origin)
        given = tables.get(name, {})
        decoded[name] = {key: _option_value(key, setting, types) for key, setting in given.items()}
    return decoded


def _option_types(name: str, origin: Setting) -> dict[str, Any] | None:
    """None if nothing is known: the backend takes anything, or its library is missing."""
    try:
        return option_types(registry.backend_class(name))
    except BackendMissingError:
        return None
    except ConfigError as error:
        return origin.refuse(str(error).removeprefix("backend: "))


def _option_value(key: str, setting: Setting, types: Mapping[str, Any] | None) -> Any:
    if key.startswith("_") or (types is not None and key not in types):
        setting.refuse(f"unknown key; the options of this backend are {', '.join(types or ()) or 'none'}")
    try:
        kind = Any if types is None else types[key]
        return decode_value(setting.value, kind, lax=setting.is_text, sizes=True)
    except ValueError as error:
        return setting.refuse(error)
