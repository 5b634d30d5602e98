"""One operation of one client on one register, as that client saw it."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["read", "write", "cas"]
Outcome = Literal["ok", "fail", "unknown"]


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, when, and what is known of it. A register that was never written holds None.

    All times of a history come from one monotonic clock; equal times count as concurrent. The outcomes:

    | | read | write | cas |
    |---|---|---|---|
    | ok | it returned `value` | it stored `value` | the register held `expected`; it stored `value` |
    | fail | nothing is known | it never takes effect | the register held something else |
    | unknown | nothing is known | it takes effect after the invocation, or never | the same, if as ok |

    A cas that certainly was not carried out has the outcome unknown, too: that says less, and is true.
    """

    client: str
    key: str
    kind: Kind
    outcome: Outcome
    invoked_ns: int
    returned_ns: int | None = None
    """None if it never returned; its outcome is unknown then."""
    value: str | None = None
    """What it stores; of a read, what it returned."""
    expected: str | None = None
    """Of a cas."""

    def __post_init__(self) -> None:
        if self.kind != "read" and self.value is None:
            raise ValueError(f"a {self.kind} stores a value, and None is none")
        if self.outcome != "unknown" and self.returned_ns is None:
            raise ValueError(f"{self.outcome} is the outcome of an operation that returned")
        if self.returned_ns is not None and self.returned_ns < self.invoked_ns:
            raise ValueError("it returned before it was invoked")

    @property
    def may_store(self) -> bool:
        return self.kind != "read" and self.outcome != "fail"

    @property
    def needs(self) -> tuple[str | None] | None:
        """The value that the register certainly held when this took effect; None if that is not known."""
        if self.outcome != "ok" or self.kind == "write":
            return None
        return (self.value,) if self.kind == "read" else (self.expected,)

    def on(self, state: str | None) -> tuple[str | None] | None:
        """What the register holds after this met `state`; None if its outcome would be another then."""
        if self.kind == "write":
            return (self.value,)
        if self.kind == "read":
            return (state,) if state == self.value else None
        if self.outcome == "fail":
            return (state,) if state != self.expected else None
        return (self.value,) if state == self.expected else None

    def __str__(self) -> str:
        match self.kind, self.outcome:
            case "read", "ok":
                return f"read, returned {_quoted(self.value)}"
            case "read", _:
                return "read"
            case "write", _:
                return f"write {_quoted(self.value)}"
            case _:
                return f"cas {_quoted(self.expected)} to {_quoted(self.value)}"


def _quoted(value: str | None) -> str:
    return "nothing" if value is None else f'"{value}"'
