"""A client of a Patroni Raft cluster, as patronictl is one: `python patroni_client.py ADDRESS…`.

Takes calls of `KVStoreTTL` on stdin, `[number, method, arguments, keywords]` a line, runs them beside each
other, each as Patroni would, and answers `[number, result]` on stdout. Ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from patroni.dcs.raft import KVStoreTTL  # type: ignore[import-untyped,unused-ignore]


def main() -> None:
    store: Any = KVStoreTTL(
        None,
        None,
        None,
        patronictl=True,
        partner_addrs=sys.argv[1:],
        retry_timeout=30,
        commandsWaitLeader=False,
    )
    store.conf.connectionRetryTime = 0.2
    store.startAutoTick()
    for line in sys.stdin:
        threading.Thread(target=answer, args=(store, json.loads(line)), daemon=True).start()
    os._exit(0)


def answer(store: Any, call: list[Any]) -> None:
    number, method, arguments, keywords = call
    result = getattr(store, method)(*arguments, **keywords)
    os.write(1, json.dumps([number, result]).encode() + b"\n")


if __name__ == "__main__":
    main()
