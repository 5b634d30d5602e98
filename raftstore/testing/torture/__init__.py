"""Whether a disk keeps what a store on it acknowledged: kills, power cuts and a real loss of power.

`raftstore torture PATH` does all of it with a configuration of the user's own.
"""
