"""What a test of a backend, of a log or of their users needs. Install the extra `testing`.

A third party's whole test file is a subclass of `BackendSuite` with one method, and one of `LogSuite`.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from raftstore.testing.backend_suite import BackendSuite  # noqa: E402  # asserts are rewritten on import
from raftstore.testing.log_suite import LogSuite  # noqa: E402
from raftstore.testing.memory import MemoryBackend, MemoryDisk  # noqa: E402
from raftstore.testing.model import ContractViolationError  # noqa: E402

__all__ = ["BackendSuite", "ContractViolationError", "LogSuite", "MemoryBackend", "MemoryDisk"]
