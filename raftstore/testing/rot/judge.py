"""Whether what a damaged store says is allowed."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from raftstore.store import WITNESS
from raftstore.testing.crash.workload import Step
from raftstore.testing.rot.damage import Fault
from raftstore.testing.rot.specimen import Specimen
from raftstore.testing.rot.trial import Answer, GoneOn, Opened, Told


class Outcome(StrEnum):
    """From right to worst."""

    RIGHT = "right"
    """Everything is there."""
    TOLD = "told"
    """A typed error: opening was refused, or some entries cannot be read and all others are right."""
    REPORTED = "reported"
    """The end is missing, and the recovery report says that it may be. Allowed for what had no witness: the
    last writes of a store that was killed, or all when one fault, such as two files swapped, hit both the
    engine's files and the witness's."""
    UNSEEN = "unseen"
    """Verifying called a store sound that then was not."""
    UNTYPED = "untyped"
    """An exception that callers do not expect."""
    LOST = "lost"
    """Silently an older state."""
    WRONG = "wrong"
    """Silently a state that never was."""
    DIED_WRITING = "died writing"
    """The store seemed whole, and writing to it killed the process. Of `lmdb` that is known, and counted: it
    trusts its pages, those with the list of free pages too."""
    DEATH = "death"
    HANG = "hang"


GOOD: Final = frozenset({Outcome.RIGHT, Outcome.TOLD, Outcome.REPORTED, Outcome.DIED_WRITING})


def judge(specimen: Specimen, fault: Fault, answer: Answer) -> tuple[Outcome, str]:
    """The outcome, and why."""
    outcome, words = _opening(specimen, fault, answer)
    errors = [error for error in (answer.blind, answer.refused) if error is not None]
    errors += answer.opened.unread if answer.opened is not None else []
    for error in errors:
        if not error.typed:
            return Outcome.UNTYPED, f"{error.kind}: {error.words}"
    if outcome is Outcome.TOLD and answer.verified and not answer.damage and answer.blind is None:
        return Outcome.UNSEEN, words
    return outcome, words


def judge_writing(backend: str, status: int | None, answer: GoneOn | None) -> tuple[Outcome, str]:
    """The same for the writes that a store without visible damage then got."""
    if answer is None:
        known = backend == "lmdb" and status is not None and status < 0
        return (Outcome.DIED_WRITING if known else Outcome.DEATH), f"writing ended with {status}"
    if answer.raised is not None and not answer.raised.typed:
        return Outcome.UNTYPED, f"writing: {_said(answer.raised)}"
    if answer.wrong:
        return Outcome.WRONG, f"after writing, other entries: {answer.wrong[:9]}"
    return (Outcome.TOLD, f"writing: {_said(answer.raised)}") if answer.raised else (Outcome.RIGHT, "")


def _opening(specimen: Specimen, fault: Fault, answer: Answer) -> tuple[Outcome, str]:
    if answer.refused is not None:
        return Outcome.TOLD, _said(answer.refused)
    opened = answer.opened
    assert opened is not None
    if _is_state(opened, specimen.steps[-1]):
        if specimen.order.rest == "closed" and opened.commit != specimen.steps[-1].commit:
            return Outcome.WRONG, f"commit index {opened.commit} instead of {specimen.steps[-1].commit}"
        return (Outcome.TOLD, _said(opened.unread[0])) if opened.unread else (Outcome.RIGHT, "")
    older = next((n for n in reversed(range(specimen.last)) if _is_state(opened, specimen.steps[n])), None)
    words = f"{opened.anchor} to {opened.last}, missing: {opened.missing}"
    if older is None:
        return Outcome.WRONG, f"{words}; {_difference(opened, specimen.steps[-1])}"
    safe = specimen.safe if WITNESS not in fault.changes else 0
    if older >= safe and opened.missing != "no":
        return Outcome.REPORTED, f"step {older} of {specimen.last}, {words}"
    return Outcome.LOST, f"step {older} of {specimen.last}, {words}"


def _is_state(opened: Opened, step: Step) -> bool:
    """Everything that was read is that of the state; without errors, everything of the state was read."""
    state = step.state
    said = (opened.anchor, opened.last, opened.term, opened.voted_for, opened.meta)
    if said != (state.anchor, state.last, state.term, state.voted_for, state.meta):
        return False
    if not opened.unread:
        return tuple(opened.entries) == state.entries
    held = {entry.index: entry for entry in state.entries}
    unread = 1 if opened.unread else 0
    complete = len(opened.entries) + len(opened.unread) - unread == len(held)
    return complete and all(held.get(entry.index) == entry for entry in opened.entries)


def _difference(opened: Opened, step: Step) -> str:
    state = step.state
    held = {entry.index: entry for entry in state.entries}
    wrong = [entry.index for entry in opened.entries if held.get(entry.index) != entry]
    return (
        f"wanted {state.anchor} to {state.last}, {state.term}, {state.voted_for}; other entries: {wrong[:9]}"
    )


def _said(error: Told) -> str:
    return f"{error.kind}: {error.words}"
