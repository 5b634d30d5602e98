"""`python -m raftstore_asyncio_kv`: run a node, or talk to the cluster as a client."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from raftstore import RaftStoreError, aio

from .client import Client
from .node import Node

CLUSTER = "n1=127.0.0.1:7001,n2=127.0.0.1:7002,n3=127.0.0.1:7003"


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    addresses: dict[str, str] = arguments.cluster
    if arguments.action != "node":
        asyncio.run(_client(arguments, addresses))
        return
    if arguments.name not in addresses:
        parser.error(f"{arguments.name} is none of the cluster: {', '.join(addresses)}")
    try:
        asyncio.run(_node(arguments, addresses))
    except RaftStoreError as error:
        sys.exit(f"{arguments.name}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftstore_asyncio_kv", description=__doc__)
    parser.add_argument(
        "--cluster",
        type=_addresses,
        default=CLUSTER,
        help="NAME=HOST:PORT of all members (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    node = actions.add_parser("node", help="run a member of the cluster")
    node.add_argument("name")
    node.add_argument("--data", type=Path, help="where it keeps its files (default: its name)")
    node.add_argument("--log", help="the URL or TOML file of its log (default: segmented, in --data)")
    node.add_argument("--snapshot-every", type=int, default=10_000, metavar="ENTRIES")
    put = actions.add_parser("put", help="set a key")
    put.add_argument("key")
    put.add_argument("value")
    actions.add_parser("get", help="read a key").add_argument("key")
    actions.add_parser("status", help="what each node knows")
    return parser


def _addresses(text: str) -> dict[str, str]:
    members = [member.partition("=") for member in text.split(",")]
    for name, _, address in members:
        host, _, port = address.rpartition(":")
        if not (name and host and port.isdecimal()):
            raise argparse.ArgumentTypeError("write NAME=HOST:PORT,NAME=HOST:PORT,…")
    return {name: address for name, _, address in members}


async def _node(arguments: argparse.Namespace, addresses: dict[str, str]) -> None:
    data = (arguments.data or Path(arguments.name)).absolute()
    data.mkdir(parents=True, exist_ok=True)
    async with await aio.open(arguments.log or f"segmented://{data / 'raft'}") as log:
        node = Node(
            arguments.name, addresses, log, data / "snapshot", snapshot_every=arguments.snapshot_every
        )
        running = asyncio.create_task(node.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        print(f"{arguments.name} runs with {log!r}", flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _client(arguments: argparse.Namespace, addresses: dict[str, str]) -> None:
    async with Client(addresses) as client:
        if arguments.action == "put":
            await client.put(arguments.key, arguments.value)
        elif arguments.action == "get":
            print(await client.get(arguments.key))
        else:
            for name in addresses:
                await _show(client, name)


async def _show(client: Client, name: str) -> None:
    try:
        seen = await client.look(name)
    except OSError:
        print(f"{name}: not reached")
        return
    role = "leader" if seen.leader == name else f"follows {seen.leader}"
    print(
        f"{name}: {role}, term {seen.term}, log {seen.anchor.index + 1}..{seen.last.index}, "
        f"committed {seen.commit_index}, applied {seen.applied.index}, {len(seen.values)} keys"
    )


if __name__ == "__main__":
    main()
