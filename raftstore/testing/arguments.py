"""What the commands of this package take, judged before anything begins.

`argparse` ends a command with status 2 for a wrong argument; 1 says that a promise was broken.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from raftstore.errors import RaftStoreError
from raftstore.registry import backend_class


def at_least(least: int) -> Callable[[str], int]:
    """An integer from `least` on."""

    def integer(text: str) -> int:
        if (number := int(text)) < least:
            raise ArgumentTypeError(f"at least {least}, not {number}")
        return number

    return integer


def backend(text: str) -> str:
    """The name of a backend that is registered, and whose library is installed."""
    try:
        backend_class(text)
    except RaftStoreError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def file_to_write(text: str) -> Path:
    """A file that can be written when all is done, hours later."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text} is a directory")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"{text} cannot be written")
    return path
