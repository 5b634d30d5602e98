"""A key-value store on three processes: a small, complete Raft on `raftstore.aio`."""
