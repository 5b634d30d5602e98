"""`raftstore torture PATH`: does this disk keep what a store on it acknowledges?"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from raftstore import config as configs
from raftstore.cli import COULD_NOT_RUN
from raftstore.cli.ending import INTERRUPTED
from raftstore.cli.looking import printable
from raftstore.compare.machine import machine_of
from raftstore.durable import make_directory, sync_directory
from raftstore.errors import ConfigError, RaftStoreError
from raftstore.registry import backend_class
from raftstore.storeconfig import StoreConfig
from raftstore.testing.crash.block_mount import (
    FILE_SYSTEMS,
    CannotMountError,
    enter_private_mounts,
    lacking,
    not_mountable,
)
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.tally import Tally
from raftstore.testing.torture import powerloss
from raftstore.testing.torture.ledger import Ledger, LedgerError, read_ledger
from raftstore.testing.torture.report import (
    Report,
    acknowledged_of,
    lines_of,
    power_cuts_of,
    sentence_of,
    verdicts_of,
)
from raftstore.testing.torture.rounds import Settings, torture
from raftstore.testing.torture.syncs import is_rotating, measure_syncs, warnings_of

LOST = 1

Place = Annotated[
    Path,
    typer.Argument(metavar="PATH", file_okay=False, help="A directory on the disk to judge."),
]
Backend = Annotated[str | None, typer.Option(help="segmented, lmdb, rocksdb, or any registered one.")]
Strategy = Annotated[str | None, typer.Option(help="DiskFirst, MemFirst or MemFirst:sync_on_commit.")]
FlushPolicy = Annotated[str | None, typer.Option(help="Immediate, Batch:1000:10, …")]
Config = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="The TOML file of a node; its path does not count."),
]
Seconds = Annotated[float | None, typer.Option(min=1, help="Default: 30; with --write, until it ends.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the workloads and times. Default: a new one.")]
PowerCuts = Annotated[
    bool,
    typer.Option("--power-cuts", help="Also cut the power of an ext4 and xfs in files there. Needs root."),
]
Write = Annotated[bool, typer.Option("--write", help="Write, and keep a ledger, until the power fails.")]
Check = Annotated[bool, typer.Option("--check", help="After the power failed: compare with the ledger.")]
LedgerAt = Annotated[
    str | None, typer.Option("--ledger", help="tcp://HOST:PORT or a file on another disk; to check: a file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Plant = Annotated[str | None, typer.Option(hidden=True)]


def command(
    path: Place,
    backend: Backend = None,
    strategy: Strategy = None,
    flush_policy: FlushPolicy = None,
    config: Config = None,
    seconds: Seconds = None,
    seed: Seed = None,
    power_cuts: PowerCuts = False,
    write: Write = False,
    check: Check = False,
    ledger: LedgerAt = None,
    json: Json = False,
    plant: Plant = None,
) -> None:
    """Kill a store on this disk at random times, and see that nothing acknowledged is ever lost.

    Everything happens in a new directory below PATH, which is removed at the end, as is PATH if it was not
    there. A kill alone does not show whether the disk keeps what it reported as synced. For that, cut its
    power: on another machine `nc -l 7000 > ledger`; here
    `raftstore torture PATH --write --ledger tcp://HOST:7000`; pull the plug; start again, fetch the ledger,
    `raftstore torture PATH --check --ledger FILE`.

    Exit status: 0 nothing was lost, 1 something was, 2 it could not run.
    """
    try:
        if write and check:
            raise ConfigError("--write and --check exclude each other")
        if check:
            good = _check(path, _required(ledger, "--check"), as_json=json)
        else:
            settings = Settings(
                path=_in_utf8(path.absolute()),
                store=_store(config, backend, strategy, flush_policy),
                seconds=seconds or (float("inf") if write else 30),
                seed=random.randrange(10**6) if seed is None else seed,
                power_cuts=power_cuts,
                plant=plant,
            )
            with _present(settings.path):
                if write:
                    good = _write(settings, _required(ledger, "--write"))
                else:
                    good = _torture(settings, as_json=json)
    except KeyboardInterrupt:
        typer.echo("stopped; no process and no mount was left behind", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (RaftStoreError, CannotMountError, LedgerError, OSError) as error:
        _fail(error)
    raise typer.Exit(0 if good else LOST)


def _store(
    file: Path | None, backend: str | None, strategy: str | None, flush_policy: str | None
) -> StoreConfig:
    if file is not None:
        if backend or strategy or flush_policy:
            raise ConfigError("--config excludes --backend, --strategy and --flush-policy")
        store = configs.load(file)
    else:
        pairs = {"strategy": strategy or "DiskFirst", "flush_policy": flush_policy or "Immediate"}
        query = "&".join(f"{key}={value}" for key, value in pairs.items())
        store = configs.load(f"{backend or 'segmented'}:///torture?{query}")
    backend_class(store.backend)  # says what to install, before any process does
    store.to_url()  # so the processes are told
    return store


def _in_utf8(path: Path) -> Path:
    """`path`, which the processes are told in JSON."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the path {path} is not UTF-8") from error
    return path


