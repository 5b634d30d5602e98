"""ARCHITECTURE.md names the test that holds each invariant: those tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_test_that_the_architecture_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("raftstore/testing/**/*.py")]
    defined = {name for file in sources for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert len(named) > 20
    assert named <= defined


def test_every_file_that_the_documents_link_to_exists() -> None:
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (ROOT / target).exists(), (document.name, target)
