"""The `rocksdb` backend: one Raft log in one RocksDB, through the library rocksdict."""

from raftstore_rocksdb.backend import RocksdbBackend

__all__ = ["RocksdbBackend"]
