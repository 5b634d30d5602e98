"""Coverage-guided fuzzing of every decoder of what stands on a disk: `python -m raftstore.testing.fuzz`.

Whatever the bytes: a result or a documented error, soon, in little memory, and nothing outside the scratch
directory is touched. Most targets can make the checksums of an input right again, because those are no
defence against somebody who can compute them, and only so are the deeper layers reached.
"""
