"""The checker of histories: what it must accept, what it must refuse, and how it says so."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftstore.testing.linearizability import History, HistoryError, Operation, Recorder, check
from raftstore.testing.linearizability.operation import Kind, Outcome
from raftstore.testing.linearizability.search import UndecidedError, unexplained


def op(
    kind: Kind,
    invoked: int,
    returned: int | None,
    value: str | None = None,
    *,
    expected: str | None = None,
    outcome: Outcome = "ok",
    client: str = "c1",
    key: str = "k",
) -> Operation:
    return Operation(
        client=client,
        key=key,
        kind=kind,
        outcome=outcome,
        invoked_ns=invoked,
        returned_ns=returned,
        value=value,
        expected=expected,
    )


def read(invoked: int, returned: int, value: str | None) -> Operation:
    return op("read", invoked, returned, value)


def write(invoked: int, returned: int | None, value: str, outcome: Outcome = "ok") -> Operation:
    return op("write", invoked, returned, value, outcome=outcome)


def lost(invoked: int, value: str) -> Operation:
    """A write whose client never heard of it again."""
    return op("write", invoked, None, value, outcome="unknown")


def cas(
    invoked: int, returned: int | None, expected: str | None, value: str, outcome: Outcome = "ok"
) -> Operation:
    return op("cas", invoked, returned, value, expected=expected, outcome=outcome)


GOOD: dict[str, list[Operation]] = {
    "nothing happened": [],
    "a register that was never written": [read(1, 2, None)],
    "one after the other": [write(1, 2, "a"), read(3, 4, "a"), write(5, 6, "b"), read(7, 8, "b")],
    "a read beside a write sees the old value": [write(1, 2, "a"), write(3, 6, "b"), read(4, 5, "a")],
    "a read beside a write sees the new value": [write(1, 2, "a"), write(3, 6, "b"), read(4, 5, "b")],
    "equal times are concurrent": [write(1, 2, "a"), write(3, 4, "b"), read(4, 5, "a")],
    "two writes at once, in either order": [write(1, 4, "a"), write(2, 3, "b"), read(5, 6, "a")],
    "an unknown write takes effect late": [
        write(1, 2, "a"), lost(3, "b"), read(4, 5, "a"), read(6, 7, "a"), read(8, 9, "b"), read(10, 11, "b")
    ],
    "an unknown write takes effect after a later write": [
        lost(1, "a"), write(2, 3, "b"), read(4, 5, "b"), read(6, 7, "a")
    ],
    "an unknown write never takes effect": [write(1, 2, "a"), lost(3, "b"), read(4, 5, "a")],
    "a write that failed is never seen": [write(1, 2, "a"), write(3, 4, "b", "fail"), read(5, 6, "a")],
    "a cas succeeds, the next fails": [
        write(1, 2, "a"), cas(3, 4, "a", "b"), cas(5, 6, "a", "c", "fail"), read(7, 8, "b")
    ],
    "a cas creates": [cas(1, 2, None, "a"), read(3, 4, "a")],
    "a cas fails for an unknown write that nobody saw": [
        write(1, 2, "a"), lost(3, "b"), cas(4, 5, "a", "c", "fail")
    ],
    "unknown cas after unknown write, of which only the last is seen": [
        lost(1, "a"), cas(2, None, "a", "b", "unknown"), read(3, 4, "b")
    ],
    "an unknown cas did not match": [
        write(1, 2, "a"), cas(3, 4, "x", "b", "unknown"), read(5, 6, "a")
    ],
    "a value is written again, late": [
        write(1, 2, "a"), write(3, 12, "a"), write(4, 5, "b"), read(6, 7, "b"), read(8, 9, "a")
    ],
    "two cas fail for two unknown stores, and only one of these fits the second": [
        write(1, 2, "x"), lost(3, "v"), cas(4, None, "x", "w", "unknown"), cas(5, 6, "x", "y", "fail"),
        write(7, 8, "z"), cas(9, 10, "z", "y", "fail"),
    ],
    "two unknown cas of the same value, one after an unknown write": [
        lost(1, "a"), cas(2, None, "a", "b", "unknown"), cas(3, None, "x", "b", "unknown"), read(4, 5, "b")
    ],
    "an unknown cas had no effect, its value is from somebody else": [
        cas(1, None, "x", "a", "unknown"), write(2, 3, "a"), read(4, 5, "a")
    ],
    "the same value twice": [write(1, 2, "a"), write(3, 4, "b"), write(5, 6, "a"), read(7, 8, "a")],
    "a read of unknown outcome": [write(1, 2, "a"), op("read", 3, None, outcome="unknown")],
}  # fmt: skip

BAD: dict[str, list[Operation]] = {
    "a value that was never written": [read(1, 2, "a")],
    "a write is lost after it was acknowledged": [write(1, 2, "a"), read(3, 4, None)],
    "a write is lost and the one before it is back": [write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")],
    "a stale read": [write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "b"), read(7, 8, "a")],
    "a stale read beside the write that others have seen": [
        write(1, 2, "a"), write(3, 12, "b"), read(4, 5, "b"), read(6, 7, "a")
    ],
    "a value from the future": [read(1, 2, "a"), write(3, 4, "a")],
    "an unknown write seen before it was invoked": [read(1, 2, "a"), lost(3, "a")],
    "a write that failed is seen": [write(1, 2, "a", "fail"), read(3, 4, "a")],
    "an unknown write takes effect twice": [
        lost(1, "a"), read(2, 3, "a"), write(4, 5, "b"), read(6, 7, "b"), read(8, 9, "a")
    ],
    "a value is resurrected": [
        write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "b"), read(7, 8, "b"), read(9, 10, "a")
    ],
    "two cas from the same value succeed": [
        write(1, 2, "a"), cas(3, 7, "a", "b"), cas(4, 8, "a", "c"), read(9, 10, "c")
    ],
    "a cas succeeds on what was replaced": [write(1, 2, "a"), write(3, 4, "b"), cas(5, 6, "a", "c")],
    "a cas fails on what the register held": [write(1, 2, "a"), cas(3, 4, "a", "b", "fail")],
    "a cas that failed is seen": [
        write(1, 2, "a"), write(3, 4, "x"), cas(5, 6, "a", "b", "fail"), read(7, 8, "b")
    ],
    "an unknown cas on what was never there is seen": [
        write(1, 2, "a"), cas(3, None, "x", "b", "unknown"), read(4, 5, "b")
    ],
    "two readers disagree on the order of two writes": [
        write(1, 10, "a"), write(1, 10, "b"), read(2, 3, "a"), read(4, 5, "b"), read(6, 7, "a")
    ],
}  # fmt: skip


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_it_accepts(history: list[Operation]) -> None:
    assert check(history).is_linearizable


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_it_refuses(history: list[Operation]) -> None:
    assert set(check(history).violations) == {"k"}


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_what_it_shows_of_a_violation_is_one_and_nothing_in_it_is_spare(history: list[Operation]) -> None:
    noise = [write(100 + 2 * n, 101 + 2 * n, f"later {n}") for n in range(20)]
    (shown,) = check([*history, *noise]).violations.values()
    assert set(shown) <= set(history)
    assert not explained_by_any_order(shown)


def test_a_violation_in_a_long_history_is_shown_with_what_it_contradicts() -> None:
    history = [write(4 * n, 4 * n + 1, str(n)) for n in range(200)]
    history += [read(4 * n + 2, 4 * n + 3, str(n if n != 150 else 148)) for n in range(200)]
    (shown,) = check(history).violations.values()
    assert shown == [write(592, 593, "148"), write(596, 597, "149"), read(602, 603, "148")] or shown == [
        write(592, 593, "148"), write(600, 601, "150"), read(602, 603, "148")
    ]  # fmt: skip


def test_a_cas_that_failed_keeps_what_it_may_have_failed_for() -> None:
    history = [write(1, 2, "a"), cas(3, 10, "a", "z", "fail"), write(4, 5, "b"), read(11, 12, "a")]
    (shown,) = check(history).violations.values()
    assert shown == [history[0], history[2], history[3]]


def test_the_text_names_key_client_times_and_values() -> None:
    text = check([write(1_000_000, 2_000_000, "a"), read(2_500_000, 4_000_000, None)]).as_text()
    assert "NOT linearizable" in text
    assert 'key "k"' in text
    assert 'c1: write "a"' in text
    assert "c1: read, returned nothing" in text
    assert "1.500 ..      3.000 ms" in text


def test_keys_are_decided_by_themselves() -> None:
    good = [msgspec.structs.replace(each, key="good") for each in GOOD["one after the other"]]
    verdict = check([*good, *BAD["a stale read"]])
    assert (verdict.keys, set(verdict.violations)) == (2, {"k"})


# --- against all permutations --------------------------------------------------------------------------


def explained_by_any_order(history: Sequence[Operation]) -> bool:
    """The definition, word by word: some subset without some unknown ones, in some order that time allows."""
    certain = [each for each in history if each.outcome != "unknown"]
    maybe = [each for each in history if each.outcome == "unknown"]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(maybe, size) for size in range(len(maybe) + 1)
    )
    return any(is_legal(order) for chosen in subsets for order in orders([*certain, *chosen]))


def orders(operations: list[Operation]) -> Iterator[tuple[Operation, ...]]:
    for order in itertools.permutations(operations):
        if not any(
            later.outcome != "unknown"
            and later.returned_ns is not None
            and later.returned_ns < earlier.invoked_ns
            for earlier, later in itertools.combinations(order, 2)
        ):
            yield order


def is_legal(order: Sequence[Operation]) -> bool:
    held: str | None = None
    for each in order:
        if each.kind == "write":
            held = held if each.outcome == "fail" else each.value
        elif each.kind == "read":
            if each.outcome == "ok" and each.value != held:
                return False
        elif (each.outcome == "fail") == (each.expected == held):
            return False
        elif each.outcome != "fail":
            held = each.value
    return True


@st.composite
def histories(draw: st.DrawFn, size_max: int = 5, values: str = "ab") -> list[Operation]:
    """Short histories over few values and moments, most of them close to the border between good and bad."""
    value = st.sampled_from(values)
    result: list[Operation] = []
    for _ in range(draw(st.integers(1, size_max))):
        kind: Kind = draw(st.sampled_from(("read", "write", "cas")))
        outcome: Outcome = draw(st.sampled_from(("ok", "ok", "ok", "unknown", "fail")))
        invoked = draw(st.integers(0, 12))
        returned = invoked + draw(st.integers(0, 6))
        result.append(
            op(
                kind,
                invoked,
                returned if outcome != "unknown" or draw(st.booleans()) else None,
                draw(value if kind != "read" else st.one_of(st.none(), value)),
                expected=draw(st.one_of(st.none(), value)) if kind == "cas" else None,
                outcome=outcome,
            )
        )
    return result


@given(histories())
def test_it_agrees_with_trying_all_orders(history: list[Operation]) -> None:
    assert check(history).is_linearizable == explained_by_any_order(history)


@given(histories(values="abcdef"))
def test_it_agrees_with_trying_all_orders_where_values_are_rarely_written_twice(
    history: list[Operation],
) -> None:
    assert check(history).is_linearizable == explained_by_any_order(history)


@given(histories(size_max=6))
def test_what_is_shown_of_any_violation_is_one(history: list[Operation]) -> None:
    for shown in check(history).violations.values():
        assert not explained_by_any_order(shown)


# --- a simulated register, with and without faults -----------------------------------------------------


class Register:
    """A register of many clients. `fault`, if any, strikes now and then."""

    def __init__(self, seed: int, fault: str = "") -> None:
        self.random = random.Random(seed)
        self.fault = fault
        self.held: str | None = None
        self.before: str | None = None
        self.numbers = itertools.count()

    def history(self, count: int) -> list[Operation]:
        """Operations that overlap, each with its effect somewhere between its two times."""
        moments = [1000 * n for n in range(1, count + 1)]
        return [self._operation(moment) for moment in moments]

    def _operation(self, moment: int) -> Operation:
        kind: Kind = self.random.choice(("read", "read", "write", "cas"))
        invoked, returned = (moment + sign * self.random.randrange(1, 4000) for sign in (-1, 1))
        new = str(next(self.numbers))
        if kind == "read":
            return op("read", invoked, returned, self._read())
        if self.random.random() < 0.2:
            return self._unknown(kind, invoked, new)
        expected = self._read() if self.random.random() < 0.5 else "x"
        if kind == "write" or expected == self.held or self._strikes("cas succeeds anyway"):
            seen = self.held if expected != "x" else "x"
            self._store(new)
            return op(kind, invoked, returned, new, expected=expected if kind == "cas" else seen)
        return op("cas", invoked, returned, new, expected=expected, outcome="fail")

    def _unknown(self, kind: Kind, invoked: int, new: str) -> Operation:
        expected = self.held
        if self.random.random() < 0.5:
            self._store(new)
        return op(kind, invoked, None, new, expected=expected, outcome="unknown")

    def _read(self) -> str | None:
        return self.before if self._strikes("stale read") else self.held

    def _store(self, value: str) -> None:
        if not self._strikes("lost write"):
            self.before, self.held = self.held, value

    def _strikes(self, fault: str) -> bool:
        return self.fault == fault and self.random.random() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_a_history_of_a_register_without_fault_is_linearizable(seed: int) -> None:
    assert check(Register(seed).history(300)).as_text().endswith("linearizable")


@pytest.mark.parametrize("fault", ["stale read", "lost write", "cas succeeds anyway"])
def test_a_planted_fault_is_found_and_shown_in_few_operations(fault: str) -> None:
    verdicts = [check(Register(seed, fault).history(150)) for seed in range(6)]
    found = [verdict for verdict in verdicts if verdict.violations]
    assert len(found) >= 3
    assert min(len(shown) for verdict in found for shown in verdict.violations.values()) <= 6


def test_thousands_of_writes_of_unknown_outcome_are_no_trouble() -> None:
    """Most are never seen, some are soon, some late."""
    history = [lost(10 * n, f"lost {n}") for n in range(1000)]
    history += [write(10 * n + 1, 10 * n + 2, f"written {n}") for n in range(1000)]
    late = range(50, 1000, 50)
    history += [read(10 * n + 3, 10 * n + 4, f"lost {n - n % 17}") for n in late]
    history += [read(10 * n + 15, 10 * n + 16, f"written {n + 1}") for n in range(0, 999, 50)]
    history += [cas(10 * n - 2, 10 * n - 1, "nothing like it", "x", "fail") for n in late]
    assert check(history).is_linearizable


def test_a_search_that_takes_too_long_says_so_and_does_not_hang() -> None:
    history = [write(0, 100 + n, str(n % 12)) for n in range(24)] + [read(200, 201, None)]
    with pytest.raises(UndecidedError):
        unexplained(history, configurations_max=5000)
    verdict = check(history, configurations_max=5000)
    assert (verdict.is_linearizable, verdict.undecided) == (False, ["k"])
    assert "undecided" in verdict.as_text()


# --- files ---------------------------------------------------------------------------------------------


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftstore.testing.linearizability", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_the_command_checks_what_a_recorder_saved(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.returned(recorder.invoke("c1", "k", "write", "a"), "ok")
    recorder.invoke("c2", "k", "cas", "b", "a")
    recorder.returned(recorder.invoke("c1", "k", "read"), "ok", "b")
    good = tmp_path / "good.jsonl"
    recorder.history().save(good)
    assert History.load(good).operations == recorder.history().operations
    recorder.returned(recorder.invoke("c1", "k", "read"), "ok", "a")
    recorder.history().save(tmp_path / "bad.jsonl")
    accepted, refused = run_command(str(good)), run_command(str(good), str(tmp_path / "bad.jsonl"))
    assert (accepted.returncode, refused.returncode) == (0, 1), accepted.stderr + refused.stderr
    assert 'c1: read, returned "a"' in refused.stdout


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no history", "malformed"),
        ('{"client": "c", "key": "k", "kind": "read", "outcome": "ok", "invoked_ns": 1}', "returned"),
        ('{"client": "c", "key": "k", "kind": "write", "outcome": "unknown", "invoked_ns": 1}', "value"),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(HistoryError, match=f"line 1: .*{problem}"):
        History.load(path)
    assert run_command(str(path)).returncode == 2
