"""What every part of `BackendSuite` stands on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from raftstore.backend import DiskBackend
from raftstore.testing.checked import CheckedStore
from raftstore.testing.killing import AnyLauncher, Launcher


class BackendTests:
    """The hooks: `make` is a duty, the rest has defaults."""

    def make(self, path: Path) -> DiskBackend:
        """Open the store in the existing directory `path`, which is empty when the store is new.

        Also called in child processes, on an instance of its own: it must need nothing but `path`. Use
        small segments, pages or buffers, so that the tests cross their borders.
        """
        raise NotImplementedError("override make(path) in your subclass of BackendSuite")

    def launcher(self) -> AbstractContextManager[AnyLauncher]:
        """A context that gives what opens stores that can be killed.

        By default each is opened by `make` in a child process, which SIGKILL ends.
        """
        return Launcher(type(self))

    def opened(self, path: Path) -> CheckedStore[DiskBackend]:
        """A new store beside its model, to be used in a `with` block."""
        store = path / "store"
        store.mkdir(mode=0o700)
        return CheckedStore(lambda: self.make(store))
