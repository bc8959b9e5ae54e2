"""Where the numbers of a comparison come from: the run behind each, its page, and what it measured itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from m3tl_cli.comparison.measures import score_gain
from m3tl_cli.comparison.tables import Comparison, RunRef
from m3tl_cli.core.results import PERFECT, Score, TaskResult, mean
from m3tl_cli.report.many import is_many, picked

Blocks = Mapping[str, Mapping[str, TaskResult]]

PAGES = ("report.html", "results.json")
"""Files of a run that a number may lead to, the best first."""


@dataclass(frozen=True)
class Traces:
    """A comparison with its runs at hand. Runs that are no longer where they were have no numbers of their own and no link.

    Args:
        found: The comparison.
        base: Folder in which the page lies: links are relative to it.
    """

    found: Comparison
    base: Path
    _read: dict[int, tuple[Blocks, Mapping[str, Blocks]]] = field(default_factory=dict, repr=False)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """Relative address of each run's page, of its results where it has no page; empty where it has neither."""
        return tuple(self.link(Path(run.folder)) for run in self.found.runs)

    def link(self, folder: Path) -> str:
        """Relative address of a run's page."""
        for name in PAGES:
            if folder.is_absolute() and (folder / name).is_file():
                return quote(Path(os.path.relpath(folder / name, self.base)).as_posix())
        return ""

    @cached_property
    def _positions(self) -> dict[tuple[str, str, int], int]:
        return {(budget, run.arm, run.seed): i for i, run in enumerate(self.found.runs) for budget in run.budgets}

    def run(self, budget: str, arm: str, seed: int) -> int | None:
        """Position of the run of an arm and seed in a budget; None where there is none."""
        return self._positions.get((budget, arm, seed))

    def ref(self, run: int) -> RunRef:
        """The run at a position."""
        return self.found.runs[run]

    def score(self, run: int, block: str, task: str) -> Score | None:
        """A run's own primary score; None where it has none."""
        result = self._blocks(run)[0].get(block, {}).get(task)
        return None if result is None else result.scores.get(result.primary)

    def gain(self, budget: str, run: int, block: str) -> float:
        """A run's own mean normalised gain over main tasks, as the comparison takes it; NaN where it has none."""
        main = {t: r for t, r in self._blocks(run)[0].get(block, {}).items() if r.role == "main"}
        scores = {t: r.scores[r.primary] for t, r in main.items() if r.primary in r.scores}
        if any(not math.isfinite(score.value) for score in scores.values()):
            return math.nan
        return mean(score_gain(score, self._goal(budget, run, block, task, score)) for task, score in scores.items())

    def _goal(self, budget: str, run: int, block: str, task: str, score: Score) -> float:
        """The 1 of the gain: the perfect score, or that of the plan's baseline in the reference's run of the same seed."""
        name = self.found.plan.gain_reference
        if name == PERFECT:
            return score.perfect
        ref = self.ref(run)
        holder = self.run(budget, self.found.references.get(ref.arm, ref.arm), ref.seed)
        result = None if holder is None else self._blocks(holder)[1].get(name, {}).get(block, {}).get(task)
        return math.nan if result is None or result.primary not in result.scores else result.scores[result.primary].value

    def _blocks(self, run: int) -> tuple[Blocks, Mapping[str, Blocks]]:
        """Blocks and baselines of a run's results; of curves, which are most of the file, nothing is made."""
        if run not in self._read:
            try:
                raw = json.loads((Path(self.ref(run).folder) / "results.json").read_text())
                self._read[run] = (_blocks(raw["blocks"]), {n: _blocks(b) for n, b in raw.get("baselines", {}).items()})
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                self._read[run] = ({}, {})
        return self._read[run]

    @cached_property
    def ranks(self) -> Mapping[str, Mapping[str, float]]:
        """Block to task to what the settings gain or lose there against their reference, mean over the settings.

        By the gain itself where nothing is compared. Under the budget that decides.
        """
        found = self.found
        made: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for r in found.rows:
            if r.budget == found.budget and r.primary and r.arm not in found.beside:
                pairs = made.setdefault(r.block, {}).setdefault(r.task, [])
                pairs.append((math.nan if found.references.get(r.arm, r.arm) == r.arm else r.gain_difference.mean, r.gain.mean))
        return {
            block: {t: d if math.isfinite(d := mean(x for x, _ in pairs)) else mean(x for _, x in pairs) for t, pairs in tasks.items()}
            for block, tasks in made.items()
        }

    def few(self, block: str) -> tuple[str, ...]:
        """Tasks of a block that are drawn: all, or of many the worst, the median and the best."""
        return self._few.get(block, ())

    def is_many(self, block: str) -> bool:
        """Whether the block has more tasks than are drawn."""
        return is_many(self.ranks.get(block, {}))

    def has_rows(self, budget: str, block: str, task: str) -> bool:
        """Whether the page has a row for every setting on a task: of many tasks the outcome's block has them all, the others a few."""
        return not self.is_many(block) or (budget, block) == (self.found.budget, self.found.plan.key) or task in self.few(block)

    @cached_property
    def _few(self) -> Mapping[str, tuple[str, ...]]:
        return {block: picked(values) for block, values in self.ranks.items()}

    @cached_property
    def _known(self) -> frozenset[tuple[str, str, str, str]]:
        """Rows that the page has: budget, block, arm and task, which is empty for the mean over tasks."""
        found = self.found
        own = {(r.budget, r.block, r.arm, r.task) for r in found.rows if self.has_rows(r.budget, r.block, r.task)}
        return frozenset({(r.budget, r.block, r.arm, "") for r in found.summary} | own)

    def row(self, budget: str, block: str, arm: str, task: str = "") -> str:
        """Id of the row that shows what each run of an arm reached on a block, over all its tasks or one."""
        found = self.found
        place = [found.budgets.index(budget), found.blocks.index(block), found.arms.index(arm)]
        return ".".join(map(str, ["r", *place, *([found.tasks.index(task)] if task else [])]))

    def to(self, block: str, arm: str, task: str = "", budget: str = "") -> str:
        """Link to that row, to the arm's runs where of many tasks this one has none; empty where there is no such number.

        `budget` is the deciding one by default.
        """
        budget = budget or self.found.budget
        if (budget, block, arm, task) in self._known:
            return f"#{self.row(budget, block, arm, task)}"
        return self.to_runs(arm) if task in self.ranks.get(block, {}) and not self.has_rows(budget, block, task) else ""

    def to_runs(self, arm: str) -> str:
        """Link to the list of an arm's runs; empty where there are none."""
        return f"#{self.runs_row(arm)}" if arm in self.found.arms else ""

    def runs_row(self, arm: str) -> str:
        """Id of the row that lists an arm's runs."""
        return f"runs.{self.found.arms.index(arm)}"


def _blocks(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, TaskResult]]:
    """Only the primary scores: the others are not asked for."""
    return {block: {name: _task(task) for name, task in tasks.items()} for block, tasks in raw.items()}


def _task(raw: Mapping[str, Any]) -> TaskResult:
    primary = raw["primary"]
    scores = {primary: Score(**raw["scores"][primary])} if primary in raw["scores"] else {}
    return TaskResult(raw["kind"], primary, scores, raw.get("role", "main"))
