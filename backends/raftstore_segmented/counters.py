"""What a backend did since it was opened, in numbers."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct, gc=False):
    """Kept by the thread that does the thing; to be read at any time."""

    writes: int = 0
    """Calls of `write` that wrote: one write system call each, unless the system wrote short."""
    fsyncs: int = 0
    """Syncs on the path of an append: one for each of `writes`."""
    bytes_appended: int = 0
    """Bytes of the frames of `writes`."""
    marks: int = 0
    """Mark frames, each one write and one sync."""
    seals: int = 0
    """Indexes written behind finished segments, each two writes and two syncs."""
    bytes_prepared: int = 0
    """Zeros written ahead."""
    writer_prepared: int = 0
    """Times that a write found the next segment not ready."""
