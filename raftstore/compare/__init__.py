"""Backends, strategies and flush policies side by side, on the disk they are meant for.

Every cell of the comparison (a backend with a strategy and a flush policy) does the same work in every round.
Rounds are interleaved: a noisy neighbour hits all cells alike. Beside every measured slice of writes a bare
loop writes as much to the same disk; the ratio of the two is what a cell is judged by.
"""
