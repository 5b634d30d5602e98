"""`python -m raftstore.adapters.pysyncobj PROGRAM …`: run a Python program with `install` in force.

For programs that bring PySyncObj with them and cannot be changed, as Patroni's: their journals are stores,
and nothing but the command line says so.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from raftstore.errors import RaftStoreError

COULD_NOT_RUN = 2


def main(arguments: list[str]) -> None:
    """Install, then become the program. Exits with 2 if that cannot be."""
    parsed = _parser().parse_args(arguments)
    program = find(parsed.program)
    if program is None:
        _fail(f"there is no program {parsed.program} beside {sys.executable} or on the PATH")
    try:
        from raftstore.adapters.pysyncobj.patch import install

        install(parsed.store, adopt=parsed.adopt)
    except (RaftStoreError, OSError) as error:
        _fail(str(error))
    sys.argv = [program, *parsed.arguments]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(program).parent)  # as Python does it for a script
    runpy.run_path(program, run_name="__main__")


def find(program: str) -> str | None:
    """The script of that name beside the Python that runs, else on the PATH; or the path itself."""
    if os.sep in program:
        return program if Path(program).is_file() else None
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(program, path=os.pathsep.join(places))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raftstore.adapters.pysyncobj",
        description="Run a Python program, for example patroni, whose PySyncObj journals are stores.",
    )
    parser.add_argument(
        "--store",
        default="segmented://{path}",
        metavar="TEMPLATE",
        help="URL or TOML file of a store; {path} is the journal file that the program names, {name} its "
        "last part (default: %(default)s)",
    )
    parser.add_argument(
        "--adopt", action="store_true", help="take a store that another node used: the node has a new address"
    )
    parser.add_argument("program", help="a Python script: its path, or the name of an installed command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's own")
    return parser


def _fail(message: str) -> NoReturn:
    print(f"{_parser().prog}: {message}", file=sys.stderr)
    sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
