"""`m3tl selftest`: whether the program computes what is known to be right on this machine."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer


def selftest(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Compare known answers with what this installation computes; takes seconds."""
    from m3tl_cli.selftest import CHECKS

    rows: list[dict[str, object]] = []
    for check in CHECKS:
        begun = time.perf_counter()
        try:
            outcome = check.run()
            expected, found, passed = outcome.expected, outcome.found, outcome.passed
        except Exception as error:  # a check that breaks has failed, and the others still run
            expected, found, passed = "no error", f"{type(error).__name__}: {error}", False
        seconds = time.perf_counter() - begun
        rows.append({"name": check.name, "about": check.about, "source": check.source, "expected": expected, "found": found})
        rows[-1] |= {"passed": passed, "seconds": round(seconds, 3)}
    failed = sum(not row["passed"] for row in rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _print(rows, failed)
    raise typer.Exit(1 if failed or not rows else 0)


def _print(rows: list[dict[str, object]], failed: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "check", "expected", "found"):
        table.add_column(name)
    for row in rows:
        mark = Text("ok", "green") if row["passed"] else Text("WRONG", "bold red")
        about = Text(str(row["name"]), "bold").append(f"\n{row['about']}", "not bold").append(f"\n{row['source']}", "not bold dim")
        table.add_row(mark, about, Text(str(row["expected"])), Text(str(row["found"])))
    console = Console(highlight=False)
    console.print(table)
    total = len(rows)
    verdict = f"[green]all {total} known answers found[/]" if not failed else f"[bold red]{failed} of {total} known answers missed[/]"
    console.print(verdict)
