"""A process that writes to a log and says what was acknowledged, until it is killed.

It prints one line for each acknowledged call: `append INDEX DURABLE_INDEX` or `vote TERM 0`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import msgspec

import raftstore
from raftstore.entry import Entry, HardState
from raftstore.log import RaftLog
from raftstore.testing.tools import PATIENCE_S


class Acknowledged(msgspec.Struct):
    """What a killed process had been told."""

    last_index: int = 0
    durable_index: int = 0
    vote: int = 0


def payload(index: int) -> bytes:
    """What the child stores at `index`: of many sizes, so that kills come at many places."""
    return b"%d;" % index * (1 + index * 7919 % 400)


def write_until_killed(log: RaftLog) -> None:
    for index in count(log.next_index):
        log.append([Entry(1, index, payload(index))])
        print("append", index, log.durable_index, flush=True)
        if index % 9 == 0:
            log.save_hard_state(HardState(index, "me"))
            print("vote", index, 0, flush=True)


def kill_a_writer(config: raftstore.StoreConfig, scratch: Path, *, appends: int) -> Acknowledged:
    """Run a child on `config` until it acknowledged `appends` calls, then SIGKILL it in the middle."""
    file = scratch / "child.toml"
    file.write_text(config.to_toml())
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = Acknowledged()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        watchdog = threading.Timer(2 * PATIENCE_S, child.kill)
        watchdog.start()
        assert child.stdout is not None
        for line in child.stdout:
            _note(told, line)
            if told.last_index >= appends:
                child.send_signal(signal.SIGKILL)
                break
        for line in child.stdout:
            _note(told, line)
        watchdog.cancel()
        watchdog.join()
    assert child.returncode == -signal.SIGKILL, f"the child ended by itself: {child.returncode}"
    return told


def _note(told: Acknowledged, line: str) -> None:
    if not line.endswith("\n"):
        return
    what, number, durable = line.split()
    if what == "vote":
        told.vote = int(number)
    else:
        told.last_index, told.durable_index = int(number), int(durable)


def main() -> None:
    """In the child: its only argument is the file of the config."""
    write_until_killed(raftstore.open(sys.argv[1]))
