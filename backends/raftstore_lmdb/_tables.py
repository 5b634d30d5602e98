"""Reads and changes the tables of an open store, within a transaction that the caller began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import lmdb
import msgspec

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError
from raftstore_lmdb._change import Change, change, continued, only_continues
from raftstore_lmdb._checksums import checksum
from raftstore_lmdb._head import Head
from raftstore_lmdb._records import (
    BOUNDS,
    BOUNDS_BYTES,
    ENTRIES,
    ENTRY_OVERHEAD,
    HARD_STATE,
    META,
    RUN_BYTES,
    TERMS,
    Bounds,
    decode_bounds,
    decode_entry,
    decode_key,
    decode_runs,
    encode_bounds,
    encode_entries,
    encode_key,
    encode_run,
    entry_damage,
    open_blob,
    seal,
)

_KEYS_AT_A_TIME: Final = 256
"""How many values a read looks up before it copies them."""

_META_PAGES: Final = 2
_BOUNDS_BYTES_MAX: Final = 1024

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[memoryview]


class State(msgspec.Struct, frozen=True):
    """A bounds record, with the term runs it speaks of."""

    bounds: Bounds
    runs: Sequence[LogId]

    @property
    def garbage(self) -> range:
        """The indexes at or below the anchor that may still have keys."""
        return range(self.bounds.floor, self.bounds.anchor.index + 1)


class Tables:
    """The two databases of an environment, and the records beside them. Holds no transaction."""

    def __init__(self, environment: lmdb.Environment, bounds: Bounds, file: Path) -> None:
        self.entries = environment.open_db(ENTRIES, create=False)
        self.terms = environment.open_db(TERMS, create=False)
        self._checksum = checksum(bounds.checksum)
        self._file = file

    def state(self, txn: Transaction) -> State:
        """What the transaction sees. O(runs)."""
        bounds = decode_bounds(self._bounds_record(txn))
        with txn.cursor(self.terms) as cursor:
            return State(bounds, decode_runs(cursor, bounds))

    def recovery(self, txn: Transaction, state: State, head: Head) -> Recovery:
        """What opening reports of `state`. Raises `CorruptionError` if a blob is not what was written."""
        bounds = state.bounds
        hard_state = open_blob(HARD_STATE, txn.get(HARD_STATE), bounds.hard_state, self._checksum)
        meta = open_blob(META, txn.get(META), bounds.meta, self._checksum)
        blob_bytes = len(hard_state or b"") + len(meta or b"")
        return Recovery(
            anchor=bounds.anchor,
            last=bounds.last,
            term_runs=state.runs,
            hard_state=hard_state,
            meta=meta,
            number=bounds.number,
            end_is_proved=head.end_is_proved,
            bytes_read=head.bytes_read + BOUNDS_BYTES + RUN_BYTES * len(state.runs) + blob_bytes,
            notes=head.notes,
        )

    def read(self, txn: Transaction, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """See `DiskBackend.read`.

        Every key is searched from the root: going on to the next page is where LMDB aborts if it is damaged.
        """
        found: list[Entry] = []
        size = 0
        with txn.cursor(self.entries) as cursor:
            for lowest in range(start, stop, _KEYS_AT_A_TIME):
                indexes = range(lowest, min(stop, lowest + _KEYS_AT_A_TIME))
                rows = cursor.getmulti([encode_key(index) for index in indexes])
                for index, (key, value) in zip(indexes, rows, strict=False):
                    if decode_key(key) != index:
                        raise self._absent(txn, index)
                    size += len(value) - ENTRY_OVERHEAD
                    if found and bytes_max is not None and size > bytes_max:
                        return found
                    found.append(decode_entry(index, value, self._checksum, self._file))
                if len(rows) < len(indexes):
                    raise self._absent(txn, indexes[len(rows)])
        return found

    def apply(self, txn: Transaction, state: State, batch: WriteBatch, sweep_max: int) -> State:
        """Do `batch`, and drop up to `sweep_max` garbage keys."""
        if only_continues(state.bounds, batch):
            self._put_entries(txn, batch.entries)
            return self._put_bounds(txn, continued(state.bounds, batch, txn.id()), state.runs)
        effect = change(state.bounds, state.runs, batch)
        self._drop(txn, effect)
        floor = self._sweep(txn, effect.bounds, sweep_max)
        self._put_entries(txn, batch.entries)
        bounds = msgspec.structs.replace(
            effect.bounds,
            transaction=txn.id(),
            floor=floor,
            hard_state=self._put_blob(txn, HARD_STATE, batch.hard_state, effect.bounds.hard_state),
            meta=self._put_blob(txn, META, batch.meta, effect.bounds.meta),
        )
        return self._put_bounds(txn, bounds, effect.runs)

    def sweep(self, txn: Transaction, state: State, sweep_max: int) -> State:
        """Drop up to `sweep_max` garbage keys, and change nothing else."""
        floor = self._sweep(txn, state.bounds, sweep_max)
        bounds = msgspec.structs.replace(state.bounds, transaction=txn.id(), floor=floor)
        return self._put_bounds(txn, bounds, state.runs)

    def live_bytes(self, txn: Transaction) -> int:
        """The bytes of the pages that hold what is live, or lead to it; garbage is estimated by its keys."""
        bounds = decode_bounds(self._bounds_record(txn))
        share = (bounds.last.index - bounds.anchor.index) / max(txn.stat(self.entries)["entries"], 1)
        entries = math.ceil(_tree_pages(txn, self.entries) * min(share, 1))
        pages = _META_PAGES + _tree_pages(txn) + _tree_pages(txn, self.terms) + entries
        return txn.stat()["psize"] * pages

    def _drop(self, txn: Transaction, change: Change) -> None:
        if change.clears:
            txn.drop(self.entries, delete=False)
        for index in change.drops:
            txn.delete(encode_key(index), db=self.entries)
        for run in change.runs_gone:
            txn.delete(encode_key(run.index), db=self.terms)
        for run in change.runs_new:
            txn.put(*encode_run(run), db=self.terms)

    def _sweep(self, txn: Transaction, bounds: Bounds, sweep_max: int) -> int:
        """Drop up to `sweep_max` keys from the floor to the anchor; the new floor."""
        floor, stop = bounds.floor, bounds.anchor.index + 1
        for _ in range(sweep_max):
            if floor >= stop:
                break
            if txn.delete(encode_key(floor), db=self.entries):
                floor += 1
            else:
                floor = self._next_key(txn, floor, stop)
        return min(floor, stop)

    def _next_key(self, txn: Transaction, index: int, stop: int) -> int:
        """The lowest key from `index` on, or `stop` if there is none below it."""
        with txn.cursor(self.entries) as cursor:
            return decode_key(cursor.key()) if cursor.set_range(encode_key(index)) else stop

    def _put_entries(self, txn: Transaction, entries: Sequence[Entry]) -> None:
        rows = encode_entries(entries, self._checksum)
        if len(rows) == 1:
            taken = int(txn.put(*rows[0], append=True, db=self.entries))
        else:
            with txn.cursor(self.entries) as cursor:
                taken = cursor.putmulti(rows, append=True)[1]
        if taken != len(rows):
            raise CorruptionError("there are entries above the last one", file=self._file)

    def _put_blob(self, txn: Transaction, key: bytes, blob: bytes | None, sealed: int | None) -> int | None:
        """The checksum of the blob that is now at `key`."""
        if blob is None:
            return sealed
        txn.put(key, blob)
        return seal(key, blob, self._checksum)

    def _put_bounds(self, txn: Transaction, bounds: Bounds, runs: Sequence[LogId]) -> State:
        txn.put(BOUNDS, encode_bounds(bounds))
        return State(bounds, runs)

    def _bounds_record(self, txn: Transaction) -> bytes:
        record = txn.get(BOUNDS)
        if record is None or len(record) > _BOUNDS_BYTES_MAX:
            raise CorruptionError("the bounds record is missing", file=self._file)
        return bytes(record)

    def _absent(self, txn: Transaction, index: int) -> Exception:
        """Why there is no key for `index`: the log changed meanwhile, or a key is lost."""
        bounds = decode_bounds(self._bounds_record(txn))
        if bounds.anchor.index < index <= bounds.last.index:
            return entry_damage(index, "is missing", self._file)
        return LookupError(index)


def _tree_pages(txn: Transaction, database: lmdb._Database | None = None) -> int:
    stat = txn.stat(database)
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