def _required(ledger: str | None, option: str) -> str:
    if ledger is None:
        raise ConfigError(f"{option} needs --ledger")
    return ledger


# --- kills and power cuts ----------------------------------------------------------------------------------


def _torture(settings: Settings, *, as_json: bool) -> bool:
    notes = _mounts(settings)
    begin = time.monotonic()
    machine, syncs = machine_of(settings.path), measure_syncs(settings.path)
    console = Console(stderr=True)
    with console.status("measured the syncs") as status:

        def tell(tally: Tally) -> None:
            status.update(
                f"{time.monotonic() - begin:.0f} of {settings.seconds:.0f} s: {tally.kills} kills, "
                f"{power_cuts_of(tally)} power cuts, {acknowledged_of(tally)} acknowledged operations"
            )

        tally = torture(settings, tell)
    report = Report(
        path=str(settings.path),
        store=settings.store.to_url(),
        seed=settings.seed,
        seconds=time.monotonic() - begin,
        machine=machine,
        syncs=syncs,
        warnings=warnings_of(machine, syncs, is_rotating=is_rotating(settings.path)),
        stores=tally.done.get("stores", 0),
        kills=tally.kills,
        power_cuts=power_cuts_of(tally),
        acknowledged=acknowledged_of(tally),
        verdicts=verdicts_of(tally),
        failures=tally.failures,
        notes=notes,
    )
    _show(report, as_json=as_json)
    return report.is_good


def _mounts(settings: Settings) -> list[str]:
    """Make mounting possible if it is wanted. Returns what is not."""
    if not settings.power_cuts:
        return []
    enter_private_mounts()
    if (reason := not_mountable()) is not None:
        raise CannotMountError(f"no power can be cut here: {reason}")
    return [reason for kind in FILE_SYSTEMS if (reason := lacking(kind)) is not None]


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        shown: dict[str, Any] = {**msgspec.to_builtins(report), "good": report.is_good}
        typer.echo(msgspec.json.encode(shown).decode())
        return
    console = Console()
    for line in lines_of(report):
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    style = "bold green" if report.is_good else "bold red"
    console.print(sentence_of(report), style=style, highlight=False, markup=False, soft_wrap=True)


# --- a real loss of power ----------------------------------------------------------------------------------


def _write(settings: Settings, target: str) -> bool:
    if not target.startswith("tcp://") and _is_on_same_disk(settings.path, Path(target)):
        raise LedgerError(f"the ledger {target} is on the disk that it is to judge: keep it elsewhere")
    console = Console(stderr=True)
    console.print(
        f"writing below {settings.path / powerloss.DIRECTORY}, seed {settings.seed}: cut the power now",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    with Ledger(target) as ledger, console.status("the first store") as status:
        powerloss.write(settings, ledger, lambda number: status.update(f"{number} stores were filled"))
    return True


def _is_on_same_disk(path: Path, ledger: Path) -> bool:
    return ledger.absolute().parent.stat().st_dev == path.stat().st_dev


def _check(path: Path, file: str, *, as_json: bool) -> bool:
    found = list(powerloss.check(path.absolute(), read_ledger(Path(file))))
    lost = [one for one in found if one.verdict is not Verdict.OK]
    good = not lost and any(one.acknowledged for one in found)
    if as_json:
        typer.echo(msgspec.json.encode({"good": good, "stores": found}).decode())
        return good
    console = Console()
    for one in found:
        words = (
            f"{one.store}: {one.acknowledged} of {one.of} operations acknowledged: {one.verdict} {one.words}"
        )
        console.print(printable(words), highlight=False, markup=False, soft_wrap=True)
    style = "bold green" if good else "bold red"
    if lost:
        sentence = "This disk lost what it had reported as synced."
    elif good:
        sentence = "Everything acknowledged is there."
    else:
        sentence = "Nothing was acknowledged before the power failed, so nothing is shown: give it more time."
    console.print(sentence, style=style, highlight=False, markup=False)
    return good


def _fail(error: Exception) -> NoReturn:
    reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # of many, the first
    typer.echo(f"it could not run: {printable(str(reason))}", err=True)
    raise typer.Exit(COULD_NOT_RUN)


@contextmanager
def _present(path: Path) -> Generator[None]:
    """`path` is there meanwhile. If it is made for that, it is removed afterwards, unless something is in it.

    Its parent must be there: with more missing, it may be that the disk to judge is not mounted.
    """
    made = not path.exists()
    if made:
        make_directory(path)
        sync_directory(path.parent)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                path.rmdir()
