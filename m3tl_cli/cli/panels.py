"""Panels and tables: what went wrong, and what came out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3tl_cli.cli.sink import duration
from m3tl_cli.config.problem import Problem
from m3tl_cli.core.errors import M3TLError

if TYPE_CHECKING:
    from m3tl_cli.cli.status import Status
    from m3tl_cli.core.results import Results


def problems(found: Sequence[Problem], overrides: Sequence[str] = (), files: Sequence[tuple[str, Path]] = ()) -> None:
    """One red panel on standard error with everything that is wrong.

    Args:
        found: At least one.
        overrides: What was typed, to say which word a problem comes from.
        files: Name and path of every config that was composed, in order, to say which file it comes from otherwise.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for problem in found:
        origin = _origin(problem.place, overrides, files)
        parts += [Text()] if parts else []
        parts.append(Text(problem.place, "bold").append(f"  ({origin})" if origin else "", "not bold dim"))
        rows = Table.grid(padding=(0, 1))
        rows.add_row(Text("  found", "dim"), Text(problem.found))
        rows.add_row(Text("  expected", "dim"), Text(problem.expected))
        if problem.hint:
            rows.add_row(Text("  →", "bold"), Text(problem.hint, "bold"))
        parts.append(rows)
    count = len(found)
    _panel(Group(*parts), "1 thing in the config is wrong" if count == 1 else f"{count} things in the config are wrong", "red")


def error(caught: M3TLError) -> None:
    """One red panel on standard error about an error raised on purpose."""
    from rich.text import Text

    text = Text()
    text.append(f"{caught.place}\n" if caught.place else "", "bold").append(caught.message)
    if caught.hint:
        text.append("\n→ ", "bold").append(caught.hint, "bold")
    _panel(text, {2: "config", 3: "data"}.get(caught.exit_code, "stopped"), "red")


def crash(caught: BaseException, folder: str, debug: str) -> None:
    """One red panel about an error that nobody foresaw, and where its traceback is."""
    from rich.text import Text

    text = Text(f"{type(caught).__name__}: {caught}")
    text.append(f"\ntraceback  {folder}/train.log" if folder else "", "dim")
    text.append(f"\n→ {debug}", "bold")
    _panel(text, "the run failed", "red")


def stopped(folder: str, resume: str) -> None:
    """After a signal: what to type to go on. Without a frame, so that a long line can be copied."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    console.print(Text(f"stopped: {folder}", "yellow"), soft_wrap=True)
    console.print(Text(f"→ {resume}", "bold"), soft_wrap=True)


def results(found: Results, folder: Path, config: Mapping[str, Any], typed: Sequence[str]) -> None:
    """What a finished run reached, cost, left, and what to type next; on standard output."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    from m3tl_cli.cli.scores import outcome

    # The blocks of a run with a target each have a title of their own.
    title = f"[bold]{found.paradigm}[/] · seed {found.seed}" + (" · held-out samples" if set(found.blocks) <= {"a", "a@0"} else "")
    console = Console(highlight=False)
    console.print(Panel(Group(*outcome(found)), title=title, title_align="left", border_style="green"))
    # Without a frame, so that a long path or command can be copied.
    for label, text in [*places(folder, config), *(("next", line) for line in next_lines(found, typed))]:
        console.print(Text(f"{label:<8}", "dim").append(text, "not dim"), soft_wrap=True)


def places(folder: Path, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run left, and how to look at it."""
    rows = [("run", str(folder))]
    if (folder / "report.html").is_file():
        rows.append(("report", str(folder / "report.html")))
    tracking = config.get("tracking")
    if isinstance(tracking, Mapping) and "uri" in tracking:
        uri = tracking["uri"] or "sqlite:///outputs/mlflow.db"
        rows.append(("mlflow", uri if str(uri).startswith("http") else shlex.join(["mlflow", "ui", "--backend-store-uri", str(uri)])))
    return rows


def next_lines(found: Results, typed: Sequence[str]) -> list[str]:
    """Commands that make sense after this run, quoted for any shell.

    Args:
        found: Of this run.
        typed: Words after `m3tl train` of this run.
    """
    other = "stl" if found.paradigm != "stl" else "mtl"
    own = "mtl" if any(word.startswith("baseline=") for word in typed) else found.paradigm  # a baseline's name is no paradigm
    kept = [word for word in typed if word.split("=")[0] not in ("paradigm", "baseline", "hydra.run.dir")]
    seed = [word for word in kept if not word.startswith("seed=")]
    return [
        shlex.join(["m3tl", "train", *kept, f"paradigm={other}"]),
        shlex.join(["m3tl", "train", "-m", *seed, f"paradigm={own},{other}", "seed=1,2,3"]),
    ]


def sweep(folder: str, jobs: Sequence[Status]) -> None:
    """Every job of a sweep: what it changed, its state, and its value or what went wrong; on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    table = Table(title=folder, title_justify="left", title_style="dim", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("job", style="bold")
    table.add_column("state", no_wrap=True)
    table.add_column("error reduction, or what happened")
    table.add_column("time", justify="right", no_wrap=True)
    colours = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "cyan"}
    for job in sorted(jobs, key=lambda j: j.started):
        own = [o for o in job.overrides if o not in shared] or list(job.overrides)
        state = "KILLED" if job.state == "RUNNING" and not job.alive else job.state
        outcome = f"{job.value:.1%}" if job.value is not None else job.error
        table.add_row(Text(" ".join(own)), Text(state, colours[state]), Text(outcome), duration(job.seconds))
    Console().print(table)


def _panel(body: Any, title: str, colour: str) -> None:
    from rich.console import Console
    from rich.panel import Panel

    Console(stderr=True, highlight=False).print(Panel(body, title=f"[bold]{title}[/]", title_align="left", border_style=colour))


def _origin(place: str, overrides: Sequence[str], files: Sequence[tuple[str, Path]]) -> str:
    """The word on the command line, or the file and line, that a place comes from; empty where that is not sure."""
    root = place.split("[")[0]
    for override in reversed(overrides):
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if root in (key, key.replace("/", ".")) or root.startswith(f"{key}."):
            return override if override != root else ""
    word = re.compile(rf"(?:^|[\s{{,]){re.escape(root.rpartition('.')[2])}\s*:")
    for name, file in reversed(files):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if word.search(line):
                return f"{name}:{number}"
    return ""
