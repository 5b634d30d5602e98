"""What is compared: cells, each a backend with a strategy and a flush policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Final

import msgspec

from raftstore.errors import BackendMissingError, ConfigError
from raftstore.policy import FlushPolicy
from raftstore.registry import backend_class, backend_names
from raftstore.spelling import POLICIES, STRATEGIES, check_policy, decode_choice, encode_short
from raftstore.storeconfig import Limits, StoreConfig
from raftstore.strategy import Strategy

DEFAULT_STRATEGIES: Final = ("DiskFirst", "MemFirst")
DEFAULT_POLICIES: Final = ("Immediate", "Batch:1000:10")

PATIENCE_MS: Final = 60_000
"""How long an append waits for room: a slow disk is to be measured, not to fail the run."""


class Cell(msgspec.Struct, frozen=True):
    """One way to keep a log."""

    backend: str
    strategy: Strategy
    flush_policy: FlushPolicy

    @property
    def names(self) -> tuple[str, str, str]:
        """Backend, strategy and flush policy as a config spells them."""
        return (
            self.backend,
            encode_short(self.strategy, STRATEGIES),
            encode_short(self.flush_policy, POLICIES),
        )

    def config(self, path: Path, *, cache_bytes: int | None = None) -> StoreConfig:
        """The config of a store of this cell at `path`; its defaults where nothing else is said."""
        limits = Limits(backpressure_timeout_ms=PATIENCE_MS)
        if cache_bytes is not None:
            limits = msgspec.structs.replace(limits, cache_bytes=cache_bytes)
        return StoreConfig(
            path=path,
            backend=self.backend,
            strategy=self.strategy,
            flush_policy=self.flush_policy,
            limits=limits,
        )


def installed_backends() -> tuple[list[str], list[str]]:
    """The registered backends that can be used here; and why each of the others cannot."""
    usable: list[str] = []
    missing: list[str] = []
    for name in backend_names():
        try:
            backend_class(name)
            usable.append(name)
        except BackendMissingError as error:
            missing.append(str(error))
    return usable, missing


def cells_of(backends: Iterable[str], strategies: Sequence[str], policies: Sequence[str]) -> list[Cell]:
    """Every combination.

    Raises `ConfigError` for an unknown name, `BackendMissingError` for an absent library.
    """
    names = list(backends)
    for name in names:
        backend_class(name)
    try:
        decoded = [decode_choice(text, STRATEGIES) for text in strategies]
        chosen = [_policy(text) for text in policies]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return [Cell(*combination) for combination in product(names, decoded, chosen)]


def _policy(text: str) -> FlushPolicy:
    policy: FlushPolicy = decode_choice(text, POLICIES)
    check_policy(policy)
    return policy
