"""What every part of `BackendSuite` stands on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from raftstore.backend import DiskBackend
from raftstore.testing.checked import CheckedStore
from raftstore.testing.killing import KillableStore, Launcher


class BackendTests:
    """The hooks: `make` is a duty, the rest has defaults."""

    def make(self, path: Path) -> DiskBackend:
        """Open the store in the existing directory `path`, which is empty when the store is new.

        Also called in child processes, on an instance of its own: it must need nothing but `path`. Use
        small segments, pages or buffers, so that the tests cross their borders.
        """
        raise NotImplementedError("override make(path) in your subclass of BackendSuite")

    def killable(self) -> AbstractContextManager[Callable[[Path], KillableStore]]:
        """A context that gives a function which opens a store that can be killed.

        By default each is opened by `make` in a child process, which SIGKILL ends.
        """
        return _child_processes(type(self))

    def opened(self, path: Path) -> CheckedStore[DiskBackend]:
        """A new store beside its model, to be used in a `with` block."""
        store = path / "store"
        store.mkdir(mode=0o700)
        return CheckedStore(lambda: self.make(store))


@contextmanager
def _child_processes(suite: type) -> Generator[Callable[[Path], KillableStore]]:
    with Launcher(suite) as launcher:
        yield launcher.open
