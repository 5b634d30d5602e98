"""The examples of the README run as they are written, in order, one after the other.

A TOML block that begins with `# NAME` is the file of that name. The directory in which they run also stands
for `/var/lib`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str, text: str) -> list[tuple[int, str]]:
    """The code blocks in `language`, each with the line of the file on which its code begins."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def program(text: str) -> str:
    """All Python blocks in one file, every line where it stands in the README."""
    lines: list[str] = []
    for start, code in blocks("python", text):
        lines += [""] * (start - 1 - len(lines)) + code.splitlines()
    return "\n".join(lines) + "\n"


def test_blocks_keep_their_lines() -> None:
    text = "# title\n```python\na = 1\n```\ntext\n```toml\n# n.toml\n```\n```python\nb = 2\nc = 3\n```\n"
    assert program(text) == "\n\na = 1\n\n\n\n\n\n\nb = 2\nc = 3\n"
    assert blocks("toml", text) == [(7, "# n.toml\n")]


@pytest.mark.backend("segmented")
@pytest.mark.backend("lmdb")
@pytest.mark.backend("rocksdb")
def test_the_examples_of_the_readme_run_as_they_are_written(tmp_path: Path) -> None:
    pytest.importorskip("pysyncobj")
    text = README.read_text().replace("/var/lib", str(tmp_path))
    for _, config in blocks("toml", text):
        name = config.split("\n", 1)[0].removeprefix("# ")
        assert re.fullmatch(r"[\w.]+\.toml", name), f"a TOML block of the README begins with {name!r}"
        (tmp_path / name).write_text(config)
    (tmp_path / "readme.py").write_text(program(text))
    line = [sys.executable, "-W", "error", "readme.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert blocks("python", text)
