"""A Patroni Raft cluster moves to raftstore and back, member by member, as `docs/PATRONI.md` says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pysyncobj")
pytest.importorskip("typer")
pytest.importorskip("rich")

from patroni_tools import PATIENCE_S, Cluster, PatroniMember, kill, needs_patroni, until

from raftstore.adapters.pysyncobj.journal_file import meta_path

JOIN_S = 30.0

pytestmark = [needs_patroni, pytest.mark.backend("segmented")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_members_move_one_by_one_and_back_while_the_others_go_on(cluster: Cluster) -> None:
    for member in cluster.members:
        member.start(on_raftstore=False)
    client = cluster.client()
    client.put("/first", "before all")
    check_that_nothing_starts_beside_the_journal(cluster.members[0])
    with cluster.writing(client):
        for member in cluster.members:
            cluster.more()
            member.stop()
            move(member)
            member.start()
        cluster.more()
    kill(*cluster.members)  # Their own journals would survive this, too: it shows that the stores are used.
    for member in cluster.members:
        member.start()
    check(cluster)
    with cluster.writing(client):
        for member in cluster.members:
            cluster.more()
            member.stop()
            move_back(member)
            member.start(on_raftstore=False)
        cluster.more()
    check(cluster)
    assert not any(member.store.exists() for member in cluster.members)


def test_a_member_that_lost_its_disk_joins_anew(cluster: Cluster) -> None:
    lost, *others = cluster.members
    for member in cluster.members:
        member.start()
    client = cluster.client()
    with cluster.writing(client):
        cluster.more()
    kill(lost)
    shutil.rmtree(lost.store)
    until(lambda: is_member(lost, others, "-remove", lost.address) is False, "it is removed")
    until(lambda: is_member(lost, others[::-1]) is False, "the other one knows")
    until(lambda: adds_itself(lost, others), "it has added itself")
    kill(others[0])  # Only with the member that joined there is a majority now.
    client.put("/last", "with a member that joined anew")
    found = cluster.client().values()
    assert found.items() >= cluster.acknowledged.items()


def adds_itself(lost: PatroniMember, others: list[PatroniMember]) -> bool:
    """Whether both others take it for a member soon. It asks once, when it starts: there may be no leader."""
    lost.start()
    end = time.monotonic() + JOIN_S
    while time.monotonic() < end:
        if is_member(lost, others) and is_member(lost, others[::-1]):
            return True
    kill(lost)
    return False


def is_member(member: PatroniMember, asked: list[PatroniMember], *order: str) -> bool | None:
    """What one of two others says by PySyncObj's own command, after an `order` if any. None: nothing."""
    first, second = asked
    admin = [sys.executable, "-m", "pysyncobj.syncobj_admin", "-conn", first.address]
    said = ""
    for words in filter(None, [order, ("-status",)]):
        done = subprocess.run([*admin, *words], capture_output=True, timeout=PATIENCE_S, check=False)
        said = done.stdout.decode()
    return member.address in said if second.address in said else None


def check_that_nothing_starts_beside_the_journal(member: PatroniMember) -> None:
    member.stop()
    member.start()
    assert member.wait() == 1
    assert "of PySyncObj's own" in member.said()
    assert "raftstore import-pysyncobj" in member.said()
    assert not member.store.exists()
    member.start(on_raftstore=False)


def move(member: PatroniMember) -> None:
    said = raftstore("import-pysyncobj", str(member.journal), f"segmented://{member.store}")
    assert "imported and verified" in said
    for file in (member.journal, meta_path(member.journal)):
        file.rename(f"{file}.before-raftstore")


def move_back(member: PatroniMember) -> None:
    said = raftstore("export-pysyncobj", f"segmented://{member.store}", str(member.journal))
    assert "exported and verified" in said
    shutil.rmtree(member.store)


def raftstore(*arguments: str) -> str:
    command = [sys.executable, "-c", "from raftstore.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(cluster: Cluster) -> None:
    """Somebody who knows nothing yet is told everything that was acknowledged."""
    found = cluster.client().values()
    assert found["/first"] == "before all"
    assert found.items() >= cluster.acknowledged.items()
    assert len(cluster.acknowledged) > 100
