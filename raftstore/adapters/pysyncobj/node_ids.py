"""Node ids as text: for whom a node votes, and whose a store is."""

from __future__ import annotations

import ast
from typing import Final

from raftstore.errors import ConfigError
from raftstore.log import RaftLog

_LITERAL: Final = "literal:"
_NODE_KEY: Final = "pysyncobj.node"


def encode_id(node_id: object) -> str:
    """A text that names `node_id` and nothing else. PySyncObj's own ids, `host:port`, stay as they are.

    Other ids are written as Python literals: `literal:7`. Raises `TypeError` for what a literal cannot say.
    """
    if isinstance(node_id, str) and not node_id.startswith(_LITERAL):
        return node_id
    text = repr(node_id)
    if _is_literal(text, node_id):
        return _LITERAL + text
    raise TypeError(f"a node id is a string, a number, bytes or a tuple of them, not {node_id!r}")


def decode_id(text: str) -> object:
    """The id that `encode_id` wrote."""
    return ast.literal_eval(text.removeprefix(_LITERAL)) if text.startswith(_LITERAL) else text


def claim(log: RaftLog, node_id: object, *, adopt: bool) -> None:
    """Note that `log` is the store of `node_id`. Raises `ConfigError` if it is another's, unless `adopt`."""
    mine, owner = encode_id(node_id).encode(), log.get_meta(_NODE_KEY)
    if owner is not None and owner != mine and not adopt:
        raise ConfigError(
            f"{log.config.path} is the journal of node {owner.decode()!r}, not of {mine.decode()!r}; if the "
            "node moved, say so once: RaftStoreJournal(…, adopt=True) or install(…, adopt=True)"
        )
    if owner != mine:
        log.put_meta(_NODE_KEY, mine)


def _is_literal(text: str, value: object) -> bool:
    try:
        return bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError):
        return False
