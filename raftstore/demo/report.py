"""How the demo is shown: events as lines, a progress bar on a terminal, and one table at the end."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from raftstore.demo.libraries import LIBRARIES
from raftstore.demo.schedule import Kill
from raftstore.demo.session import Outcome, Settings
from raftstore.demo.verdict import Verdict


class Silence:
    """Shows nothing while the run goes on."""

    def planned(self, kills: list[Kill]) -> None:
        pass

    def event(self, seconds: float, text: str) -> None:
        pass

    def progress(self, done: float, acknowledged: int) -> None:
        pass


class Show:
    """Shows a run on a console: the bar only if it is a terminal. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("writing"),
            BarColumn(),
            TextColumn("{task.fields[acknowledged]:,} acknowledged"),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=1.0, acknowledged=0)

    def __enter__(self) -> Show:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def planned(self, kills: list[Kill]) -> None:
        times = ", ".join(f"{kill.role} at {kill.at_s:.1f} s" for kill in kills)
        self._line(f"kills planned: {times or 'none'}; then all nodes at once")

    def event(self, seconds: float, text: str) -> None:
        self._line(f"{seconds:6.1f} s  {text}")

    def progress(self, done: float, acknowledged: int) -> None:
        self._bar.update(self._task, completed=done, acknowledged=acknowledged)

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def title(settings: Settings) -> str:
    """What is run, in one line, with the seed that repeats it."""
    store = settings.store
    kind = f"{store.backend}, {store.strategy}, {store.flush_policy}"
    journal = kind if settings.journal == "raftstore" else "PySyncObj's own journal"
    if settings.power_cut:
        journal += ", power cuts"
    elif settings.journal == "pysyncobj":
        journal += ", unsynced pages dropped"
    planted = f", planted bug: {settings.plant}" if settings.plant else ""
    nodes = f"{settings.nodes} nodes of {LIBRARIES[settings.library].title}"
    return f"raftstore demo: {nodes}, {journal}{planted}, seed {settings.seed}"


def table(outcome: Outcome) -> Table:
    """The numbers, one row each."""
    shown = Table("", "after single kills", "after killing all at once", box=None, pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in ("acknowledged", "recovered", "lost", "unknown_kept"):
        values = (getattr(verdict, name) for verdict in (outcome.alive, outcome.restarted))
        shown.add_row(name.replace("_", " "), *(f"{value:,}" for value in values))
    shown.add_row("state machines", *(_agreement(verdict) for verdict in (outcome.alive, outcome.restarted)))
    return shown


def numbers(outcome: Outcome) -> str:
    """The cost of the run, in one line."""
    return (
        f"{outcome.kills} kills, {outcome.fsyncs:,} fsyncs, {outcome.entries_per_fsync:.1f} entries per fsync"
        f", latency p50 {outcome.latency_p50_ms:.1f} ms, p99 {outcome.latency_p99_ms:.1f} ms"
    )


def sentence(outcome: Outcome) -> str:
    """The verdict, for people."""
    if outcome.is_good:
        return f"Nothing lost: all {outcome.restarted.acknowledged:,} acknowledged lines are on every node."
    for verdict in (outcome.alive, outcome.restarted):
        if verdict.lost:
            lost = f"LOST: {verdict.lost:,} of {verdict.acknowledged:,} acknowledged lines are gone or wrong."
            return f"{outcome.problem}\n{lost}" if outcome.problem else lost
    if outcome.problem is None and outcome.restarted.acknowledged == 0:
        return "Nothing was acknowledged, so nothing is shown."
    return (
        outcome.problem or "WRONG: the state machines differ, hold what they should not, or did not catch up."
    )


def _agreement(verdict: Verdict) -> str:
    wrong = {
        "differ": len(verdict.disagreeing),
        "behind": len(verdict.behind),
        "altered": verdict.altered,
        "repeated": verdict.repeated,
        "invented": verdict.invented,
    }
    found = ", ".join(f"{count:,} {name}" for name, count in wrong.items() if count)
    return found or "identical"
