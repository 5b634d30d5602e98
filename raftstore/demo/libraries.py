"""The Raft libraries that a demo can run: what each needs, and what can be asked of it."""

from __future__ import annotations

from importlib import import_module
from typing import Final, get_args

import msgspec

from raftstore.demo.messages import JournalKind, Library, Plant
from raftstore.errors import BackendMissingError, ConfigError


class LibraryFacts(msgspec.Struct, frozen=True):
    """One library."""

    title: str
    needs: str
    """The module that must be there; importing it says what is missing."""
    extra: str
    member: str
    """The module whose `make` starts a member."""
    plants: tuple[Plant, ...]
    has_own_journal: bool
    """It can run without raftstore, on PySyncObj's journal."""


_EVERY_PLANT: Final[tuple[Plant, ...]] = get_args(Plant)

LIBRARIES: Final[dict[Library, LibraryFacts]] = {
    "pysyncobj": LibraryFacts(
        "PySyncObj",
        "raftstore.adapters.pysyncobj",
        "pysyncobj",
        "raftstore.demo.member_pysyncobj",
        _EVERY_PLANT,
        True,
    ),
    "patroni": LibraryFacts(
        "Patroni's KVStoreTTL",
        "patroni.dcs.raft",
        "patroni",
        "raftstore.demo.member_patroni",
        _EVERY_PLANT,
        True,
    ),
    "asyncio": LibraryFacts(
        "the asyncio example",
        "raftstore_asyncio_kv.node",
        "all",
        "raftstore.demo.member_asyncio",
        ("forgotten-suffix",),
        False,
    ),
}


def check(library: Library, journal: JournalKind = "raftstore", plant: Plant | None = None) -> None:
    """Raise `BackendMissingError` if the library is not installed, `ConfigError` for what it cannot do."""
    facts = LIBRARIES[library]
    if journal != "raftstore" and not facts.has_own_journal:
        raise ConfigError(
            f"{facts.title} runs on raftstore only, not with --journal {journal}", key="journal"
        )
    if plant is not None and plant not in facts.plants:
        known = ", ".join(facts.plants)
        raise ConfigError(f"in {facts.title} these bugs can be planted: {known}; not {plant}", key="plant")
    if plant is not None and journal != "raftstore":
        raise ConfigError("a bug is planted into raftstore's journal, not into PySyncObj's own", key="plant")
    try:
        import_module(facts.needs)
    except ModuleNotFoundError as error:
        remedy = f"pip install 'raftstore[{facts.extra}]'"
        raise BackendMissingError(f"{facts.title} is not installed: {remedy}") from error
