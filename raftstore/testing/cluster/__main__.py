"""`python -m raftstore.testing.cluster`: kill and cut off the nodes of a real cluster while clients use it.

Exit status 0: nothing acknowledged was lost, the history is linearizable; 1: not so; 2: it could not run."""

from __future__ import annotations

import argparse
import sys
import time
from typing import get_args

import msgspec

from raftstore import config
from raftstore.cli.ending import INTERRUPTED, interruptible
from raftstore.demo import libraries
from raftstore.demo.cluster import ClusterError
from raftstore.demo.disk import DiskError
from raftstore.demo.messages import JournalKind, Library, Plant
from raftstore.errors import RaftStoreError
from raftstore.testing.arguments import at_least, file_to_write
from raftstore.testing.cluster.network import NetworkError
from raftstore.testing.cluster.soak import Settings, Soak

COULD_NOT_RUN = 2


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    try:
        with interruptible():
            return _run(arguments)
    except KeyboardInterrupt:
        print("stopped; no process, no file and no namespace was left behind", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    try:
        libraries.check(arguments.library, arguments.journal, arguments.plant)
        settings = _settings(arguments)
        print(f"seed {settings.seed}: {settings.library} on {settings.store.backend}", flush=True)
        report = Soak(settings, _tell if arguments.verbose else _be_silent).run()
    except (ClusterError, NetworkError, DiskError, RaftStoreError) as error:
        print(f"the soak could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    print(report.as_text())
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.encode(report))
    return 0 if report.is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.cluster", description=__doc__)
    parser.add_argument(
        "--library", choices=get_args(Library), required=True, help="whose Raft the nodes run"
    )
    parser.add_argument(
        "--kills", type=at_least(1), default=200, help="SIGKILLs, at least (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="of the schedule (default: the time)")
    parser.add_argument("--partitions", action="store_true", help="cut nodes off, too; needs root and ip")
    parser.add_argument("--backend", default="segmented", help="default: %(default)s")
    parser.add_argument("--strategy", default="DiskFirst", help="default: %(default)s")
    parser.add_argument("--flush-policy", default="Immediate", help="default: %(default)s")
    parser.add_argument("--clients", type=at_least(1), default=8, help="default: %(default)s")
    parser.add_argument(
        "--compact-every",
        type=at_least(0),
        default=2000,
        metavar="ENTRIES",
        help="0: never (default: %(default)s)",
    )
    parser.add_argument(
        "--power-cut", action="store_true", help="a kill cuts the node's power, too; needs root"
    )
    parser.add_argument(
        "--journal", choices=get_args(JournalKind), default="raftstore", help="must fail: pysyncobj"
    )
    parser.add_argument("--plant", choices=get_args(Plant), help="plant a bug: it must fail")
    parser.add_argument(
        "--history", type=file_to_write, metavar="FILE", help="keep the history, as JSON lines"
    )
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write what was found")
    parser.add_argument("--verbose", action="store_true", help="tell every kill and cut")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    store = f"{arguments.backend}:///node/raft?strategy={arguments.strategy}&flush_policy={arguments.flush_policy}"
    return Settings(
        library=arguments.library,
        store=config.load(store),
        kills=arguments.kills,
        seed=int(time.time()) if arguments.seed is None else arguments.seed,
        partitions=arguments.partitions,
        clients=arguments.clients,
        compact_every=arguments.compact_every or None,
        journal=arguments.journal,
        plant=arguments.plant,
        power_cut=arguments.power_cut,
        history=arguments.history,
    )


def _tell(line: str) -> None:
    print(line, flush=True)


def _be_silent(_line: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
