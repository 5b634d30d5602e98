"""The asyncio example: what a node makes durable before which promise, on a disk that can stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from log_tools import both
from raftstore_asyncio_kv import kv
from raftstore_asyncio_kv.leader import Leadership
from raftstore_asyncio_kv.node import Node
from raftstore_asyncio_kv.wire import (
    Append,
    Appended,
    AskVote,
    Command,
    Done,
    Install,
    Redirect,
    Refused,
    Reply,
    Request,
    Voted,
)

from raftstore import DiskFirst, Entry, HardState, LogId, RaftLog, Splice, Strategy
from raftstore.aio import AsyncRaftLog
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import PATIENCE_S, eventually, run, span

ADDRESSES = {"n1": "127.0.0.1:1", "n2": "127.0.0.1:2", "n3": "127.0.0.1:3"}
NOTHING = LogId(0, 0)
TERM = 5
"""Of the leader that is tested."""


class Stage:
    """The node `n1`, its log and its disk. Nothing runs but what a test calls."""

    def __init__(self, directory: Path, strategy: Strategy) -> None:
        self.disk = MemoryDisk()
        self.log = AsyncRaftLog(open_log(self.disk, strategy))
        self.snapshot = directory / "snapshot"
        self.node = Node("n1", ADDRESSES, self.log, self.snapshot)

    async def begin(self, request: Request) -> asyncio.Task[Reply]:
        """Ask the node, whose disk stands still; return when the request has reached the disk."""
        waiting = self.disk.gate.waiting
        reply = asyncio.create_task(self.node.handle(request))
        if not waiting:
            await asyncio.to_thread(self.disk.gate.wait_for_arrival)
        await asyncio.sleep(0.05)
        return reply


def play(directory: Path, scene: Callable[[Stage], Coroutine[Any, Any, None]], strategy: Strategy) -> None:
    async def main() -> None:
        stage = Stage(directory, strategy)
        async with stage.log:
            try:
                await asyncio.wait_for(scene(stage), PATIENCE_S)
            finally:
                stage.disk.gate.open()

    asyncio.run(main())


def append(term: int, prev: LogId, entries: list[Entry], commit: int = 0) -> Append:
    return Append(term, "n2", prev, entries, commit)


def matched(term: int, index: int) -> Appended:
    return Appended(term, Splice(matched=True, match_index=index))


@both
def test_a_vote_is_durable_before_the_reply(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        with stage.disk.gate.closed():
            reply = await stage.begin(AskVote(3, "n2", NOTHING))
            assert not reply.done()
        assert await reply == Voted(3, granted=True)
        assert stage.disk.state.hard_state is not None
        assert stage.log.hard_state == HardState(3, "n2")

    play(tmp_path, scene, strategy)


@both
def test_two_candidates_of_one_term_do_not_both_get_the_vote(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        with stage.disk.gate.closed():
            first = await stage.begin(AskVote(3, "n2", NOTHING))
            second = await stage.begin(AskVote(3, "n3", NOTHING))
        assert (await first, await second) == (Voted(3, granted=True), Voted(3, granted=False))
        assert await stage.node.handle(AskVote(3, "n2", NOTHING)) == Voted(3, granted=True)

    play(tmp_path, scene, strategy)


class Voter:
    """A channel to a node that says nothing before it is `asked`."""

    address = "nowhere"

    def __init__(self, vote: Voted, asked: asyncio.Event) -> None:
        self._vote = vote
        self._asked = asked

    async def call(self, request: Request, timeout_s: float) -> Reply:
        await self._asked.wait()
        return self._vote


@both
def test_nobody_leads_whose_election_is_won_while_a_newer_term_is_on_its_way_to_the_disk(
    tmp_path: Path, strategy: Strategy
) -> None:
    """Such a node took up a term that its own log knew to be over, and ended."""

    async def scene(stage: Stage) -> None:
        async def elect(ask: AskVote) -> None:
            if await stage.node._is_elected(ask):
                await stage.node._lead(ask.term)

        ask = await stage.node._stand()
        assert ask is not None
        asked = asyncio.Event()
        vars(stage.node)["_channels"] = {
            "n2": Voter(Voted(ask.term, granted=True), asked),
            "n3": Voter(Voted(ask.term + 1, granted=False), asked),
        }
        with stage.disk.gate.closed():
            running = asyncio.create_task(elect(ask))
            await asyncio.sleep(0)
            asked.set()  # Both answers come at once.
            await asyncio.to_thread(stage.disk.gate.wait_for_arrival)
            await asyncio.wait([running], timeout=0.3)
        await running
        assert stage.log.hard_state.term == ask.term + 1
        assert stage.node._leadership is None

    play(tmp_path, scene, strategy)


@both
def test_entries_are_durable_before_they_are_acknowledged(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        await stage.node.handle(append(1, NOTHING, []))
        with stage.disk.gate.closed():
            reply = await stage.begin(append(1, NOTHING, span(1, 4)))
            duplicate = await stage.begin(append(1, NOTHING, span(1, 4)))
            assert not reply.done()
            assert not duplicate.done()
        assert (await reply, await duplicate) == (matched(1, 3), matched(1, 3))
        assert len(stage.disk.state.entries) == 3

    play(tmp_path, scene, strategy)


@both
def test_no_vote_for_a_candidate_that_lacks_what_is_about_to_be_acknowledged(
    tmp_path: Path, strategy: Strategy
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.node.handle(append(1, NOTHING, []))
        with stage.disk.gate.closed():
            acknowledgement = await stage.begin(append(1, NOTHING, span(1, 2)))
            vote = await stage.begin(AskVote(2, "n3", NOTHING))
        assert await acknowledgement == matched(1, 1)
        assert await vote == Voted(2, granted=False)
        assert await stage.node.handle(AskVote(2, "n2", LogId(1, 1))) == Voted(2, granted=True)

    play(tmp_path, scene, strategy)


@both
def test_a_follower_commits_only_what_the_message_verified(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        await stage.node.handle(append(1, NOTHING, span(1, 6)))
        assert await stage.node.handle(append(2, LogId(1, 2), [], commit=4)) == matched(2, 2)
        assert stage.log.commit_index == 2
        assert await stage.node.handle(append(2, LogId(1, 2), run(3, [2]), commit=4)) == matched(2, 3)
        assert (stage.log.commit_index, stage.log.last) == (3, LogId(2, 3))

    play(tmp_path, scene, strategy)


@both
def test_the_term_of_an_older_leader_is_over(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        await stage.node.handle(AskVote(5, "n3", NOTHING))
        assert await stage.node.handle(append(4, NOTHING, span(1, 2))) == Appended(5)
        assert await stage.node.handle(Install(4, "n2", LogId(4, 9), b"")) == Appended(5)
        assert stage.log.is_empty

    play(tmp_path, scene, strategy)


@both
def test_a_full_disk_refuses_and_the_node_goes_on(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage) -> None:
        stage.disk.full = True
        reply = asyncio.create_task(stage.node.handle(append(1, NOTHING, span(1, 2))))
        if isinstance(strategy, DiskFirst):
            assert isinstance(await reply, Refused)
        stage.disk.full = False
        assert await stage.node.handle(append(1, NOTHING, span(1, 2))) == matched(1, 1)
        await reply

    play(tmp_path, scene, strategy)


@both
def test_a_crash_between_the_snapshot_file_and_the_log_is_made_up_for(
    tmp_path: Path, strategy: Strategy
) -> None:
    machine = kv.Machine(applied=LogId(3, 70), values={"a": "1"})

    async def scene(stage: Stage) -> None:
        await stage.node.handle(append(1, NOTHING, span(1, 3)))
        kv.save(stage.snapshot, kv.encode(machine))
        again = Node("n1", ADDRESSES, stage.log, stage.snapshot)
        running = asyncio.create_task(again.run())
        while stage.log.anchor != LogId(3, 70):
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        assert stage.log.is_empty

    play(tmp_path, scene, strategy)


def test_a_node_without_the_snapshot_that_its_log_was_purged_after_does_not_start(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        await stage.log.install_snapshot(LogId(1, 5))
        with pytest.raises(RuntimeError, match="older than the log"):
            await stage.node.run()

    play(tmp_path, scene, DiskFirst())


# --- the leader ------------------------------------------------------------------------------------------


class Listener:
    """A channel to a follower that says nothing before `answer` is set."""

    address = "nowhere"

    def __init__(self) -> None:
        self.heard: list[Append | Install] = []
        self.answer: Callable[[Append | Install], Reply] | None = None

    async def call(self, request: Request, timeout_s: float) -> Reply:
        assert isinstance(request, Append | Install)
        self.heard.append(request)
        while self.answer is None:
            await asyncio.sleep(0.01)
        return self.answer(request)

    def entries(self) -> dict[int, list[Entry]]:
        """What it was sent at each index."""
        sent: dict[int, list[Entry]] = {}
        for message in self.heard:
            for each in message.entries if isinstance(message, Append) else ():
                sent.setdefault(each.index, []).append(each)
        return sent


def yes(request: Append | Install) -> Reply:
    assert isinstance(request, Append)
    return matched(request.term, request.prev.index + len(request.entries))


async def soon(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def lead(
    directory: Path,
    scene: Callable[[Stage, Leadership, Listener], Coroutine[Any, Any, None]],
    strategy: Strategy,
    log: Sequence[Entry] = (),
) -> None:
    """Run `scene` with a new leader that holds `log`, and of whose two followers one says nothing, ever."""

    async def main(stage: Stage) -> None:
        listener, silence = Listener(), Listener()
        await stage.log.save([*log], hard_state=HardState(TERM, "n1"))
        channels: Any = {"n2": listener, "n3": silence}
        async with asyncio.TaskGroup() as group:
            leadership = Leadership("n1", TERM, stage.log, channels, stage.snapshot, asyncio.Event(), group)
            running = group.create_task(leadership.run())
            try:
                await scene(stage, leadership, listener)
            finally:
                stage.disk.gate.open()
                leadership.end()
            await running

    play(directory, main, strategy)


@both
def test_the_leader_sends_before_its_disk_is_done_and_counts_itself_after(
    tmp_path: Path, strategy: Strategy
) -> None:
    async def scene(stage: Stage, leadership: Leadership, listener: Listener) -> None:
        listener.answer = yes
        with stage.disk.gate.closed():
            await leadership.propose(kv.COMMAND, b"x")
            await soon(lambda: 1 in listener.entries())
            await asyncio.sleep(0.05)
            assert (stage.log.durable_index, stage.log.commit_index) == (0, 0)
        await soon(lambda: stage.log.commit_index == 1)
        assert stage.log.durable_index == 1

    lead(tmp_path, scene, strategy)


def test_a_leader_whose_disk_refused_what_it_sent_never_sends_another_entry_in_its_place(
    tmp_path: Path,
) -> None:
    async def scene(stage: Stage, leadership: Leadership, listener: Listener) -> None:
        with stage.disk.gate.closed():
            first = await leadership.propose(kv.COMMAND, b"first")
            await soon(lambda: 1 in listener.entries())
            stage.disk.full = True
        # Without an await: the log knows of the refusal, and the leader does not yet.
        eventually(lambda: stage.log.next_index == 1, "the refused index is free again")
        stage.disk.full = False
        second = await leadership.propose(kv.COMMAND, b"second")
        assert (await first, await second) == (None, None)
        assert leadership.is_over
        assert {each.data for each in listener.entries()[1]} == {b"first"}

    lead(tmp_path, scene, DiskFirst())


@both
@pytest.mark.parametrize(
    "terms", [[], [1], [1, 2, 2, 2, 2, 2, 2], [1, 1, 3, 3, 3, 3, 4], [1, 1, 1, 1, 1]], ids=str
)
def test_a_leader_goes_back_to_where_the_follower_agrees(
    tmp_path: Path, strategy: Strategy, terms: list[int]
) -> None:
    async def scene(stage: Stage, leadership: Leadership, listener: Listener) -> None:
        with open_log(MemoryDisk(), strategy) as theirs:
            theirs.append(run(1, terms))
            await leadership.propose(kv.NEW_TERM, b"")
            listener.answer = lambda request: spliced(theirs, request)
            await soon(lambda: theirs.last == stage.log.last == LogId(TERM, 7))
            assert theirs.entries(1) == await stage.log.entries(1)
            listener.answer = None

    lead(tmp_path, scene, strategy, run(1, [1, 1, 3, 3, 3, 3]))


def spliced(log: RaftLog, request: Append | Install) -> Reply:
    assert isinstance(request, Append)
    return Appended(request.term, log.splice(request.prev, request.entries))


@both
def test_a_newer_term_in_an_answer_ends_the_leader(tmp_path: Path, strategy: Strategy) -> None:
    async def scene(stage: Stage, leadership: Leadership, listener: Listener) -> None:
        answer = await leadership.propose(kv.COMMAND, b"x")
        listener.answer = lambda request: Appended(7)
        assert await answer is None
        assert (leadership.is_over, leadership.newest_term) == (True, 7)

    lead(tmp_path, scene, strategy)


# --- the state machine -----------------------------------------------------------------------------------


def test_a_command_that_is_repeated_is_applied_once() -> None:
    machine = kv.Machine()
    commands = [Command("a", 1, "k", "1"), Command("b", 1, "k", "2"), Command("a", 1, "k", "1")]
    answers = [machine.apply(Entry(1, index, kv.encode(each))) for index, each in enumerate(commands, 1)]
    assert answers == [Done("1", is_set=True), Done("2", is_set=True), Done("1", is_set=True)]
    assert (machine.values, machine.applied) == ({"k": "2"}, LogId(1, 3))


def test_a_value_is_replaced_only_if_it_is_the_expected_one() -> None:
    machine = kv.Machine()
    commands = [
        Command("a", 1, "k", "1", None),
        Command("a", 2, "k", "2", None),
        Command("a", 3, "k", "3", "1"),
        Command("a", 3, "k", "3", "1"),
        Command("b", 1, "k", "4", "1"),
    ]
    answers = [machine.apply(Entry(1, index, kv.encode(each))) for index, each in enumerate(commands, 1)]
    assert answers == [
        Done("1", is_set=True),
        Done("1"),
        Done("3", is_set=True),
        Done("3", is_set=True),
        Done("3"),
    ]


def test_a_snapshot_keeps_all_of_the_machine(tmp_path: Path) -> None:
    machine = kv.Machine()
    machine.apply(Entry(4, 1, kv.encode(Command("a", 1, "k", "1"))))
    kv.save(tmp_path / "snapshot", kv.encode(machine))
    assert kv.load(tmp_path / "snapshot") == machine
    assert [each.name for each in tmp_path.iterdir()] == ["snapshot"]
    assert kv.load(tmp_path / "none") == kv.Machine()


def test_who_is_not_the_leader_says_so(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        assert await stage.node.handle(Command("c", 1, "k")) == Redirect(None)
        await stage.node.handle(append(1, NOTHING, []))
        assert await stage.node.handle(Command("c", 1, "k")) == Redirect("n2")

    play(tmp_path, scene, DiskFirst())
