"""The asyncio example: three processes, killed while clients write, and what they know afterwards."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from raftstore_asyncio_kv.__main__ import main
from raftstore_asyncio_kv.client import Client
from raftstore_asyncio_kv.wire import Seen

import raftstore
from raftstore.demo.cluster import free_ports

EXAMPLES = Path(__file__).parent.parent / "examples"
WRITERS = 4
SETTLE_S = 120.0
POLL_S = 0.05
SNAPSHOT_EVERY = 40

segmented = pytest.mark.backend("segmented")
every_backend = pytest.mark.parametrize(
    "log",
    [
        pytest.param("segmented://{}", marks=segmented),
        pytest.param("lmdb://{}?strategy=MemFirst", marks=pytest.mark.backend("lmdb")),
        pytest.param("rocksdb://{}?flush_policy=Batch:100:10", marks=pytest.mark.backend("rocksdb")),
    ],
)


class Cluster:
    """Three nodes, each a process of its own. `close` kills what still runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.log = "segmented://{}"
        """The URL of a node's log, with a gap for the path."""
        self.addresses = dict(zip(("n1", "n2", "n3"), free_addresses(3), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names or self.addresses:
            home = self._directory / name
            data = ["--data", str(home), "--log", self.log.format(home / "raft")]
            options = [*data, "--snapshot-every", str(SNAPSHOT_EVERY)]
            with self._output(name).open("ab") as output:
                self._processes[name] = subprocess.Popen(
                    [*self._line(), "node", name, *options], cwd=EXAMPLES, stdout=output, stderr=output
                )

    def kill(self, *names: str, number: int = signal.SIGKILL) -> list[int]:
        """Send the signal to all of these, then wait for their ends; their exit statuses."""
        for name in names:
            assert self._processes[name].poll() is None, f"{name} ended by itself: {self.said(name)}"
            self._processes[name].send_signal(number)
        return [self._processes.pop(name).wait(SETTLE_S) for name in names]

    def command(self, *arguments: str) -> str:
        """What a client prints that is run from the command line."""
        line = [*self._line(), *arguments]
        done = subprocess.run(
            line, cwd=EXAMPLES, capture_output=True, timeout=SETTLE_S, check=False, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def _line(self) -> list[str]:
        cluster = ",".join(f"{name}={address}" for name, address in self.addresses.items())
        return [sys.executable, "-B", "-W", "error", "-m", "raftstore_asyncio_kv", "--cluster", cluster]

    def said(self, name: str) -> str:
        return self._output(name).read_text()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _output(self, name: str) -> Path:
        return self._directory / f"{name}.output"


class Writers:
    """Clients that write without a pause, each key once; what they sent, and what was acknowledged."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses
        self.sent: dict[str, str] = {}
        self.acknowledged: dict[str, str] = {}
        self._enough = False

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """While the block runs; at its end each finishes what it began."""
        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(self._write(writer))
            yield
            self._enough = True

    async def more(self, count: int = 20) -> None:
        """Return when `count` more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= goal, "writes are acknowledged")

    async def _write(self, writer: int) -> None:
        async with Client(self._addresses) as client:
            number = 0
            while not self._enough:
                number += 1
                key, value = f"{writer}-{number}", f"value {number} of {writer}"
                self.sent[key] = value
                await client.put(key, value)
                self.acknowledged[key] = value


def free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SETTLE_S
    while not condition():
        assert time.monotonic() < end, f"not within {SETTLE_S} s: {what}"
        await asyncio.sleep(POLL_S)


async def look(client: Client, name: str) -> Seen | None:
    try:
        return await client.look(name)
    except OSError:
        return None


async def seen_when(
    client: Client, names: list[str], condition: Callable[[list[Seen]], bool], what: str
) -> list[Seen]:
    """What these nodes know, as soon as all can be reached and `condition` is true of it."""
    end = time.monotonic() + SETTLE_S
    while True:
        seen = [each for name in names if (each := await look(client, name)) is not None]
        if len(seen) == len(names) and condition(seen):
            return seen
        assert time.monotonic() < end, f"not within {SETTLE_S} s: {what}; {seen}"
        await asyncio.sleep(POLL_S)


async def leader_and_others(client: Client, names: list[str]) -> tuple[str, list[str]]:
    """The leader that all of these nodes follow, and the others."""
    seen = await seen_when(client, names, lambda seen: leader_of(seen) in names, "one leader for all")
    leader = leader_of(seen)
    assert leader is not None
    return leader, [name for name in names if name != leader]


def leader_of(seen: list[Seen]) -> str | None:
    leaders = {(each.leader, each.term) for each in seen}
    return leaders.pop()[0] if len(leaders) == 1 else None


async def settled(client: Client, cluster: Cluster) -> list[Seen]:
    """What all nodes know, once each has applied the same."""
    mark = f"mark {time.monotonic()}"
    await client.put(mark, mark)
    return await seen_when(
        client,
        list(cluster.addresses),
        lambda seen: len({each.applied for each in seen}) == 1 and all(mark in each.values for each in seen),
        "all nodes have applied the same",
    )


def check(seen: list[Seen], writers: Writers) -> None:
    """All machines are equal, hold every acknowledged write, and nothing that nobody sent."""
    values = {key: value for key, value in seen[0].values.items() if not key.startswith("mark ")}
    assert all(each.values == seen[0].values for each in seen)
    assert values.items() >= writers.acknowledged.items()
    assert values.items() <= writers.sent.items()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


def play(cluster: Cluster, scene: Callable[[Cluster, Client], Awaitable[None]]) -> None:
    """Start the cluster and run `scene` with a client of it; show what the nodes said if it fails."""

    async def main() -> None:
        async with Client(cluster.addresses) as client:
            cluster.start()
            await asyncio.wait_for(scene(cluster, client), 4 * SETTLE_S)

    try:
        asyncio.run(main())
    finally:
        print(*(f"--- {name}\n{cluster.said(name)}" for name in cluster.addresses), sep="\n")


@every_backend
def test_whoever_is_killed_while_clients_write_no_acknowledged_write_is_lost(
    cluster: Cluster, log: str
) -> None:
    async def scene(cluster: Cluster, client: Client) -> None:
        names = list(cluster.addresses)
        writers = Writers(cluster.addresses)
        async with writers.writing():
            for role in ("follower", "leader"):
                await writers.more()
                leader, followers = await leader_and_others(client, names)
                victim = leader if role == "leader" else followers[0]
                cluster.kill(victim)
                await writers.more()  # Two of three go on.
                cluster.start(victim)
            await writers.more()
            cluster.kill(*names)
            cluster.start()
            await writers.more()
        check(await settled(client, cluster), writers)

    cluster.log = log
    play(cluster, scene)


@segmented
def test_a_node_that_was_away_past_a_purge_gets_the_snapshot(cluster: Cluster) -> None:
    async def scene(cluster: Cluster, client: Client) -> None:
        writers = Writers(cluster.addresses)
        leader, (away, other) = await leader_and_others(client, list(cluster.addresses))
        before = await client.look(away)
        cluster.kill(away, other)
        with pytest.raises(TimeoutError):  # One of three has no majority: it acknowledges nothing.
            await asyncio.wait_for(client.put("mark alone", "1"), 1.0)
        cluster.start(other)
        async with writers.writing():
            await seen_when(
                client,
                [leader, other],
                lambda seen: min(each.anchor.index for each in seen) > before.last.index,
                "both have purged what the third node lacks",
            )
            cluster.start(away)
            await writers.more()
        seen = {each.name: each for each in await settled(client, cluster)}
        assert seen[away].anchor.index > before.last.index
        check(list(seen.values()), writers)
        cluster.kill(away)
        cluster.start(away)  # What it was sent is on its own disk.
        check(await settled(client, cluster), writers)

    play(cluster, scene)


@segmented
def test_a_cluster_that_is_told_to_stop_goes_on_where_it_was(cluster: Cluster) -> None:
    names = list(cluster.addresses)
    cluster.start()
    try:
        assert cluster.command("put", "colour", "green") == ""
        assert cluster.kill(*names, number=signal.SIGTERM) == [0, 0, 0]
        cluster.start()
        assert cluster.command("get", "colour") == "green\n"
        assert cluster.command("get", "shape") == "None\n"
        end = time.monotonic() + SETTLE_S
        while True:  # While there is an election, none may lead, or two may say so.
            status = cluster.command("status").splitlines()
            assert [line.split(":")[0] for line in status] == names
            if sum(": leader, term " in line for line in status) == 1:
                break
            assert time.monotonic() < end, status
    finally:
        print(*map(cluster.said, names))
    assert "Error" not in "".join(map(cluster.said, names))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["node", "n9"], "n9 is none of the cluster: n1, n2, n3"),
        (["--cluster", "n1", "status"], "write NAME=HOST:PORT"),
        (["--cluster", "n1=localhost", "status"], "write NAME=HOST:PORT"),
    ],
)
def test_a_node_without_an_address_is_refused_and_makes_no_directory(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["raftstore_asyncio_kv", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@segmented
def test_a_second_node_on_one_directory_is_told_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"segmented://{tmp_path}/raft?lock_timeout_ms=0"
    monkeypatch.setattr(
        sys, "argv", ["raftstore_asyncio_kv", "node", "n1", "--data", str(tmp_path), "--log", url]
    )
    with raftstore.open(url), pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == f"n1: {tmp_path}/raft is open in this process: close it there first"
