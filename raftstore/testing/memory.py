"""A `DiskBackend` in memory, for tests: it fails, fills up, stops time and loses power when it is told to.

disk = MemoryDisk()
backend = MemoryBackend(disk=disk)
with disk.gate.closed():            # writes begin, and stand still
    ...
disk.fail_next(OSError(EIO, "bad sector"), applied=True)
disk.full = True                    # ENOSPC for batches with entries
for state in disk.crash_states():   # every state that a power cut now may leave
    ...
disk.crash()                        # the open backend is dead; open again on the same disk
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from raftstore.backend import BackendStats, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.gate import Gate
from raftstore.testing.model import ContractViolationError, Model

_disks: WeakValueDictionary[Path, MemoryDisk] = WeakValueDictionary()


class PowerCut(BaseException):  # not an error of the code that it interrupts
    """The simulated process ends here, at a step that `MemoryDisk.die_in` chose. Nothing may catch it."""


class _Fault(msgspec.Struct, frozen=True):
    error: BaseException | None
    applied: bool = False


class MemoryDisk:
    """What a `MemoryBackend` writes to. It outlives the backend, so that a test can open it again.

    Settings and counters are plain attributes, to be changed and read at any time from any thread.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        """Every write passes here before its effect."""
        self.read_gate = Gate()
        """Every read passes here after it looked, before it returns."""
        self.full = False
        """While True, batches with entries raise `OSError(ENOSPC)` and leave no trace."""
        self.torn_bytes = 0
        """What the next opening says it dropped."""
        self.end_is_proved = True
        """What the next opening says: False from a write on until `maintain` or `close`."""
        self.writes: list[WriteBatch] = []
        """The batches whose effect is there, in their order."""
        self.calls = 0
        """Calls of `write`, refused and repeated ones included."""
        self.reads = 0
        self.state = Model()
        """The result of `writes`."""
        self.durable = 0
        """How many of `writes` a power cut cannot take away."""
        self.begun: WriteBatch | None = None
        """The batch whose write has begun and whose outcome is not known to the caller."""
        self.owner: MemoryBackend | None = None
        """The backend that has the disk open."""
        self._faults: deque[_Fault] = deque()
        self._read_faults: deque[_Fault] = deque()
        self._maintain_faults: deque[_Fault] = deque()
        self._steps_left: int | None = None
        self.lock = threading.Lock()  # guards writes, state, durable and begun

    def fail_next(self, error: BaseException, *, applied: bool = False, after: int = 0) -> None:
        """The next write, or the one `after` more good ones, raises `error`. Calls queue up.

        With `applied` its effect is there nevertheless. As the contract says: after `OSError(ENOSPC)` the
        backend goes on, after an interrupt (no `Exception`) it expects the same batch again, after anything
        else it expects no more writes.
        """
        if is_enospc(error) and applied:
            raise ValueError("ENOSPC promises that nothing was applied")
        self._faults.extend([_Fault(None)] * after)
        self._faults.append(_Fault(error, applied))

    def fail_next_read(self, error: BaseException, *, after: int = 0) -> None:
        """The next read, or the one `after` more good ones, raises `error`."""
        self._read_faults.extend([_Fault(None)] * after)
        self._read_faults.append(_Fault(error))

    def fail_next_maintain(self, error: BaseException) -> None:
        """The next `maintain` raises `error`."""
        self._maintain_faults.append(_Fault(error))

    def crash_states(self) -> list[Model]:
        """Every state that a power cut at this instant may leave, oldest first."""
        with self.lock:
            started = self._started()
            return [Model.after(started[:keep]) for keep in range(self.durable, len(started) + 1)]

    def crash(self, keep: int | None = None) -> None:
        """Power fails. The disk then holds the first `keep` writes: the fewest possible if not given.

        The backend that had it open is dead: its calls raise `OSError(EIO)`, also those that wait at a
        gate; the gates are open afterwards, planned faults are forgotten, room is as before.
        """
        with self.lock:
            started = self._started()
            kept = self.durable if keep is None else keep
            if not self.durable <= kept <= len(started):
                raise ValueError(f"a crash now keeps {self.durable}..{len(started)} writes, not {keep}")
            self.writes = started[:kept]
            self.state = Model.after(self.writes)
            self.durable, self.begun, self.owner = kept, None, None
            self._steps_left = None
        for faults in (self._faults, self._read_faults, self._maintain_faults):
            faults.clear()
        self.gate.open()
        self.read_gate.open()

    def die_in(self, steps: int) -> None:
        """Raise `PowerCut` in place of the step after `steps` more; a write is two: effect, then sync."""
        self._steps_left = steps

    def begin(self, owner: MemoryBackend, batch: WriteBatch) -> None:
        """The write of `batch` has begun. Not after a power cut: what begins beside one is nobody's."""
        with self.lock:
            owner.check_alive()
            self.begun = batch

    def apply(self, owner: MemoryBackend, batch: WriteBatch) -> None:
        """One step: the effect of `batch` is there, but a power cut may take it away until `sync`."""
        self._step()
        with self.lock:
            owner.check_alive()
            try:
                self.writes.append(batch)
                self.state.force(batch)
            except BaseException:  # an interrupt splits the two: the writes decide
                self.state = Model.after(self.writes)
                raise
        self.end_is_proved = False

    def sync(self, owner: MemoryBackend) -> None:
        """One step: everything that was applied is durable."""
        self._step()
        with self.lock:
            owner.check_alive()
            self.durable = len(self.writes)

    def end(self, owner: MemoryBackend) -> None:
        """The write that had begun is over, and its outcome known."""
        with self.lock:
            owner.check_alive()
            self.begun = None

    def next_fault(self) -> tuple[BaseException | None, bool]:
        """The error that the write now beginning has to raise, and whether its effect is there."""
        fault = self._faults.popleft() if self._faults else _Fault(None)
        return fault.error, fault.applied

    def raise_read_fault(self) -> None:
        """Fail the read now in progress, if that was planned."""
        _raise(self._read_faults)

    def raise_maintain_fault(self) -> None:
        """Fail the upkeep now in progress, if that was planned."""
        _raise(self._maintain_faults)

    def _started(self) -> list[WriteBatch]:
        begun = self.begun
        waits = begun is not None and (not self.writes or self.writes[-1].number < begun.number)
        return [*self.writes, begun] if begun is not None and waits else list(self.writes)

    def _step(self) -> None:
        if self._steps_left == 0:
            raise PowerCut
        if self._steps_left is not None:
            self._steps_left -= 1


