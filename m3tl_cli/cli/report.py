"""`m3tl report`: the page of a run, or the comparison of an ablation in several formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from m3tl_cli.comparison.tables import Comparison


class Format(StrEnum):
    """What `--format` writes."""

    html = "html"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


NAMES = {Format.md: "comparison.md", Format.latex: "comparison.tex", Format.json: "comparison.json", Format.csv: "tables"}
"""Where a comparison goes inside the folder that it is about."""


def report(
    run: Annotated[str, typer.Argument(metavar="RUN|ABLATION", help="Folder of a run, a sweep or an ablation.")],
    form: Annotated[Format, typer.Option("--format", help="csv writes a folder, the others a file.")] = Format.html,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Where to; `-` prints. By default into the folder itself.")] = "",
) -> None:
    """Write the report of a run or an ablation again, from what its folder holds.

    The page is one file that asks nothing of the network. For example: m3tl report outputs/ablation/RUN --format md --out -
    """
    from m3tl_cli.cli import comparing, panels
    from m3tl_cli.core.errors import ConfigError, M3TLError

    folder = Path(run)
    try:
        if form in (Format.html, Format.csv) and out == "-":
            raise ConfigError(f"`--out` must name a {'file' if form is Format.html else 'folder'} for {form}; found -", place="--out")
        if form is Format.html and comparing.is_run(folder):
            from m3tl_cli.report import page

            written = page.write(folder)
            if out:
                target = Path(out)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(written.read_bytes())
                written = target
        else:
            made = comparing.compared(comparing.gather([run]))
            html = form is Format.html
            written = comparing.page(made, folder, Path(out) if out else None) if html else _written(made, form, folder, out)
            if html and not out:
                comparing.write_tables(made, folder / NAMES[Format.csv])  # of many tasks the page shows a few, and names these
    except M3TLError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None
    if out != "-":
        typer.echo(str(written))


def _written(made: Comparison, form: Format, folder: Path, out: str) -> Path:
    """Write or print a comparison; where it went."""
    import json

    from m3tl_cli.cli import comparing, standings
    from m3tl_cli.core.results import write_text

    target = Path(out) if out else folder / NAMES[form]
    if form is Format.csv:
        return comparing.write_tables(made, target)
    texts = {
        Format.md: standings.markdown,
        Format.latex: standings.latex,
        Format.json: lambda found: json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n",
    }
    text = texts[form](made)
    if out == "-":
        typer.echo(text, nl=False)
    else:
        write_text(target, text)
    return target
