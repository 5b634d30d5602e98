"""The durable log under a Raft node: entries, term, vote and purge boundary, on disk."""
