"""What a test of a backend, of a log or of their users needs. Install the extra `testing`.

A third party's whole test file is a subclass of `BackendSuite` or `LogSuite` with one method.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.backend_{part}" for part in ("crashing", "machine", "opening", "reading", "writing")),
    *(f"{__name__}.log_{part}" for part in ("appending", "durability", "following", "keeping", "killing")),
    *(f"{__name__}.log_{part}" for part in ("child", "machine", "purging", "reading")),
    f"{__name__}.checked",
    f"{__name__}.killing",
    f"{__name__}.tools",
)

from raftstore.testing.backend_suite import BackendSuite  # noqa: E402  # asserts are rewritten on import
from raftstore.testing.log_suite import LogSuite  # noqa: E402
from raftstore.testing.memory import MemoryBackend, MemoryDisk  # noqa: E402
from raftstore.testing.model import ContractViolationError  # noqa: E402

__all__ = ["BackendSuite", "ContractViolationError", "LogSuite", "MemoryBackend", "MemoryDisk"]
