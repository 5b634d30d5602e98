"""Backends that are broken in their files: subclasses of a sound toy, to be killed for real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec

from raftstore.backend import BackendStats, Examination
from raftstore.batch import WriteBatch
from raftstore.testing.toy import MAGIC, ToyBackend, frame_at


class BrokenToy(ToyBackend):
    """A sound one so far."""

    caught_by: ClassVar[tuple[str, ...]] = ()


class SplitsAReplacement(BrokenToy):
    """Truncates with one durable write, and appends with the next."""

    caught_by = ("test_a_kill_leaves_old_or_new_entries_and_never_a_mix",)

    def _append(self, batch: WriteBatch) -> None:
        if batch.truncate_from is not None:
            super()._append(msgspec.structs.replace(batch, entries=(), hard_state=None))
            time.sleep(0.002)
            batch = msgspec.structs.replace(batch, truncate_from=None)
        super()._append(batch)


class BuffersAnAcknowledgedWrite(BrokenToy):
    """The last frame is handed to the system together with the next one, or at close."""

    caught_by = (
        "test_every_write_that_returned_survives_a_kill",
        "test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes",
    )
    _held: WriteBatch | None = None

    def _append(self, batch: WriteBatch) -> None:
        self._flush()
        self._held = batch

    def _begin_the_other_file(self) -> None:
        self._flush()
        super()._begin_the_other_file()

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            super()._append(held)

    def close(self) -> None:
        self._flush()
        super().close()


class ReusesStaleBytesOfARecycledFile(BrokenToy):
    """Takes whatever looks like a frame, whichever generation wrote it."""

    caught_by = ("test_a_store_that_appends_and_purges_steadily_does_not_grow",)

    @classmethod
    def _frames(cls, data: bytes) -> Iterator[tuple[int, WriteBatch, int]]:
        offset = data.find(MAGIC)
        while offset >= 0:
            frame = frame_at(data, offset)
            if frame is not None:
                yield frame
            offset = data.find(MAGIC, frame[2] if frame is not None else offset + 1)


class NeverBeginsAnotherFile(BrokenToy):
    """Its one file grows for ever."""

    caught_by = ("test_a_store_that_appends_and_purges_steadily_does_not_grow",)

    def _begin_the_other_file(self) -> None:
        pass

    def stats(self) -> BackendStats:
        return BackendStats(bytes_on_disk=self._end, bytes_reclaimable=0, files=1)


class RepairsWhatItExamines(BrokenToy):
    """Marks a file as looked at."""

    caught_by = ("test_examining_changes_no_byte",)

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        found = super().examine(path, deep=deep)
        with (path / "even").open("ab") as file:
            file.write(b"\0")
        return found
