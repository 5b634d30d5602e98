"""A Patroni Raft cluster moves to raftstore and back, member by member, as `docs/PATRONI.md` says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pysyncobj")
pytest.importorskip("typer")
pytest.importorskip("rich")

from patroni_tools import PATIENCE_S, Cluster, PatroniMember, kill, needs_patroni

from raftstore.adapters.pysyncobj.journal_file import meta_path

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
