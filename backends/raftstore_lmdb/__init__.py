"""The disk backend `lmdb`: a Raft log in an LMDB environment."""

from raftstore_lmdb._backend import LmdbBackend

__all__ = ["LmdbBackend"]
