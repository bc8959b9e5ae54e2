"""`m3tl compare`: the tables of any finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

OWN = ("axes", "margin", "reference", "gain_reference")


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|KEY=VALUE]...",
            help="Folders of runs, sweeps or ablations, or patterns; axes=, margin=, reference=, gain_reference=.",
        ),
    ] = None,
    query: Annotated[str, typer.Option("--query", metavar="FILTER", help="Runs that MLflow finds: \"tags.`m3tl.paradigm` = 'mtl'\".")] = "",
    uri: Annotated[str, typer.Option("--uri", help="Where to ask MLflow.")] = "sqlite:///outputs/mlflow.db",
    force: Annotated[bool, typer.Option("--force", help="Flag runs that differ in data, splits, protocol or budget, not refuse.")] = False,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Write comparison.json, tables and page there.")] = "",
) -> None:
    """Say which of some finished runs won, how surely, and at what cost.

    Runs that differ in data, splits, tasks, target protocol or length of training are refused, unless they differ along a named axis:
    m3tl compare outputs/train/RUN1 outputs/train/RUN2 axes=fusion
    """
    from rich.console import Console

    from m3tl_cli.cli import comparing, panels, standings
    from m3tl_cli.core.errors import ConfigError, M3TLError

    words = runs or []
    own = [w for w in words if w.partition("=")[0] in OWN and not Path(w).exists()]
    try:
        given = _options(own)
        found = [w for w in words if w not in own]
        if query:
            from m3tl_cli.tracking.store import folders

            found += [str(folder) for folder in folders(uri, query)]
        if not found:
            raise ConfigError("there must be a run to compare; found none", hint="m3tl compare outputs/ablation/*-ablation", place="RUN")
        gathered = comparing.gather(found)
        axes = tuple(dict.fromkeys((*gathered.axes, *given.pop("axes", ()))))
        made = comparing.compared(comparing.Gathered(gathered.folders, gathered.plan, axes), force=force, **given)
        console = Console(highlight=False)
        for part in standings.terminal(made):
            console.print(part)
        if out:
            for path in comparing.write(made, Path(out)):
                console.print(str(path), style="dim", soft_wrap=True)
    except M3TLError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None


def _options(words: list[str]) -> dict[str, Any]:
    """Values of the words whose keys are `OWN`."""
    from m3tl_cli.core.errors import ConfigError

    given: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        if key == "axes":
            given[key] = tuple(filter(None, (part.strip() for part in text.strip("[]").split(","))))
        elif key == "margin":
            try:
                given[key] = float(text)
            except ValueError:
                raise ConfigError(f"`margin` must be a number above 0; found {text}", hint="margin=0.02", place="margin") from None
        else:
            given[key] = text
    return given
