"""One term as the leader: propose, replicate, count, commit (Raft §5.3, §5.4.2, §7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from raftstore import Entry, GapError, LogId, PurgedError, Receipt, Splice, StoreFullError, TruncatedError
from raftstore.aio import AsyncRaftLog

from .kv import decode_machine
from .wire import Append, Appended, Channel, Done, Install

HEARTBEAT_S: Final = 0.1
CALL_S: Final = 5.0
BATCH_BYTES: Final = 1024 * 1024


class Follower:
    """What the leader knows of another node."""

    def __init__(self, channel: Channel, next_index: int) -> None:
        self.channel = channel
        self.next_index = next_index
        """The first entry that was not sent yet, as far as we know."""
        self.match_index = 0
        """Everything up to here is the same as ours there, and durable."""
        self.news = asyncio.Event()


class Leadership:
    """From an election won to `end`. Its work runs in the task group, whose owner calls `run`."""

    def __init__(
        self,
        name: str,
        term: int,
        log: AsyncRaftLog,
        channels: Mapping[str, Channel],
        snapshot: Path,
        committed: asyncio.Event,
        group: asyncio.TaskGroup,
    ) -> None:
        self.term = term
        self.newest_term = term
        self._name = name
        self._log = log
        self._snapshot = snapshot
        self._committed = committed
        self._group = group
        self._ended = asyncio.Event()
        self._next_index = log.next_index
        self._followers = [Follower(channel, self._next_index) for channel in channels.values()]
        self._undurable: dict[int, Entry] = {}
        self._answers: dict[int, asyncio.Future[Done | None]] = {}

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def end(self, newest_term: int = 0) -> None:
        """From here on nothing is proposed, and nothing is counted."""
        self.newest_term = max(self.newest_term, newest_term)
        self._ended.set()
        for index in list(self._answers):
            self.answer(index, None)

    async def run(self) -> None:
        """Keep every follower up to date until the end."""
        tasks = [self._group.create_task(self._replicate(follower)) for follower in self._followers]
        await self._ended.wait()
        for task in tasks:
            task.cancel()

    # --- proposing ---------------------------------------------------------------------------------------

    async def propose(self, kind: int, data: bytes) -> asyncio.Future[Done | None]:
        """Accept a command; the future gets its answer, or None if this leader will not know it.

        Followers are sent the entry while our own disk is still busy with it. So we must never give its index
        to another entry of this term, even if our disk refuses this one. That is why we say where to `start`:
        after a refusal the log raises `GapError`, where it would use the index again.
        """
        index, answer = self._next_index, asyncio.Future[Done | None]()
        try:
            receipt = await self._log.submit_propose(self.term, [data], kind, start=index)
        except GapError:
            self.end()
            answer.set_result(None)
            return answer
        self._next_index += 1
        self._undurable[index] = Entry(self.term, index, data, kind)
        self._answers[index] = answer
        self._group.create_task(self._settle(receipt))
        for follower in self._followers:
            follower.news.set()
        return answer

    async def _settle(self, receipt: Receipt) -> None:
        """Count our own copy: once it is durable, not before.

        `majority_index` adds our durable index by itself; this is only the moment to look at it. If our disk
        had no room, others may have the entry and we do not: we cannot lead on. If a new leader's entries
        replaced it, we do not lead any more.
        """
        try:
            await receipt
        except (StoreFullError, TruncatedError):
            self.end()
        finally:
            del self._undurable[receipt.first]
        await self._commit()

    def answer(self, index: int, done: Done | None) -> None:
        """Tell the client that waits for `index`, if one does."""
        answer = self._answers.pop(index, None)
        if answer is not None and not answer.done():
            answer.set_result(done)

    # --- committing --------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Raft's commit rule. It counts only entries of our own term, and of ours only what is durable."""
        if self.is_over:
            return
        index = self._log.majority_index([follower.match_index for follower in self._followers], self.term)
        if index is not None:
            await self._log.commit_to(index)
            self._committed.set()

    # --- replicating -------------------------------------------------------------------------------------

    async def _replicate(self, follower: Follower) -> None:
        """Send what there is, at once; else a heartbeat. A slow answer does not keep the next one back."""
        async with asyncio.TaskGroup() as exchanges:
            while True:
                follower.news.clear()
                exchange = exchanges.create_task(self._exchange(follower))
                await asyncio.wait([exchange], timeout=HEARTBEAT_S)
                if exchange.done() and follower.next_index >= self._next_index:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(follower.news.wait(), HEARTBEAT_S)

    async def _exchange(self, follower: Follower) -> None:
        """Send one message and learn from the answer.

        If there is none, the same is sent again: to `splice` a duplicate is no news, whatever came between.
        """
        start = follower.next_index
        try:
            request = await self._message(start)
            follower.next_index = _end(request)
            reply = await follower.channel.call(request, CALL_S)
        except OSError:
            reply = None
        if not isinstance(reply, Appended):
            follower.next_index = min(follower.next_index, start)
            await asyncio.sleep(HEARTBEAT_S)
        elif reply.outcome is None:
            self.end(reply.term)
        elif reply.outcome.matched:
            follower.match_index = max(follower.match_index, reply.outcome.match_index)
            follower.next_index = max(follower.next_index, follower.match_index + 1)
            await self._commit()
        else:
            retry = min(self._where_to_look(reply.outcome), start - 1)
            follower.next_index = max(follower.match_index + 1, retry)

    def _where_to_look(self, outcome: Splice) -> int:
        """The follower's conflict hint (Raft §5.3): the end of its term here, or its start there."""
        assert outcome.conflict is not None
        ours = self._log.last_index_of_term(outcome.conflict.term)
        return outcome.conflict.index if ours is None else ours + 1

    async def _message(self, start: int) -> Append | Install:
        """The entries from `start` on; the snapshot instead, if they were purged after one."""
        try:
            prev = LogId(self._term_at(start - 1), start - 1)
            entries = await self._entries(start)
        except PurgedError:
            data = await asyncio.to_thread(self._snapshot.read_bytes)
            return Install(self.term, self._name, decode_machine(data).applied, data)
        return Append(self.term, self._name, prev, entries, self._log.commit_index)

    def _term_at(self, index: int) -> int:
        """What is above the last entry that the log shows is on its way to our disk: of our own term."""
        term = self._log.term(index)
        return self.term if term is None else term

    async def _entries(self, start: int) -> list[Entry]:
        """From the log, then our copies of what `DiskFirst` does not show before it is durable."""
        entries = await self._log.entries(start, bytes_max=BATCH_BYTES)
        room = BATCH_BYTES - sum([len(entry.data) for entry in entries])
        while room > 0 and (entry := self._undurable.get(start + len(entries))) is not None:
            entries.append(entry)
            room -= len(entry.data)
        return entries


def _end(request: Append | Install) -> int:
    """The index after what `request` brings."""
    if isinstance(request, Install):
        return request.last.index + 1
    return request.prev.index + len(request.entries) + 1
