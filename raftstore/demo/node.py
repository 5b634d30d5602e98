"""One node of the demo, a process of its own: `python -m raftstore.demo.node SPEC`.

Its state machine is a list of lines. It takes orders on stdin and reports on stdout (`messages.py`), and
ends when stdin does: a node never outlives the demo.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from raftstore.adapters.pysyncobj import RaftStoreJournal, install, library
from raftstore.adapters.pysyncobj.wiring import journal_of
from raftstore.demo.messages import (
    Done,
    Dump,
    Dumped,
    FromNode,
    Line,
    NodeSpec,
    Opened,
    Status,
    ToNode,
    Write,
)

_pysyncobj: Any = library.load()
_SyncObj: Any = _pysyncobj.SyncObj
_replicated: Any = _pysyncobj.replicated

STATUS_INTERVAL_S: Final = 0.1


class Lines(_SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """The replicated state machine: every applied line, in order."""

    def __init__(self, spec: NodeSpec, journal_file: Any) -> None:
        self.lines: list[Line] = []
        self.marker = 0
        super().__init__(spec.address, spec.others, make_conf(journal_file))  # pyright: ignore[reportUnknownMemberType]

    @_replicated  # type: ignore[untyped-decorator]
    def put(self, number: int, text: str) -> None:
        self.lines.append(Line(number, text))
        self.marker = min(self.marker, number)


def make_conf(journal_file: Any) -> Any:
    """PySyncObj's settings: no compaction, so that the journal alone must bring everything back."""
    return _pysyncobj.SyncObjConf(
        journalFile=journal_file,
        connectionRetryTime=0.2,
        appendEntriesPeriod=0.02,
        autoTickPeriod=0.01,
        logCompactionMinEntries=10**12,
        logCompactionMinTime=10**9,
    )


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
    node = open_node(spec, reporter)
    threading.Thread(target=report_status, args=(node, reporter), daemon=True).start()
    decoder = msgspec.json.Decoder(ToNode)
    for line in sys.stdin.buffer:
        obey(decoder.decode(line), node, reporter)
    os._exit(0)


def open_node(spec: NodeSpec, reporter: Reporter) -> Lines:
    """Open the journal, say what it holds, and join the cluster."""
    started = time.monotonic()
    journal = make_journal(spec)
    if isinstance(journal, RaftStoreJournal):
        reporter.say(Opened(len(journal), time.monotonic() - started))
    return Lines(spec, journal)


def make_journal(spec: NodeSpec) -> RaftStoreJournal | str:
    """What goes into `SyncObjConf.journalFile`."""
    if spec.journal == "pysyncobj":
        return spec.store
    install(spec.store)
    if spec.plant is None:
        return RaftStoreJournal(spec.store)
    from raftstore.demo import planted

    return planted.JOURNALS[spec.plant](spec.store)


def obey(order: ToNode, node: Lines, reporter: Reporter) -> None:
    match order:
        case Write(number, text):
            node.put(number, text, callback=functools.partial(report_done, reporter, number))
        case Dump(path):
            lines = list(node.lines)
            Path(path).write_bytes(msgspec.json.Encoder().encode_lines(lines))
            reporter.say(Dumped(path))


def report_done(reporter: Reporter, number: int, _result: object, error: object) -> None:
    reporter.say(Done(number, error == _pysyncobj.FAIL_REASON.SUCCESS))


def report_status(node: Lines, reporter: Reporter) -> None:
    while True:
        reporter.say(status_of(node))
        time.sleep(STATUS_INTERVAL_S)


def status_of(node: Lines) -> Status:
    journal = journal_of(node)
    numbers = None if journal is None else journal.log.status()
    return Status(
        term=node.raftCurrentTerm,
        is_leader=node._isLeader(),
        is_ready=node.isReady(),
        applied=len(node.lines),
        marker=node.marker,
        fsyncs=numbers.flushes if numbers else 0,
        entries_synced=numbers.flushed_entries if numbers else 0,
    )


if __name__ == "__main__":
    main()