class MemoryBackend:
    """Keeps the contract of `DiskBackend` on a `MemoryDisk`, and holds its caller to it.

    Opens `disk`, else the disk that a backend with the same `path` had, as long as somebody holds that
    disk, else a new one. A call that the contract does not allow (two writes at a time, a gap, a write
    after a failed one, any call after `close` but `close`) raises `ContractViolationError`.
    """

    def __init__(self, path: Path | None = None, *, disk: MemoryDisk | None = None) -> None:
        known = _disks.get(path) if path is not None else None
        self.disk = disk or known or MemoryDisk()
        if path is not None:
            _disks[path] = self.disk
        if self.disk.owner is not None:
            raise ContractViolationError("the disk is open: close its backend or call crash() first")
        self.disk.owner = self
        self._writer = threading.Lock()  # held by the one call that may write
        self._failed = False
        self._closed = False
        self._recovery = self._recover()

    def _recover(self) -> Recovery:
        return found_on(self.disk)

    @property
    def recovery(self) -> Recovery:
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        with self._claim():
            self._check_may_write()
            self.disk.calls += 1
            self._check_repeat(batch)
            if batch.number == self.disk.state.number:
                self.disk.sync(self)
            else:
                self._begin(batch)
            self.disk.end(self)

    def _begin(self, batch: WriteBatch) -> None:
        self._check_batch(batch)
        disk = self.disk
        disk.begin(self, batch)
        disk.gate.pass_through()
        self.check_alive()
        error, applied = disk.next_fault()
        if error is None and disk.full and batch.entries:
            error = OSError(errno.ENOSPC, "the memory disk is full")
        if error is None or applied:
            self._perform(batch)
        if error is not None:
            self._fail(error)

    def _perform(self, batch: WriteBatch) -> None:
        """The effect of a write, in steps between which power may fail."""
        self.disk.apply(self, batch)
        self.disk.sync(self)

    def _check_batch(self, batch: WriteBatch) -> None:
        self.disk.state.check(batch)

    def _fail(self, error: BaseException) -> None:
        if is_enospc(error):
            self.disk.end(self)
        elif isinstance(error, Exception):
            self._failed = True
        raise error

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        self.check_alive()
        self.disk.reads += 1
        with self.disk.lock:
            found = self._look_up(start, stop, bytes_max)
        self.disk.read_gate.pass_through()
        self.check_alive()
        self.disk.raise_read_fault()
        return found

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        state = self.disk.state
        if not state.first_index <= start < stop <= state.last.index + 1:
            raise LookupError(f"[{start}, {stop}) is not within {state}")
        return state.read(start, stop, bytes_max)

    def maintain(self) -> None:
        with self._claim():
            self._check_may_write()
            self.disk.raise_maintain_fault()
            self.disk.end_is_proved = True

    def stats(self) -> BackendStats:
        self.check_alive()
        return size_of(self.disk)

    def close(self) -> None:
        if self._closed:
            return
        with self._claim():
            self._closed = True
            if self.disk.owner is self:
                self.disk.owner = None
                self.disk.end_is_proved = self.disk.begun is None

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        disk = _disks.get(path) or MemoryDisk()
        checked = len(disk.state.entries) if deep else 0
        return Examination(found_on(disk), size_of(disk), entries_checked=checked)

    def kill(self) -> None:
        """End the simulated process and its power with it: `MemoryDisk.crash`."""
        self._cut_power(keeps=False)

    def write_and_kill(self, batches: Sequence[WriteBatch], acknowledged: int, instant: float) -> int:
        """As `KillableStore` says. `instant` also chooses what of the unsynced steps the disk has kept."""
        for batch in batches[:acknowledged]:
            self.write(batch)
        step, keeps = divmod(int(instant * 8), 2)
        self.disk.die_in(step)
        try:
            for batch in batches[acknowledged : acknowledged + 1]:
                self.write(batch)
                acknowledged += 1
        except PowerCut:
            pass
        self._cut_power(keeps=bool(keeps))
        return acknowledged

    def _cut_power(self, *, keeps: bool) -> None:
        """All that was applied is kept, or only what was synced."""
        self.disk.crash(len(self.disk.writes) if keeps else None)

    def _claim(self) -> threading.Lock:
        """The lock of the one call that may write; a plain lock, since no interrupt can split its `with`."""
        _demand(not self._writer.locked(), "two of write, maintain and close at a time")
        return self._writer

    def _check_may_write(self) -> None:
        self.check_alive()
        _demand(not self._failed, "only read, stats and close are allowed after a failed write")

    def check_alive(self) -> None:
        """Raise unless this backend has its disk open."""
        _demand(not self._closed, "the backend is closed")
        if self.disk.owner is not self:
            raise OSError(errno.EIO, "the power failed")

    def _check_repeat(self, batch: WriteBatch) -> None:
        begun = self.disk.begun
        _demand(begun is None or begun == batch, "another batch in place of the one that was interrupted")


def found_on(disk: MemoryDisk) -> Recovery:
    """What opening `disk` reports."""
    return msgspec.structs.replace(
        disk.state.recovery(), end_is_proved=disk.end_is_proved, torn_bytes=disk.torn_bytes
    )


def size_of(disk: MemoryDisk) -> BackendStats:
    """As if each entry took 16 bytes beside its payload."""
    with disk.lock:
        state = disk.state
        blobs = len(state.hard_state or b"") + len(state.meta or b"")
        used = sum(len(entry.data) + 16 for entry in state.entries.values())
    return BackendStats(bytes_on_disk=64 + blobs + used, bytes_reclaimable=0, files=1)


def is_enospc(error: BaseException) -> bool:
    """Whether `error` is the one that promises that nothing of the write will ever appear."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _raise(faults: deque[_Fault]) -> None:
    fault = faults.popleft() if faults else None
    if fault is not None and fault.error is not None:
        raise fault.error


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractViolationError(otherwise)
