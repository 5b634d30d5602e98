"""A backend's own options: the keyword-only parameters of its class, checked before anything is touched.

A name that begins with `_` is private to the backend and its tests. A parameter's annotation is its type; a
range can be part of it, as `Annotated[int, msgspec.Meta(ge=4096)]`. An integer may be written as a size.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import msgspec

from raftstore.backend import DiskBackend
from raftstore.spelling import parse_size


def option_types(backend: type[DiskBackend]) -> dict[str, Any] | None:
    """The options of `backend` and the type of each, or None if it takes any (`**options`)."""
    parameters = inspect.signature(backend.__init__).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    types = _hints(backend)
    return {
        parameter.name: types.get(parameter.name, Any)
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and not parameter.name.startswith("_")
    }


def decode_value(value: Any, kind: Any, *, lax: bool, sizes: bool) -> Any:
    """`value` as a `kind`; `lax` also reads `true` and `10` from text, `sizes` also `64KiB`.

    Raises ValueError that says what is allowed.
    """
    try:
        return msgspec.convert(value, kind, strict=not lax)
    except msgspec.ValidationError as error:
        size = _size(value) if sizes else None
        if size is None:
            hint = ", or a size such as 64MiB" if sizes and "`int`" in str(error) else ""
            raise ValueError(f"{error}{hint}; got {value!r}") from error
    return decode_value(size, kind, lax=False, sizes=False)


def _size(value: object) -> int | None:
    try:
        return parse_size(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _hints(backend: type[DiskBackend]) -> dict[str, Any]:
    """The evaluated annotations; none of them if one names what exists only for type checkers."""
    try:
        return get_type_hints(backend.__init__, include_extras=True)
    except NameError:
        return {}
