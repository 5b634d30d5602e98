"""Opening, locking, leaving: second processes, kills, exits without close, garbage, forks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from log_tools import both

import raftstore
from raftstore.config import Limits, StoreConfig
from raftstore.errors import StoreLockedError
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.tools import PATIENCE_S, entry, span

pytestmark = pytest.mark.backend("segmented")

PROLOGUE = """
import gc, os, signal, sys, threading, time
import raftstore
from raftstore.entry import Entry, HardState, LogId
def entries(start, stop):
    return [Entry(1, i, f"{i}@1".encode()) for i in range(start, stop)]
log = raftstore.open(sys.argv[1])
"""


def url(path: Path, strategy: Strategy = DiskFirst(), extra: str = "") -> str:  # noqa: B008
    """A small store at `path`."""
    return f"segmented://{path}?strategy={type(strategy).__name__}&segment_bytes=64KiB{extra}"


def start(script: str, where: str) -> subprocess.Popen[str]:
    """A child that runs `script` with `log` open at `where`; warnings are errors."""
    code = PROLOGUE + textwrap.dedent(script)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, where]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run_to_end(script: str, where: str) -> str:
    """What the child printed. Fails if it hangs, fails or complains."""
    with start(script, where) as child:
        try:
            out, err = child.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert (child.returncode, err) == (0, ""), err
    return out


def line_of(child: subprocess.Popen[str]) -> str:
    """The next line that the child prints."""
    assert child.stdout is not None
    watchdog = threading.Timer(PATIENCE_S, child.kill)
    watchdog.start()
    line = child.stdout.readline().strip()
    watchdog.cancel()
    watchdog.join()
    return line


@both
def test_leaving_without_close_keeps_everything_acknowledged(tmp_path: Path, strategy: Strategy) -> None:
    where = url(tmp_path / "s", strategy, "&flush_policy=Batch:100000:100000")
    script = "log.save_hard_state(HardState(3, 'a')); log.append(entries(1, 6)); log.commit_to(4)"
    if strategy == DiskFirst():
        where = url(tmp_path / "s", strategy)
    assert run_to_end(script, where) == ""
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 6)
        assert log.hard_state == raftstore.HardState(3, "a", 4)


def test_leaving_keeps_what_was_only_submitted(tmp_path: Path) -> None:
    where = url(tmp_path / "s", DiskFirst(), "&flush_policy=Batch:100000:100000")
    run_to_end("log.submit(entries(1, 60))", where)
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 60)


def test_leaving_while_other_threads_write_does_not_hang(tmp_path: Path) -> None:
    script = """
        def work():
            while True:
                try:
                    log.propose(1, [b"x"])
                except raftstore.RaftStoreError:
                    return
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        while log.durable_index < 50:
            time.sleep(0.001)
        print(log.durable_index)
    """
    told = int(run_to_end(script, url(tmp_path / "s")))
    with raftstore.open(url(tmp_path / "s")) as log:
        assert log.last_index >= told


def test_leaving_by_an_error_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    where = url(tmp_path / "s", MemFirst(), "&flush_policy=Batch:100000:100000")
    with start("log.append(entries(1, 6)); raise SystemExit(3)", where) as child:
        child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 3
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 6)


@both
def test_a_log_that_is_garbage_is_flushed_and_unlocked(tmp_path: Path, strategy: Strategy) -> None:
    where = url(tmp_path / "s", strategy, "&lock_timeout_ms=120000")
    log = raftstore.open(where)
    log.append(span(1, 6))
    log.submit(span(6, 9))
    del log
    gc.collect()
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 9)


def test_a_log_in_a_cycle_is_garbage_too(tmp_path: Path) -> None:
    where = url(tmp_path / "s", MemFirst(), "&lock_timeout_ms=120000")
    log = raftstore.open(where)
    log.append(span(1, 6))
    cycle: list[object] = [log]
    cycle.append(cycle)
    del log, cycle
    gc.collect()
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 6)


class Node:
    """As a Raft node would use a log: the node owns the log, the log calls the node."""

    def __init__(self, where: str) -> None:
        self.log = raftstore.open(where)
        self.log.on_durable(self.advance)

    def advance(self, _index: int) -> None:
        """Send what is durable."""


def test_a_callback_into_its_owner_does_not_keep_a_log_alive(tmp_path: Path) -> None:
    where = url(tmp_path / "s", MemFirst(), "&lock_timeout_ms=120000")
    node = Node(where)
    node.log.append(span(1, 6))
    del node
    gc.collect()
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 6)


def test_garbage_collected_in_the_middle_of_anything_does_not_deadlock(tmp_path: Path) -> None:
    script = """
        import raftstore.testing.tools
        path = sys.argv[1].split("?")[0]
        for number in range(30):
            other = raftstore.open(f"{path}-{number}?segment_bytes=64KiB")
            other.submit(entries(1, 4))
            cycle = [other]; cycle.append(cycle)
            del other, cycle
            log.append(entries(number * 10 + 1, number * 10 + 11))
            if number % 7 == 0:
                gc.collect()
        gc.collect()
        print(log.last_index)
        log.close()
    """
    assert run_to_end(script, url(tmp_path / "s")).strip() == "300"
    with raftstore.open(url(tmp_path / "s-3", extra="&lock_timeout_ms=120000")) as log:
        assert log.entries(1) == span(1, 4)


def test_a_thread_for_each_of_ten_thousand_appends(tmp_path: Path) -> None:
    with raftstore.open(url(tmp_path / "s", MemFirst())) as log:
        for index in range(1, 10_001):
            thread = threading.Thread(target=log.append, args=([entry(index)],))
            thread.start()
            thread.join()
        assert log.last_index == 10_000
    with raftstore.open(url(tmp_path / "s")) as log:
        assert (log.last_index, log.entry(10_000)) == (10_000, entry(10_000))


# --- other processes ---------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_store(tmp_path: Path) -> None:
    where = url(tmp_path / "s", extra="&lock_timeout_ms=30")
    with start("log.append(entries(1, 3)); print(os.getpid(), flush=True); sys.stdin.read()", where) as child:
        pid = int(line_of(child))
        with pytest.raises(StoreLockedError) as caught:
            raftstore.open(where)
        assert caught.value.pid == pid == child.pid
        assert str(pid) in str(caught.value)
        child.communicate(timeout=PATIENCE_S)
    with raftstore.open(where) as log:
        assert log.last_index == 2


def test_after_sigkill_the_store_opens_at_once(tmp_path: Path) -> None:
    where = url(tmp_path / "s", extra="&lock_timeout_ms=120000")
    with start("log.append(entries(1, 3)); print('ready', flush=True); sys.stdin.read()", where) as child:
        assert line_of(child) == "ready"
        child.send_signal(signal.SIGKILL)
        with raftstore.open(where) as log:
            assert log.entries(1) == span(1, 3)
        child.wait(PATIENCE_S)


def test_opening_waits_for_a_dying_holder(tmp_path: Path) -> None:
    where = url(tmp_path / "s", extra="&lock_timeout_ms=120000")
    first = raftstore.open(where)
    first.append(span(1, 3))
    closer = threading.Timer(0.1, first.close)
    closer.start()
    with raftstore.open(where) as log:
        assert log.last_index == 2
    closer.join()


def test_a_refused_opening_leaves_nothing_behind(tmp_path: Path) -> None:
    where = url(tmp_path / "s", extra="&lock_timeout_ms=1")
    with raftstore.open(where):
        threads = set(threading.enumerate())
        for _ in range(20):
            with pytest.raises(StoreLockedError):
                raftstore.open(where)
        assert set(threading.enumerate()) <= threads


@both
def test_in_a_forked_child_every_member_raises_and_the_parent_goes_on(
    tmp_path: Path, strategy: Strategy
) -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        log.append(entries(1, 4))
        receipt = log.submit(entries(4, 6))
        pid = os.fork()
        if pid == 0:
            failed = []
            for call in (lambda: log.append(entries(6, 7)), lambda: log.entries(1), lambda: log.hard_state,
                         lambda: log.last_index, lambda: log.flush(), lambda: log.commit_to(1),
                         lambda: log.save_hard_state(HardState(9, "z")), lambda: log.status(),
                         lambda: log.wait_durable(1), lambda: log.term(1), lambda: log.durable_index):
                try:
                    failed.append(call())
                except raftstore.StoreClosedError:
                    pass
            log.close()
            del log
            gc.collect()
            os._exit(len(failed))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        receipt.wait(120)
        log.append(entries(6, 10))
        log.close()
    """
    where = url(tmp_path / "s", strategy)
    run_to_end(script, where)
    with raftstore.open(where) as log:
        assert log.entries(1) == span(1, 10)
        assert log.hard_state.voted_for is None


