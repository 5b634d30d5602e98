"""The network of namespaces: what is cut is cut, in one direction if asked; and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from raftstore.testing.cluster.network import Network, NetworkError, remove_leftovers
from raftstore.testing.tools import eventually

NAMES = ["n1", "n2", "n3"]


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


@pytest.fixture
def network() -> Generator[Network]:
    try:
        with Network(NAMES) as network:
            yield network
    except NetworkError as error:
        pytest.skip(str(error))


def _hears(network: Network, receiver: str, sender: str) -> bool:
    """Does a datagram get through?"""
    host, _, port = network.address(receiver).rpartition(":")
    listen = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1);"
        f" s.bind(({host!r}, {port})); print('bound', flush=True); s.recv(9)"
    )
    speak = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f" s.sendto(b'x', ({host!r}, {port}))"
    )
    python = [sys.executable, "-S", "-E", "-c"]
    with subprocess.Popen(
        [*network.prefix(receiver), *python, listen], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"bound\n"
        subprocess.run([*network.prefix(sender), *python, speak], check=True, timeout=20)
        return listener.wait() == 0


def test_a_cut_has_a_direction_and_spares_the_others_until_it_is_healed(network: Network) -> None:
    assert _hears(network, "n2", "n1")
    network.cut("n1", "n2")
    assert not _hears(network, "n2", "n1")
    assert _hears(network, "n1", "n2")
    assert _hears(network, "n3", "n1")
    network.heal()
    assert _hears(network, "n2", "n1")


def test_no_namespace_is_left(network: Network) -> None:
    mine = {network.namespace(name) for name in NAMES}
    assert mine <= namespaces()
    network.__exit__(None, None, None)
    assert not mine & namespaces()


_HOLD = """
import sys, time
from raftstore.testing.cluster.network import Network
with Network(["n1"]) as network:
    print(network.namespace("n1"), flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(
    network: Network,
) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        remove_leftovers()
        assert theirs in namespaces()
        other.kill()
        other.wait()
        assert theirs in namespaces()
        remove_leftovers()
        assert theirs not in namespaces()
    assert network.namespace("n1") in namespaces()


def test_a_soak_that_is_stopped_leaves_no_namespace_and_no_node(network: Network) -> None:
    command = [sys.executable, "-m", "raftstore.testing.cluster", "--library", "asyncio", "--partitions"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        end = time.monotonic() + 60
        while len(nodes_of(run.pid)) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        nodes = nodes_of(run.pid)
        assert len(nodes) == 3
        assert any(str(run.pid) in name for name in namespaces())
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert not any(str(run.pid) in name for name in namespaces())
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in nodes), "the nodes ended")


def nodes_of(pid: int) -> list[int]:
    """The node processes of that run."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"demo.node" in _command_line(child)]


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_who_is_not_root_hears_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ip") is not None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(NetworkError, match="root"):
            Network(NAMES)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NetworkError, match="install iproute2"):
        Network(NAMES)
