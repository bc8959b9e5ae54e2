"""The program `m3tl`: one file a verb, and nothing heavy imported before the verb is known."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from m3tl_cli.cli import ablate, adapt, compare, data, doctor, list, report, selftest, show, train

app = typer.Typer(name="m3tl", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"m3tl {version('m3tl-cli')}")
        except PackageNotFoundError:  # run from a folder of files, without installation
            typer.echo("m3tl (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)] = False,
) -> None:
    """Does it pay to share? Train the same tasks under single-task, multi-task, transfer and meta-learning, and see which way won."""


app.command(cls=train.TrainCommand)(train.train)
app.command(cls=ablate.AblateCommand)(ablate.ablate)
app.command()(compare.compare)
app.command()(report.report)
app.command()(adapt.adapt)
app.command()(show.show)
app.command(name="list")(list.list_options)
app.add_typer(data.app, name="data")
app.command()(doctor.doctor)
app.command()(selftest.selftest)


def run() -> None:
    """Entry point of the program."""
    # Importing and composing make no garbage in cycles worth looking for: 45 of 490 ms of a config error. A job turns it on again.
    gc.disable()
    app()
