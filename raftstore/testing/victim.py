"""The child's side of `raftstore.testing.killing`: a launcher that forks one process for each store.

The launcher imports the suite but opens no store itself, so that its forks start without anybody's threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from raftstore.backend import DiskBackend
from raftstore.testing.wire import Order, Reply, Request, Wire


def main(control_fd: int, module: str, file: str, name: str) -> None:
    """Carry out orders until the test closes its end; then nothing that was started here is left."""
    suite = _load(module, file, name)
    children: set[int] = set()
    with socket.socket(fileno=control_fd) as control:
        control.send(b"ready")
        while order := _receive_order(control):
            control.send(_carry_out(*order, suite, control, children))
    for pid in children:
        _kill(pid)


def _load(module: str, file: str, name: str) -> Any:
    """The class `name` of a module, found by its name or else by its file."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _receive_order(control: socket.socket) -> tuple[Order, list[int]] | None:
    data, fds, _, _ = socket.recv_fds(control, 65536, 1)
    return (msgspec.msgpack.decode(data, type=Order), list(fds)) if data else None


def _carry_out(order: Order, fds: list[int], suite: Any, control: socket.socket, children: set[int]) -> bytes:
    if order.path is None:
        children.discard(order.pid)
        _kill(order.pid)
        return b"killed"
    pid = os.fork()
    if pid == 0:
        control.close()
        _live(suite, Path(order.path), fds[0])
    os.close(fds[0])
    children.add(pid)
    return str(pid).encode()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _live(suite: Any, path: Path, fd: int) -> None:
    """The whole life of a process that holds one store."""
    try:
        with socket.socket(fileno=fd) as connection:
            _serve(suite, path, Wire(connection))
    except OSError:
        traceback.print_exc()
    finally:
        os._exit(0)


def _serve(suite: Any, path: Path, wire: Wire) -> None:
    try:
        backend: DiskBackend = suite().make(path)
    except Exception:  # noqa: BLE001  # the test shall see it, whatever it is
        wire.send(Reply(error=traceback.format_exc()))
        return
    wire.send(Reply(recovery=backend.recovery))
    while request := wire.receive_request():
        wire.send(_answer(backend, request))


def _answer(backend: DiskBackend, request: Request) -> Reply:
    try:
        if request.call == "read":
            return Reply(entries=backend.read(request.start, request.stop, request.bytes_max))
        if request.batch is not None:
            backend.write(request.batch)
        elif request.call == "maintain":
            backend.maintain()
        else:
            backend.close()
    except Exception:  # noqa: BLE001  # the test shall see it, whatever it is
        return Reply(error=traceback.format_exc())
    return Reply()
