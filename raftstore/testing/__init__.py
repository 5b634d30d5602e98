"""What a test of a backend, of a log or of their users needs. Install the extra `testing`.

A third party's whole test file is a subclass of `BackendSuite` with one method.
"""

from raftstore.testing.memory import MemoryBackend, MemoryDisk

__all__ = ["MemoryBackend", "MemoryDisk"]
