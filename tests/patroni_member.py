"""Patroni's own daemon, `patroni_raft_controller`, that looks for its peers again sooner than after 5 s."""

from __future__ import annotations

import functools
from typing import Any

import pysyncobj
from patroni.raft_controller import main  # type: ignore[import-untyped,unused-ignore]

_init: Any = pysyncobj.SyncObjConf.__init__
pysyncobj.SyncObjConf.__init__ = functools.partialmethod(_init, connectionRetryTime=0.2)

if __name__ == "__main__":
    main()
