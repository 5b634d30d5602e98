"""One node: elections, the follower's side, and the state machine (Raft §5.1, §5.2, §5.4.1, §7).

All that Raft must not forget is in the log: there is no second copy of term, vote or commit index here. A
step that decides something takes its *turn*, one step at a time, so that nothing changes between the look
and the decision. Waiting for the disk goes on outside the turn where Raft allows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from raftstore import (
    BackpressureError,
    HardState,
    Splice,
    StoreFullError,
    TruncatedError,
)
from raftstore.aio import AsyncRaftLog

from . import kv
from .leader import Leadership
from .wire import (
    Append,
    Appended,
    AskVote,
    Channel,
    Command,
    Install,
    Look,
    Redirect,
    Refused,
    Reply,
    Request,
    Seen,
    Voted,
    serve,
)

ELECTION_S: Final = (0.6, 1.2)
"""How long a node hears nothing before it stands for election. Much longer than a heartbeat and an fsync."""
APPLY_BYTES: Final = 1024 * 1024


class Node:
    """A member of a cluster that is the same for ever: `addresses` are those of all members, by name."""

    def __init__(
        self,
        name: str,
        addresses: Mapping[str, str],
        log: AsyncRaftLog,
        snapshot: Path,
        *,
        snapshot_every: int = 10_000,
    ) -> None:
        self.name = name
        self._address = addresses[name]
        self._channels = {peer: Channel(each) for peer, each in addresses.items() if peer != name}
        self._log = log
        self._snapshot = snapshot
        self._snapshot_every = snapshot_every
        self._machine = kv.load(snapshot)
        self._snapshot_index = self._machine.applied.index
        self._turn = asyncio.Lock()
        self._committed = asyncio.Event()
        self._leader: str | None = None
        self._leadership: Leadership | None = None
        self._silent_at = 0.0

    async def run(self) -> None:
        """Take part until cancelled. Raises what makes it impossible: a failed disk, damage, divergence."""
        await self._restart()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(serve(self._address, self.handle))
                group.create_task(self._apply_for_ever())
                group.create_task(self._stand_for_ever())
        finally:
            for channel in self._channels.values():
                await channel.close()

    async def handle(self, request: Request) -> Reply:
        """Answer a peer or a client. What it raises ends the node: it must not go on as if it knew."""
        try:
            match request:
                case AskVote():
                    return await self._vote(request)
                case Append():
                    return await self._append(request)
                case Install():
                    return await self._install(request)
                case Command():
                    return await self._execute(request)
                case Look():
                    return self._look()
        except (StoreFullError, BackpressureError) as error:
            return Refused(str(error))  # Nothing has changed. There may be room later: go on.

    # --- restart -----------------------------------------------------------------------------------------

    async def _restart(self) -> None:
        """Bring log and snapshot together after a crash at any moment.

        The file is always replaced first, and is durable before the log drops what it covers. So it can only
        be ahead of the log; `install_snapshot` then makes up for the step that was cut off. What lies between
        the snapshot and the commit index is applied again.
        """
        if self._machine.applied.index < self._log.anchor.index:
            raise RuntimeError(f"{self._snapshot} is older than the log that was purged after it")
        await self._log.install_snapshot(self._machine.applied)
        self._committed.set()
        self._hear()

    # --- elections ---------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """There is a leader, or there may be one soon."""
        self._silent_at = asyncio.get_running_loop().time() + random.uniform(*ELECTION_S)

    async def _stand_for_ever(self) -> None:
        while True:
            left_s = self._silent_at - asyncio.get_running_loop().time()
            if left_s > 0:
                await asyncio.sleep(left_s)
                continue
            ask = await self._stand()
            if ask is not None and await self._is_elected(ask):
                await self._lead(ask.term)

    async def _stand(self) -> AskVote | None:
        """Begin a term and vote for ourselves. The vote is durable before anybody is asked for theirs."""
        async with self._turn:
            if asyncio.get_running_loop().time() < self._silent_at:
                return None  # Somebody was heard while we waited for our turn.
            self._hear()
            self._leader = None
            term = self._log.hard_state.term + 1
            await self._log.save_hard_state(HardState(term, self.name))
            return AskVote(term, self.name, self._log.last)

    async def _is_elected(self, ask: AskVote) -> bool:
        """Whether a majority votes for us; ours is one of the votes."""
        missing = (len(self._channels) + 1) // 2
        calls = [asyncio.create_task(self._ask(channel, ask)) for channel in self._channels.values()]
        try:
            waiting = set(calls)
            while missing > 0 and waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for vote in [call.result() for call in done]:
                    if vote is not None:
                        await self._catch_up(vote.term)
                        missing -= vote.granted
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        return missing <= 0

    async def _ask(self, channel: Channel, ask: AskVote) -> Voted | None:
        """Ask, and no more: this may be cancelled, and the entry into a term must be durable or not begun."""
        try:
            reply = await channel.call(ask, ELECTION_S[0])
        except OSError:
            return None
        return reply if isinstance(reply, Voted) else None

    async def _vote(self, ask: AskVote) -> Voted:
        """Vote, at most once in a term, and only for a log that holds everything we have acknowledged.

        What we took from the last leader may still be on its way to the disk, and its acknowledgement leaves
        when it gets there. So it counts: we compare `last_accepted`, not `last`, which under `DiskFirst` is
        what is durable. Ids compare as Raft compares logs (§5.4.1).
        """
        async with self._turn:
            state = self._log.hard_state
            if ask.term < state.term:
                return Voted(state.term, granted=False)
            if ask.term > state.term:
                self._step_down()
                state = HardState(ask.term)
            granted = state.voted_for in (None, ask.candidate) and ask.last >= self._log.last_accepted
            if granted:
                state = HardState(ask.term, ask.candidate)
                self._hear()
            await self._log.save_hard_state(state)  # Durable before the reply, under every strategy.
            return Voted(ask.term, granted)

    async def _lead(self, term: int) -> None:
        """Lead until the end of the term, with a first entry: without one, older entries never commit."""
        async with asyncio.TaskGroup() as group:
            async with self._turn:
                if self._log.hard_state.term != term:
                    return
                lead = Leadership(
                    self.name, term, self._log, self._channels, self._snapshot, self._committed, group
                )
                self._leader, self._leadership = self.name, lead
                try:
                    await lead.propose(kv.NEW_TERM, b"")
                except (StoreFullError, BackpressureError):
                    lead.end()  # Somebody with more room should lead.
            await lead.run()
        if self._leadership is lead:
            self._step_down()
        await self._catch_up(lead.newest_term)
        self._hear()

    def _step_down(self) -> None:
        """At once, before anything waits: what is promised to another leader must not be counted for us."""
        self._leader = None
        if self._leadership is not None:
            self._leadership.end()
            self._leadership = None

    async def _catch_up(self, term: int) -> None:
        """Be in `term`, if it is a newer one."""
        async with self._turn:
            await self._enter(term)

    async def _enter(self, term: int) -> None:
        """As `_catch_up`, for those whose turn it is. A new term begins without a vote, durably."""
        if term > self._log.hard_state.term:
            self._step_down()
            await self._log.save_hard_state(HardState(term))

    # --- following ---------------------------------------------------------------------------------------

    async def _follow(self, request: Append | Install) -> bool:
        """Accept the sender as the leader; False if its term is over. For those whose turn it is."""
        if request.term < self._log.hard_state.term:
            return False
        await self._enter(request.term)
        self._leader = request.leader
        self._hear()
        return True

    async def _append(self, request: Append) -> Appended | Refused:
        """Take the leader's entries; acknowledge them when they are durable.

        `submit_splice` accepts them at once, so the turn is free while the disk works, and what arrives
        meanwhile shares the next fsync. A duplicate's receipt waits for the original. The commit index is
        bound by `match_index`: what lies beyond may be left from another leader.
        """
        async with self._turn:
            if not await self._follow(request):
                return Appended(self._log.hard_state.term)
            receipt = await self._log.submit_splice(request.prev, request.entries)
        outcome = receipt.splice
        assert outcome is not None
        if outcome.matched:
            try:
                await receipt
            except TruncatedError:
                return Refused("a newer leader's entries came in between")
            await self._log.commit_to(min(request.commit, outcome.match_index))
            self._committed.set()
        return Appended(request.term, outcome)

    async def _install(self, request: Install) -> Appended:
        """Put the leader's snapshot in the place of ours: the file first, then the log, then the machine."""
        async with self._turn:
            if not await self._follow(request):
                return Appended(self._log.hard_state.term)
            if request.last.index > self._log.commit_index:
                await asyncio.to_thread(kv.save, self._snapshot, request.data)
                await self._log.install_snapshot(request.last)
                self._machine = kv.decode_machine(request.data)
                self._snapshot_index = request.last.index
                self._hear()
            return Appended(request.term, Splice(matched=True, match_index=request.last.index))

    # --- the state machine -------------------------------------------------------------------------------

    async def _execute(self, command: Command) -> Reply:
        """Replicate a client's command and apply it. Reads go the same way: so they are never stale."""
        async with self._turn:
            lead = self._leadership
            if lead is None or lead.is_over:
                return Redirect(self._leader)
            answer = await lead.propose(kv.COMMAND, kv.encode(command))
        return await answer or Redirect(self._leader)

    async def _apply_for_ever(self) -> None:
        while True:
            await self._committed.wait()
            self._committed.clear()
            async with self._turn:
                await self._apply()
                await self._make_snapshot()

    async def _apply(self) -> None:
        """Apply what is committed, and answer the clients who wait for it."""
        while entries := await self._log.entries(
            self._machine.applied.index + 1, self._log.commit_index + 1, bytes_max=APPLY_BYTES
        ):
            for entry in entries:
                done = self._machine.apply(entry)
                if self._leadership is not None:
                    self._leadership.answer(entry.index, done)

    async def _make_snapshot(self) -> None:
        """Every so many entries. The log is purged when the file is durable, but for some entries.

        These are for followers that are only a little behind. A machine too large to be written while the
        node stands still would be copied first, or written by a forked child.
        """
        applied = self._machine.applied.index
        if applied - self._snapshot_index < self._snapshot_every:
            return
        await asyncio.to_thread(kv.save, self._snapshot, kv.encode(self._machine))
        self._snapshot_index = applied
        await self._log.purge(applied - self._snapshot_every // 2)

    def _look(self) -> Seen:
        log, machine = self._log, self._machine
        return Seen(
            name=self.name,
            leader=self._leader,
            term=log.hard_state.term,
            anchor=log.anchor,
            last=log.last,
            commit_index=log.commit_index,
            applied=machine.applied,
            values=machine.values,
        )
