"""`python -m raftstore`: the command `raftstore`."""

from raftstore.cli import main

main()
