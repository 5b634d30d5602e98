"""The network of namespaces: what is cut is cut, in one direction if asked; and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from raftstore.testing.cluster.network import Network, NetworkError, remove_leftovers
from raftstore.testing.tools import PATIENCE_S, eventually

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


def _hears(network: Network, receiver: str, sender: str, within_s: float = PATIENCE_S) -> bool:
    """Does any datagram get through, `within_s` of the first? A cable that was just plugged in drops some."""
    host, _, port = network.address(receiver).rpartition(":")
    listen = (
        f"import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout({within_s});"
        f" s.bind(({host!r}, {port})); print('bound', flush=True); sys.stdin.readline(); s.recv(9)"
    )
    speak = (
        "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"while True: s.sendto(b'x', ({host!r}, {port})); print('sent', flush=True); time.sleep(0.05)"
    )
    with (
        _python(network.prefix(receiver), listen) as listener,
        _python(network.prefix(sender), speak) as speaker,
    ):
        try:
            assert listener.stdout is not None
            assert speaker.stdout is not None
            assert listener.stdout.readline() == b"bound\n"
            assert speaker.stdout.readline() == b"sent\n"
            listener.communicate(b"sent\n")
            return listener.returncode == 0
        finally:
            listener.kill()
            speaker.kill()


def _python(prefix: list[str], program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-S", "-E", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_a_cut_has_a_direction_and_spares_the_others_until_it_is_healed(network: Network) -> None:
    assert _hears(network, "n2", "n1")
    network.cut("n1", "n2")
    assert not _hears(network, "n2", "n1", within_s=1.0)
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
    time.sleep(600)
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
        remove_leftovers()  # If no other test, or another run of them, has done so already.
        assert theirs not in namespaces()
    assert network.namespace("n1") in namespaces()


def test_a_soak_that_is_stopped_leaves_no_namespace_and_no_node(network: Network) -> None:
    command = [sys.executable, "-m", "raftstore.testing.cluster", "--library", "asyncio", "--partitions"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        eventually(lambda: sum(map(has_store, nodes_of(run.pid))) == 3, "three nodes run")
        nodes = nodes_of(run.pid)
        assert namespaces_of(run.pid)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=600)
    assert not namespaces_of(run.pid)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in nodes), "the nodes ended")


def namespaces_of(pid: int) -> list[str]:
    """Those that the process has made."""
    return [name for name in namespaces() if name.startswith(f"raftstore-{pid}-")]


def nodes_of(pid: int) -> list[int]:
    """The node processes of that run."""
    children = [child for task in tasks_of(pid) for child in _read(task / "children").split()]
    return [int(child) for child in children if b"demo.node" in _read(Path(f"/proc/{int(child)}/cmdline"))]


def tasks_of(pid: int) -> list[Path]:
    """Its threads: each has children of its own."""
    return [*Path(f"/proc/{pid}/task").iterdir()]


def has_store(pid: int) -> bool:
    """Whether the node has opened its store: long after the one who started it went on."""
    try:
        files = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(file.endswith("/LOCK") for file in files)


def _read(file: Path) -> bytes:
    """What it holds; nothing if the process or thread is gone."""
    try:
        return file.read_bytes()
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
