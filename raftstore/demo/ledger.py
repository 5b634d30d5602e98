"""What the clients know: which lines they sent, which were acknowledged, and how long that took."""

from __future__ import annotations

import threading
import time

from raftstore.meter import quantile


class Ledger:
    """The memory of all clients, which no kill touches. Usable from any thread."""

    def __init__(self) -> None:
        # guards the three below
        self._lock = threading.Lock()
        self._sent: dict[int, str] = {}
        self._sent_at: dict[int, float] = {}
        self._latency_s: dict[int, float] = {}

    def send(self, text: str) -> int:
        """Note that a line is about to be sent; returns its id."""
        with self._lock:
            number = len(self._sent) + 1
            self._sent[number] = text
            self._sent_at[number] = time.monotonic()
            return number

    def acknowledge(self, number: int) -> None:
        """Note that a node reported the line as applied. From here on it must never be missing."""
        now = time.monotonic()
        with self._lock:
            self._latency_s.setdefault(number, now - self._sent_at[number])

    @property
    def acknowledged_count(self) -> int:
        return len(self._latency_s)

    @property
    def sent_count(self) -> int:
        return len(self._sent)

    def sent(self) -> dict[int, str]:
        """The text of every line that was sent, by id."""
        with self._lock:
            return dict(self._sent)

    def acknowledged(self) -> set[int]:
        """The ids of all acknowledged lines."""
        with self._lock:
            return set(self._latency_s)

    def latency_ms(self, *quantiles: float) -> list[float]:
        """The given quantiles (0..1) of the time from sending to acknowledgement; 0 if nothing was."""
        with self._lock:
            ordered = sorted(self._latency_s.values())
        if not ordered:
            return [0.0 for _ in quantiles]
        return [1000 * quantile(ordered, share) for share in quantiles]
