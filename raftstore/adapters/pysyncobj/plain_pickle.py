"""Pickles of plain values from a file that may be damaged or hostile: nothing is called, memory stays small.

The standard unpickler takes memory by what a pickle says: a place in its memo, or a length, of billions. And
a few bytes can name a value of many parts that share themselves, which would be endless to write out.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, Final

PARTS_MAX: Final = 1000
"""Of the whole value, each counted as often as it would be written out."""
DEPTH_MAX: Final = 20
DIGITS_BYTES_MAX: Final = 64
"""Of a number."""
_MEMO: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"})


def loads(data: bytes) -> Any:
    """The value: numbers, text, bytes and containers of them, small enough to be written out.

    Raises any `Exception` for anything else: damaged bytes do.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _MEMO and not 0 <= int(argument or 0) <= len(data):
            raise pickle.UnpicklingError(f"it names part {argument} of itself")
        if opcode.name == "BYTEARRAY8":
            raise pickle.UnpicklingError("it holds bytes that can change")
    value = _PlainUnpickler(io.BytesIO(data)).load()
    _count(value, PARTS_MAX, DEPTH_MAX)
    return value


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, text and containers; whatever has to be looked up by name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain values are read")


def _count(value: Any, room: int, depth: int) -> int:
    """How much of `room` is left after all parts of `value`."""
    if isinstance(value, dict):
        parts: list[Any] = [*value, *value.values()]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    else:
        parts = [*value] if isinstance(value, list | tuple | set | frozenset) else []  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, int) and value.bit_length() > 8 * DIGITS_BYTES_MAX:
        raise pickle.UnpicklingError(f"it holds a number of more than {DIGITS_BYTES_MAX} bytes")
    room -= 1
    if room < 0 or depth < 0:
        raise pickle.UnpicklingError(f"it holds more than {PARTS_MAX} parts, or is {DEPTH_MAX} deep")
    for part in parts:
        room = _count(part, room, depth - 1)
    return room
