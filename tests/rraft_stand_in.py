"""The classes of rraft-py that the adapter touches, in Python, with the traits that bite.

Messages are owners; what a getter returns from inside one is a reference, dead once its owner is gone. What
crosses from a storage into raft-rs must have the right type, and of exceptions only `StoreError` around a
storage error passes: anything else is a panic, which is no `Exception`.
"""

from __future__ import annotations

import copy
import json
import weakref
from typing import Any, ClassVar


class RaftError(Exception): ...


class RaftStorageError(Exception): ...


class StoreError(RaftError): ...


class CompactedError(RaftStorageError): ...


class UnavailableError(RaftStorageError): ...


class SnapshotOutOfDateError(RaftStorageError): ...


class SnapshotTemporarilyUnavailableError(RaftStorageError): ...


class OtherError(RaftStorageError): ...


class DestroyedRefUsedError(Exception): ...


class PanicException(BaseException): ...


class EntryType:
    EntryNormal: ClassVar[EntryType]
    EntryConfChange: ClassVar[EntryType]

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntryType) and other._number == self._number

    def __hash__(self) -> int:
        return self._number


EntryType.EntryNormal = EntryType(0)
EntryType.EntryConfChange = EntryType(1)


class Message:
    """An owner. `get_x`, `set_x` and `encode` work on it and on its `Ref`."""

    FIELDS: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {name: copy.deepcopy(value) for name, value in self.FIELDS.items()}

    @classmethod
    def default(cls) -> Any:
        return cls()

    @classmethod
    def decode(cls, data: bytes) -> Any:
        if not isinstance(data, bytes):
            raise TypeError("argument 'v': a bytes-like object is required")
        return _from_plain(cls, json.loads(data))

    def make_ref(self) -> Ref:
        return Ref(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "fields":
            raise AttributeError(name)
        return getattr(Ref(self), name)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.fields == self.fields

    __hash__ = None  # type: ignore[assignment]


class Ref:
    """What rraft calls `EntryRef`, `HardStateRef` and so on."""

    def __init__(self, owner: Message) -> None:
        self._owner = weakref.ref(owner)

    def _alive(self) -> Message:
        owner = self._owner()
        if owner is None:
            raise DestroyedRefUsedError("Cannot use a destroyed object's reference!")
        return owner

    def encode(self) -> bytes:
        return json.dumps(_to_plain(self._alive())).encode()

    def clone(self) -> Message:
        return copy.deepcopy(self._alive())

    def __bool__(self) -> bool:
        owner = self._alive()
        return not isinstance(owner, Snapshot) or owner.fields["metadata"].fields["index"] != 0

    def __getattr__(self, name: str) -> Any:
        verb, _, field = name.partition("_")
        if verb not in ("get", "set") or field not in self._alive().fields:
            raise AttributeError(name)
        return _Getter(self, field) if verb == "get" else _Setter(self, field)


class _Getter:
    def __init__(self, ref: Ref, field: str) -> None:
        self._ref, self._field = ref, field

    def __call__(self) -> Any:
        value = self._ref._alive().fields[self._field]
        return Ref(value) if isinstance(value, Message) else value


class _Setter:
    def __init__(self, ref: Ref, field: str) -> None:
        self._ref, self._field = ref, field

    def __call__(self, value: Any) -> None:
        fields = self._ref._alive().fields
        value = value.clone() if isinstance(value, Message | Ref) else value
        if type(value) is not type(fields[self._field]):
            raise TypeError(f"argument of set_{self._field}: {value!r}")
        if type(value) is int and not 0 <= value < 2**64:
            raise OverflowError(f"argument of set_{self._field}: {value!r}")
        fields[self._field] = value


class Entry(Message):
    FIELDS: ClassVar[dict[str, Any]] = {
        "entry_type": EntryType.EntryNormal,
        "term": 0,
        "index": 0,
        "data": b"",
        "context": b"",
    }


class HardState(Message):
    FIELDS: ClassVar[dict[str, Any]] = {"term": 0, "vote": 0, "commit": 0}


class ConfState(Message):
    FIELDS: ClassVar[dict[str, Any]] = {"voters": [], "learners": []}

    def __init__(self, voters: list[int] | None = None, learners: list[int] | None = None) -> None:
        super().__init__()
        self.fields.update(voters=voters or [], learners=learners or [])


class SnapshotMetadata(Message):
    FIELDS: ClassVar[dict[str, Any]] = {"conf_state": ConfState(), "term": 0, "index": 0}


class Snapshot(Message):
    FIELDS: ClassVar[dict[str, Any]] = {"data": b"", "metadata": SnapshotMetadata()}


class RaftState(Message):
    FIELDS: ClassVar[dict[str, Any]] = {"hard_state": HardState(), "conf_state": ConfState()}

    def __init__(self, hard_state: Any, conf_state: Any) -> None:
        super().__init__()
        self.make_ref().set_hard_state(hard_state)
        self.make_ref().set_conf_state(conf_state)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Message):
        return {name: _to_plain(field) for name, field in value.fields.items()}
    if isinstance(value, EntryType):
        return int(value)
    return value.hex() if isinstance(value, bytes) else value


def _from_plain(kind: type[Message], plain: dict[str, Any]) -> Any:
    message = kind.__new__(kind)
    message.fields = {name: _field(value, plain[name]) for name, value in kind.FIELDS.items()}
    return message


def _field(example: Any, plain: Any) -> Any:
    if isinstance(example, Message):
        return _from_plain(type(example), plain)
    if isinstance(example, EntryType):
        return EntryType(plain)
    return bytes.fromhex(plain) if isinstance(example, bytes) else plain


class Storage:
    """How raft-rs calls a storage: the errors it takes, the types it extracts. Everything else panics."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def initial_state(self) -> Any:
        return self._call(RaftState, "initial_state")

    def entries(self, low: int, high: int, max_size: int | None) -> Any:
        found = self._call(list, "entries", low, high, object(), max_size)
        if any(not isinstance(entry, Entry | Ref) for entry in found):
            raise PanicException("entries")
        return found

    def term(self, index: int) -> Any:
        return self._call(int, "term", index)

    def first_index(self) -> Any:
        return self._call(int, "first_index")

    def last_index(self) -> Any:
        return self._call(int, "last_index")

    def snapshot(self, request_index: int, to: int) -> Any:
        return self._call(Snapshot, "snapshot", request_index, to)

    def _call(self, kind: type, name: str, *arguments: Any) -> Any:
        try:
            result = getattr(self._storage, name)(*arguments)
        except StoreError as error:
            if not isinstance(error.args[0], RaftStorageError):
                raise PanicException("Invalid StoreError") from error
            raise
        except Exception as error:
            raise PanicException(repr(error)) from error
        if not isinstance(result, kind):
            raise PanicException(f"{name} gave {result!r}")
        return result