def test_a_forked_child_does_not_keep_the_store_locked(tmp_path: Path) -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        log.append(entries(1, 4))
        ready, hold = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            os.read(ready, 1)
            os._exit(0)
        log.close()
        again = raftstore.open(sys.argv[1])
        print(again.last_index)
        again.close()
        os.close(hold)
        os.waitpid(pid, 0)
    """
    assert run_to_end(script, url(tmp_path / "s", extra="&lock_timeout_ms=5000")).strip() == "3"


def test_a_child_forked_after_an_interrupted_close_leaves_the_store_to_its_parent(tmp_path: Path) -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        def interrupted(): raise KeyboardInterrupt
        log._session.store.close = interrupted
        try:
            log.close()
        except KeyboardInterrupt:
            del log._session.store.close
        pid = os.fork()
        if pid == 0:
            log.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        try:
            raftstore.open(sys.argv[1])
        except raftstore.StoreLockedError:
            print("the parent has it")
        log.close()
    """
    where = url(tmp_path / "s", extra="&lock_timeout_ms=50")
    assert run_to_end(script, where).strip() == "the parent has it"
    raftstore.open(where).close()


def test_a_forked_child_may_leave_as_it_likes(tmp_path: Path) -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        log.append(entries(1, 4))
        stop = threading.Event()
        def work():
            while not stop.is_set():
                log.propose(1, [b"x"])
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()
        for thread in threads: thread.join()
        last = log.last_index
        log.close()
        with raftstore.open(sys.argv[1]) as again:
            assert again.last_index == last
    """
    run_to_end(script, url(tmp_path / "s"))


def test_an_interrupted_opening_can_be_repeated(tmp_path: Path) -> None:
    config = StoreConfig(path=tmp_path / "s", limits=Limits(lock_timeout_ms=120_000))
    holder = raftstore.open(config)
    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    interrupt = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # however slowly the timer starts
            interrupt.start()
            raftstore.open(config)
    finally:
        interrupt.join()
        signal.signal(signal.SIGUSR1, previous)
    holder.append(span(1, 3))
    holder.close()
    with raftstore.open(config) as log:
        assert log.last_index == 2


def test_commit_reaches_the_disk_within_a_moment_without_being_asked(tmp_path: Path) -> None:
    where = url(tmp_path / "s")
    script = """
        log.append(entries(1, 9))
        before = log.status().flushes
        log.commit_to(6)
        while log.status().flushes == before:
            time.sleep(0.01)
        print('ready', flush=True)
        sys.stdin.read()
    """
    with start(script, where) as child:
        assert line_of(child) == "ready"
        child.send_signal(signal.SIGKILL)
        child.wait(PATIENCE_S)
    with raftstore.open(where) as log:
        assert log.commit_index == 6


def test_threads_end_when_their_log_is_closed(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for number in range(5):
        with raftstore.open(url(tmp_path / str(number))) as log:
            log.append(span(1, 3))
            assert set(threading.enumerate()) - before
        assert not set(threading.enumerate()) - before
