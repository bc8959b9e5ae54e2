"""From folders to a comparison, and from a comparison to files."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3tl_cli.cli import standings
from m3tl_cli.cli.design import FILE, PLAN, UPDATES, Record
from m3tl_cli.cli.matching import PILOT
from m3tl_cli.cli.status import FILE as STATUS
from m3tl_cli.config.spelling import nearest
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.results import BASELINES, PERFECT, write_text

if TYPE_CHECKING:
    from m3tl_cli.comparison.cells import Cell, Missing
    from m3tl_cli.comparison.plan import Plan
    from m3tl_cli.comparison.tables import Comparison

RESULTS = "results.json"
COMPARISON = "comparison.json"
AS_RUN = "as run"  # the comparison's name for runs whose lengths differ and none is shared
FORCED = ("data", "task", "tasks", "new_tasks", "target")
"""Parts of the config in which runs must agree unless they are forced together."""


@dataclass(frozen=True)
class Gathered:
    """Runs that are to be compared.

    Args:
        folders: Of the runs.
        plan: Of the ablation, where all of them are one.
        axes: Keys on which they differ on purpose.
    """

    folders: tuple[Path, ...]
    plan: Plan | None = None
    axes: tuple[str, ...] = field(default_factory=tuple)


def is_ablation(folder: Path) -> bool:
    """Whether `m3tl ablate` made it."""
    return (folder / FILE).is_file()


def is_run(folder: Path) -> bool:
    """Whether it is the folder of one run."""
    return (folder / STATUS).is_file() or (folder / RESULTS).is_file()


def gather(words: Sequence[str]) -> Gathered:
    """The runs that folders and patterns name.

    Args:
        words: Folders of runs, sweeps or ablations, or of any of these; or patterns for them.

    Raises:
        ConfigError: If one leads to no run.
    """
    found: dict[Path, None] = {}
    axes: dict[str, None] = {}
    tops: list[Path] = []
    for word in words:
        places = [Path(word)] if Path(word).exists() else [Path(p) for p in sorted(glob.glob(word))]
        runs = [run for place in places for run in _runs(place)]
        if not runs:
            raise ConfigError(f"`RUN` must be a folder of finished runs; found none in {word}", hint="ls -d outputs/*/*", place="RUN")
        found |= dict.fromkeys(run.absolute() for run in runs)
        tops += places
    ablations = {p for p in (*tops, *(run.parent for run in found)) if is_ablation(p)}
    for folder in ablations:
        axes |= dict.fromkeys(Record.read(folder).axes)
    if len(tops) == 1 and is_ablation(tops[0]):
        return replace(of_ablation(tops[0]), axes=tuple(axes))
    return Gathered(tuple(found), axes=tuple(axes))


def of_ablation(folder: Path) -> Gathered:
    """Every run of an ablation, and its plan.

    Raises:
        ConfigError: If it is no ablation, or its plan is not the one that was made before its first run.
    """
    from m3tl_cli.comparison.plan import Plan

    record = Record.read(folder)
    plan = Plan.read(folder / PLAN)
    if plan.digest != record.plan:
        raise ConfigError(
            f"`{PLAN}` must stay as it was before the first run; found another digest than in {FILE}",
            hint=f"put the old {PLAN} back",
            place=str(folder / PLAN),
        )
    begun = tuple(folder / cell.name for cell in record.cells if is_run(folder / cell.name))
    return Gathered(begun, plan, record.axes)


def compared(
    found: Gathered,
    *,
    reference: str | None = None,
    margin: float | None = None,
    gain_reference: str | None = None,
    force: bool = False,
) -> Comparison:
    """Compare gathered runs.

    Args:
        found: The runs.
        reference: Setting that differences are taken from; by default the plan's, or `stl`.
        margin: Largest difference that counts as none, where there is no plan.
        gain_reference: The 1 of the normalised gain, where there is no plan: `perfect`, or a baseline of the runs.
        force: Compare runs that differ in data, splits, tasks, protocol or length of training, and flag them, instead of refusing.

    Raises:
        ConfigError: If the runs may not be compared.
        DataError: If none of them is finished.
    """
    from m3tl_cli.comparison.cells import read_cells
    from m3tl_cli.comparison.compare import compare

    cells, unread = read_cells(found.folders, found.axes)
    if not cells:
        why = f": {unread[0].folder.name}: {unread[0].reason}" if unread else ""
        raise DataError(f"`RUN` must lead to a finished run; found none{why}", hint="m3tl ablate --resume", place="RUN")
    given: dict[str, Any] = {}
    if margin is not None:
        given["margin"] = margin
        if found.plan is not None and margin != found.plan.margin:
            raise _not_of_plan("margin", f"{found.plan.margin:g}", f"{margin:g}")
    if gain_reference is not None:
        given["gain_reference"] = _goal(gain_reference, cells, found.plan)
    if not force:
        made = compare(cells, found.plan, reference, unread=unread, **given)
        if found.plan is None and AS_RUN in made.budgets:
            lengths = ", ".join(f"{arm}: {n}" for arm, n in sorted({(c.arm, c.updates) for c in cells}))
            raise ConfigError(
                f"`{UPDATES}` must be the same in all runs; found {lengths}", hint="compare them anyway with --force", place=UPDATES
            )
    else:
        made = _forced(cells, unread, found.plan, reference, given)
    if found.plan is not None and len(made.budgets) == 1:
        made = under(made, found.plan.budget)
    return made


def under(found: Comparison, budget: str) -> Comparison:
    """The same comparison of one budget, called by the name that the runs were made for.

    An ablation with `match=equal_flops` alone has no length that its runs share, which a comparison cannot tell from carelessness.
    """
    [was] = found.budgets
    if was == budget:
        return found
    changed: dict[str, Any] = {"budget": budget, "budgets": (budget,)}
    for f in dataclasses.fields(found):
        value = getattr(found, f.name)
        if isinstance(value, tuple) and value and hasattr(value[0], "budget"):
            changed[f.name] = tuple(replace(row, budget=budget) for row in value)
    changed["runs"] = tuple(replace(run, budgets=(budget,)) for run in found.runs)
    changed["missing"] = tuple(replace(row, reason=row.reason.replace(was, budget)) for row in found.missing)
    meant = (f"the plan decides on {budget}; there are runs of {was} only", f"{was}: `{UPDATES}` differs between runs")
    kept = [flag for flag in found.flags if not flag.startswith(meant)]
    flags = [f"{budget}: {flag.removeprefix(f'{was}: ')}" if flag.startswith(f"{was}: ") else flag for flag in kept]
    return _flagged(replace(found, **changed), flags)


def saved_seconds(found: Comparison) -> float:
    """Seconds that runs did not spend because another had done the same: pretrained encoders, source networks."""
    from m3tl_cli.core.results import Results

    read = (Results.read(Path(run.folder) / RESULTS) for run in found.runs)
    return sum(stage.seconds for results in read for stage in results.stages if stage.cached)


def write(found: Comparison, folder: Path) -> list[Path]:
    """Write comparison.json, tables/*.csv and the page; what was written, the page first."""
    found.write(folder / COMPARISON)
    tables = write_tables(found, folder / "tables")
    return [page(found, folder), folder / COMPARISON, tables]


def write_tables(found: Comparison, folder: Path) -> Path:
    """Write a CSV file per table."""
    for name, text in standings.csv_files(found).items():
        write_text(folder / name, text)
    return folder


def page(found: Comparison, folder: Path, target: Path | None = None) -> Path:
    """Write the page of a comparison.

    Args:
        found: The comparison.
        folder: That it is about.
        target: File to write; None: `report.html` in the folder.
    """
    from m3tl_cli.report import ablation

    target = target or folder / "report.html"
    ablation.write(found, folder, target)
    return target


def _flagged(found: Comparison, flags: Sequence[str]) -> Comparison:
    """The same with other flags, which the verdict counts."""
    from m3tl_cli.comparison.verdict import two_sentences

    own = (row for row in found.summary if row.budget == found.budget and row.block == found.plan.key)
    means = {row.arm: row.gain for row in own if row.arm not in found.beside}
    return replace(found, flags=tuple(flags), verdict=two_sentences(found.plan, found.contrasts, means, len(flags)))


def _not_of_plan(key: str, planned: str, found: str) -> ConfigError:
    return ConfigError(
        f"`{key}` must be that of the plan, {planned}; found {found}",
        hint="leave it out, or name the runs themselves: m3tl compare ABLATION/*-s*",
        place=key,
    )


def _goal(word: str, cells: Sequence[Cell], plan: Plan | None) -> str:
    """The 1 of the gain as results name it.

    Raises:
        ConfigError: If the runs were planned with another, or have none of that name.
    """
    found = BASELINES.get(word, word)
    if plan is not None and plan.gain_reference != found:
        raise _not_of_plan("gain_reference", plan.gain_reference, word)
    measured = dict.fromkeys(name for cell in cells for name in cell.results.baselines)
    if found not in (PERFECT, *measured):
        known = {name: option for option, name in BASELINES.items()}
        names = [PERFECT, *(known.get(name, name) for name in measured)]
        near = nearest(word, names)
        raise ConfigError(
            f"`gain_reference` must be {PERFECT}, or a baseline that the runs have: {', '.join(names[1:]) or 'none'}; found {word}",
            hint=f"gain_reference={near[0] if near else names[-1]}",
            place="gain_reference",
        )
    return found


def _runs(place: Path) -> list[Path]:
    """Runs in a folder: itself, or those one or two folders down; pilots are none."""
    if is_run(place):
        return [place]
    below = (p.parent for depth in ("*", "*/*") for name in (STATUS, RESULTS) for p in place.glob(f"{depth}/{name}"))
    return sorted({run for run in below if run.parent.name != PILOT})


def _forced(
    cells: Sequence[Cell], unread: Sequence[Missing], plan: Plan | None, reference: str | None, given: Mapping[str, Any]
) -> Comparison:
    """Compare, and where the runs are refused for a key of the config, take the key out of sight and say so in the flags."""
    from m3tl_cli.comparison.cells import flat
    from m3tl_cli.comparison.compare import compare

    flags: list[str] = []
    while True:
        try:
            made = compare(cells, plan, reference, unread=unread, **given)
            return _flagged(made, [*flags, *made.flags]) if flags else made
        except ConfigError as error:
            known = {key for cell in cells for key, _ in flat(cell.config)}
            if error.place not in known or error.place.split(".")[0] not in FORCED:
                raise
            values = list(dict.fromkeys(str(dict(flat(cell.config)).get(error.place)) for cell in cells))
            flags.append(f"forced: `{error.place}` differs between runs: {', '.join(values)}")
            cells = [replace(cell, config=_without(cell.config, error.place)) for cell in cells]


def _without(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {k: _without(v, rest) if k == head and rest else v for k, v in config.items() if k != head or rest}
