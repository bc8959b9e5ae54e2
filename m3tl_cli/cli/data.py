"""`m3tl data`: look at what a run would learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3tl_cli.cli.options import ConfigDir, ConfigName, Overrides

app = typer.Typer(no_args_is_help=True, help="Look at the data of a run.", rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback()
def _data() -> None:
    """Look at the data of a run."""


@app.command()
def show(
    overrides: Overrides = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=100, help="Samples.")] = 8,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the picture goes.")] = Path("outputs/samples.png"),
    config_dir: ConfigDir = "",
    config_name: ConfigName = "train",
) -> None:
    """Draw samples with their labels into one picture."""
    from m3tl_cli.cli import panels
    from m3tl_cli.cli.launch import compose_or_exit, job_config
    from m3tl_cli.cli.request import Request
    from m3tl_cli.cli.sink import Sink
    from m3tl_cli.core.errors import M3TLError

    cfg = job_config(compose_or_exit(Request(overrides=tuple(overrides or ()), config_dir=config_dir, config_name=config_name)))
    try:
        with Sink.on_terminal(alone=True) as sink:
            from m3tl_cli import experiment
            from m3tl_cli.report.pictures import contact_sheet

            gallery = experiment.draw_samples(cfg, num, sink)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(contact_sheet(gallery.columns, gallery.rows, gallery.pictures))
    except M3TLError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"{len(gallery.rows)} samples: {out}")
