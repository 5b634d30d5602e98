"""Patroni's Raft on raftstore, changed by its command line alone: members are killed, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pysyncobj")

from patroni_tools import Client, Cluster, kill, needs_patroni, until

import raftstore

pytestmark = [needs_patroni, pytest.mark.backend("segmented")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_whichever_members_are_killed_nothing_acknowledged_is_lost_and_what_expires_expires(
    cluster: Cluster, tmp_path: Path
) -> None:
    for member in cluster.members:
        member.start()
    client = cluster.client()
    client.put("/kept", "for long", ttl=3600)
    client.put("/passing", "for a moment", ttl=1)
    with cluster.writing(client):
        for member in cluster.members:
            cluster.more()
            kill(member)
            cluster.more()  # Two of three go on.
            member.start()
        cluster.more()
        client.put("/expiring", "while all are down", ttl=2)
        kill(*cluster.members)
        for member in cluster.members:
            member.start()
        cluster.more()
    found = cluster.client().values()
    assert found.items() >= cluster.acknowledged.items()
    assert found["/kept"] == "for long"
    until(lambda: not {"/passing", "/expiring"} & client.values().keys(), "what expires is gone")
    assert not [*tmp_path.glob("*.journal")]
    for member in cluster.members:
        member.stop()
    check_that_logs_agree([member.store for member in cluster.members])


def check_that_logs_agree(stores: list[Path]) -> None:
    """What is committed on two nodes is the same there, to the byte. The slowest may lack the last rounds."""
    logs = [raftstore.open(f"segmented://{store}?create=false") for store in stores]
    try:
        end = min(log.commit_index for log in logs) + 1
        start = max(log.first_index for log in logs)
        assert end - start > 50
        assert logs[0].entries(start, end) == logs[1].entries(start, end) == logs[2].entries(start, end)
    finally:
        for log in logs:
            log.close()


def is_nearly_over(client: Client) -> bool:
    """Keep the lock for a second more only. It may be over when this is asked again for a lost answer."""
    done = client.call("set", "/leader", "one", ttl=1, prevValue="one")
    return bool(done) or client.call("get", "/leader") is None


def test_the_leader_lock_is_held_by_one_and_taken_over_when_it_expires(cluster: Cluster) -> None:
    """As Patroni's members compete for it; run by Patroni's own command, as an operator writes it."""
    for member in cluster.members:
        member.start(program="patroni_raft_controller")
    one, other = cluster.client(), cluster.client()
    one.put("/leader", "one", ttl=3600, prevExist=False)
    assert other.call("set", "/leader", "other", ttl=3600, prevExist=False) is False
    assert other.values() == {"/leader": "one"}
    until(lambda: is_nearly_over(one), "the lock expires soon, or has")
    other.put("/leader", "other", ttl=3600, prevExist=False)  # Not before the lock has expired.
    assert one.values() == {"/leader": "other"}
    assert one.call("set", "/leader", "one", ttl=1, prevValue="one") is False
