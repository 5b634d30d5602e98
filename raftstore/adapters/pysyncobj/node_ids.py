"""Node ids as text: how a vote of PySyncObj becomes the vote of a hard state, and back."""

from __future__ import annotations

import ast
from typing import Final

_LITERAL: Final = "literal:"


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


def _is_literal(text: str, value: object) -> bool:
    try:
        return bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError):
        return False
