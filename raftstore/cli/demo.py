"""`raftstore demo`: see a Raft cluster lose its nodes, and nothing else."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from raftstore import config
from raftstore.cli import COULD_NOT_RUN
from raftstore.cli.ending import INTERRUPTED
from raftstore.demo import libraries, report
from raftstore.demo.cluster import ClusterError
from raftstore.demo.disk import DiskError
from raftstore.demo.messages import JournalKind, Library, Plant
from raftstore.demo.session import Outcome, Session, Settings
from raftstore.errors import RaftStoreError

LOST = 1

Backend = Annotated[str, typer.Option(help="segmented, lmdb, rocksdb, or any registered one.")]
Strategy = Annotated[str, typer.Option(help="DiskFirst or MemFirst:sync_on_commit; plain MemFirst may lose.")]
FlushPolicy = Annotated[str, typer.Option(help="Immediate, Batch:1000:10, …")]
Nodes = Annotated[int, typer.Option(min=1, max=9, help="Each is a process.")]
Seconds = Annotated[float, typer.Option(min=1, help="How long the clients write.")]
Kills = Annotated[int, typer.Option(min=0, help="Single kills, of followers and leaders in turn.")]
Seed = Annotated[int | None, typer.Option(help="Of the kill schedule. Default: a new one.")]
Input = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Text. Default: the standard library's modules."),
]
Raft = Annotated[Library, typer.Option(help="Whose Raft the nodes run.")]
Journal = Annotated[
    JournalKind, typer.Option(help="pysyncobj: its own journal, losing at a kill what was never synced.")
]
PlantedBug = Annotated[Plant | None, typer.Option(help="Plant a bug, which the demo must find.")]
PowerCut = Annotated[
    bool, typer.Option(help="A kill also cuts the power of the node's disk, an ext4 of its own. Needs root.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def command(
    library: Raft = "pysyncobj",
    backend: Backend = "segmented",
    strategy: Strategy = "DiskFirst",
    flush_policy: FlushPolicy = "Immediate",
    nodes: Nodes = 3,
    seconds: Seconds = 15,
    kills: Kills = 6,
    seed: Seed = None,
    input: Input = None,
    journal: Journal = "raftstore",
    plant: PlantedBug = None,
    power_cut: PowerCut = False,
    json: Json = False,
) -> None:
    """Run a Raft cluster, kill its nodes while they write, and compare what they remember.

    Exit status: 0 nothing was lost, 1 something was, 2 the demo could not run.
    """
    try:
        libraries.check(library, journal, plant)
        settings = Settings(
            store=_store(backend, strategy, flush_policy),
            nodes=nodes,
            seconds=seconds,
            kills=kills,
            seed=random.randrange(10**6) if seed is None else seed,
            input=input,
            library=library,
            journal=journal,
            plant=plant,
            power_cut=power_cut,
        )
        outcome = _run_silently(settings) if json else _run_shown(settings)
    except KeyboardInterrupt:
        typer.echo("stopped; all nodes are down, nothing was left behind", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (RaftStoreError, ClusterError, DiskError, OSError, ValueError) as error:
        _fail(error)
    raise typer.Exit(0 if outcome.is_good else LOST)


def _store(backend: str, strategy: str, flush_policy: str) -> config.StoreConfig:
    anywhere = Path(tempfile.gettempdir()).absolute() / "raft"
    return config.load(f"{backend}://{anywhere}?strategy={strategy}&flush_policy={flush_policy}")


def _run_shown(settings: Settings) -> Outcome:
    console = Console()
    console.print(report.title(settings), highlight=False, soft_wrap=True)
    with report.Show(console) as show:
        outcome = Session(settings, show).run()
    console.print()
    console.print(report.table(outcome))
    console.print(report.numbers(outcome), highlight=False, soft_wrap=True)
    style = "bold green" if outcome.is_good else "bold red"
    console.print(report.sentence(outcome), style=style, highlight=False, markup=False)
    return outcome


def _run_silently(settings: Settings) -> Outcome:
    outcome = Session(settings, report.Silence()).run()
    shown: dict[str, Any] = {
        "seed": settings.seed,
        "store": settings.store.to_url(),
        "library": settings.library,
        "journal": settings.journal,
        "plant": settings.plant,
        "power_cut": settings.power_cut,
        "good": outcome.is_good,
        **msgspec.to_builtins(outcome),
    }
    typer.echo(msgspec.json.encode(shown).decode())
    return outcome


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"the demo could not run: {error}", err=True)
    raise typer.Exit(COULD_NOT_RUN)
