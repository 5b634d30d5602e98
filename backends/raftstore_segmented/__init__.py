"""The default disk backend of raftstore: raw, zero-filled segment files. Its format: FORMAT.md."""

from raftstore_segmented.backend import SegmentedBackend

__all__ = ["SegmentedBackend"]
