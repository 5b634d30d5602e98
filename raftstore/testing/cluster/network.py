"""A network of one's own for the nodes of a cluster, that can be cut: Linux, root, the command `ip`.

Each node lives in a network namespace with one cable to a router, a namespace too. The router drops what
goes from one node to another when it is told to (a blackhole rule), and neither end hears of it: so a cut has
a direction. Nothing of this can be seen from the machine's own network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

COMMAND_S: Final = 60.0
PORT: Final = 7000
DIRECTORY: Final = Path("/run/netns")
"""Where `ip` keeps the names of namespaces."""
_ROUTER: Final = "198.18.255.1"
"""198.18.0.0/15 is set apart for tests of networks."""
_NAME: Final = re.compile(r"raftstore-(\d+)-(\d+)-\w+")


class NetworkError(Exception):
    """There can be no such network here; says why, and what is missing."""


class Network:
    """The namespaces of one run. A context: at its end none is left, and none of a run that was killed."""

    def __init__(self, names: list[str]) -> None:
        """Raises `NetworkError`. Namespaces are made on entering."""
        if shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise NetworkError("partitions need the commands ip and nsenter: install iproute2 and util-linux")
        if os.geteuid() != 0:
            raise NetworkError("partitions need network namespaces, and these need root")
        self._names = names
        self._mark = f"raftstore-{os.getpid()}-{_started(os.getpid())}"
        self._rules: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def namespace(self, name: str) -> str:
        """What the node's namespace is called."""
        return f"{self._mark}-{name}"

    def address(self, name: str) -> str:
        """`host:port` for the node of that name."""
        return f"{self._host(name)}:{PORT}"

    def prefix(self, name: str) -> list[str]:
        """The beginning of a command line that runs in the node's namespace; it ends in an exec.

        Not `ip netns exec`: that makes a mount namespace too, which keeps every disk that is mounted now.
        """
        return ["nsenter", f"--net={DIRECTORY / self.namespace(name)}"]

    def cut(self, sender: str, receiver: str) -> None:
        """From now on nothing from `sender` reaches `receiver`. The other direction stays as it is."""
        pair = self._host(sender), self._host(receiver)
        self._rule("add", *pair)
        self._rules.append(pair)

    def heal(self) -> None:
        """End all cuts."""
        while self._rules:
            self._rule("del", *self._rules.pop())

    def _rule(self, action: str, sender: str, receiver: str) -> None:
        _ip("-n", self.namespace("router"), "rule", action, "from", sender, "to", receiver, "blackhole")

    def _make(self) -> None:
        router = self.namespace("router")
        for name in ("router", *self._names):
            _ip("netns", "add", self.namespace(name))
        _ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for name in self._names:
            self._connect(name, router)

    def _connect(self, name: str, router: str) -> None:
        node, host = self.namespace(name), self._host(name)
        _ip("link", "add", f"to-{name}", "netns", router, "type", "veth", "peer", "eth0", "netns", node)
        _ip("-n", router, "addr", "add", _ROUTER, "peer", host, "dev", f"to-{name}")
        _ip("-n", router, "link", "set", f"to-{name}", "up")
        _ip("-n", node, "addr", "add", host, "peer", _ROUTER, "dev", "eth0")
        _ip("-n", node, "link", "set", "lo", "up")
        _ip("-n", node, "link", "set", "eth0", "up")
        _ip("-n", node, "route", "add", "default", "via", _ROUTER)

    def _remove(self) -> None:
        """With a namespace its cables go."""
        present = _namespaces()
        for name in (*self._names, "router"):
            if self.namespace(name) in present:
                _ip("netns", "del", self.namespace(name))

    def _host(self, name: str) -> str:
        return f"198.18.0.{self._names.index(name) + 1}"


def remove_leftovers() -> None:
    """Remove the namespaces of runs whose process is gone, which could not do it."""
    for name in _namespaces():
        match = _NAME.fullmatch(name)
        if match is not None and _started(int(match[1])) != match[2]:
            with contextlib.suppress(NetworkError):  # Another run may do the same.
                _ip("netns", "del", name)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _started(pid: int) -> str | None:
    """When that process started, as Linux counts it; with the number it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        raise NetworkError(f"no network namespaces here: ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
