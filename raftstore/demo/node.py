"""One node of the demo, a process of its own: `python -m raftstore.demo.node SPEC`.

It takes orders on stdin and reports on stdout (`messages.py`), and ends when stdin does: a node never
outlives the demo. What it runs is a `Member` of the spec's library.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Final

import msgspec

from raftstore.demo.libraries import LIBRARIES
from raftstore.demo.member import Member, run_for_ever
from raftstore.demo.messages import Dump, Dumped, FromNode, NodeSpec, Operation, ToNode

STATUS_INTERVAL_S: Final = 0.1


class Reporter:
    """Writes messages to stdout, from any thread."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        # one message at a time
        self._lock = threading.Lock()

    def say(self, message: FromNode) -> None:
        data = self._encoder.encode(message) + b"\n"
        with self._lock:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def main() -> None:
    """Run the node until stdin ends."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    spec = msgspec.json.decode(sys.argv[1], type=NodeSpec)
    reporter = Reporter()
    member: Member = import_module(LIBRARIES[spec.library].member).make(spec, reporter.say)
    run_for_ever(lambda: report_status(member, reporter))
    decoder = msgspec.json.Decoder(ToNode)
    for line in sys.stdin.buffer:
        obey(decoder.decode(line), member, reporter)
    os._exit(0)


def obey(order: ToNode, member: Member, reporter: Reporter) -> None:
    match order:
        case Operation():
            member.perform(order)
        case Dump(path):
            Path(path).write_bytes(msgspec.json.Encoder().encode_lines(member.lines()))
            reporter.say(Dumped(path))


def report_status(member: Member, reporter: Reporter) -> None:
    reporter.say(member.status())
    time.sleep(STATUS_INTERVAL_S)


if __name__ == "__main__":
    main()
