"""Turn finished runs into every table of a comparison: the one door for `m3tl ablate`, `m3tl compare` and the report.

cells, unread = read_cells(folders, axes)
comparison = compare(cells, Plan.read(folder / "plan.json"), unread=unread)
comparison.write(folder / "comparison.json")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np

from m3tl_cli.comparison import shrinkage, table_one
from m3tl_cli.comparison.cells import Cell, Family, Missing, arm_label, family_of, outcomes
from m3tl_cli.comparison.measures import (
    COST_UNITS,
    Direction,
    average_ranks,
    cost_columns,
    delta_m,
    pareto_front,
    power_law,
    relative_change,
    samples_to_target,
    score_gain,
    steps_to_target,
    win_tie_loss,
)
from m3tl_cli.comparison.plan import Plan, corner_arms, plan_for
from m3tl_cli.comparison.statistics import Array, Estimate, combine, estimate, factorial_terms, factorial_weights
from m3tl_cli.comparison.tables import (
    BaselineRow,
    Comparison,
    CostRow,
    EffectRow,
    MissingRow,
    ParetoRow,
    RunRef,
    Runs,
    SavingRow,
    StepRow,
    SummaryRow,
    TaskRow,
    TransferenceRow,
)
from m3tl_cli.comparison.verdict import judge, two_sentences
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import PERFECT, Curve, Score, TaskResult, block_key, block_order, block_parts, mean

MIN_TASKS = 8
"""Fewest tasks from which anything is claimed about other tasks."""

# Tasks that the James-Stein estimate to the grand mean needs.
_MIN_SHRUNK = 4

_NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def compare(
    cells: Sequence[Cell],
    plan: Plan | None = None,
    reference: str | None = None,
    *,
    margin: float = 0.02,
    gain_reference: str = PERFECT,
    unread: Sequence[Missing] = (),
) -> Comparison:
    """Compare finished runs.

    Args:
        cells: Finished runs, as `read_cells` gives them.
        plan: Made before the runs. None: the family is made up of the settings found, and nothing is more than exploratory.
        reference: Setting or arm that descriptive differences are taken from; the plan's by default, `stl` without a plan. Along axes
            a setting is taken at each arm's own levels. One that has no runs is replaced by the first arm, and a flag says so.
        margin: Largest difference that counts as none, without a plan.
        gain_reference: The 1 of the normalised gain, without a plan: `perfect`, or the name of a baseline of the reference's runs.
        unread: Runs that could not be read, for the record.

    Raises:
        ConfigError: If the runs are not comparable (see `family_of`), or none is of an arm of the plan.
    """
    family = family_of(cells)
    planned = plan is not None
    if plan is None:
        plan = _plan_of(family, reference or "stl", margin, gain_reference)
    elif not set(plan.arms) & set(family.arms):
        raise ConfigError(
            f"`cells` must be runs of the plan's arms, {', '.join(plan.arms)}; found {', '.join(family.arms)}.",
            hint="read the cells with the axes of the plan",
        )
    deciding = plan.budget if plan.budget in family.budgets else next(iter(family.budgets))
    runs = tuple(
        RunRef(
            str(c.folder), c.arm, c.setting, dict(c.axes), c.seed, tuple(b for b, t in family.budgets.items() if t[c.arm].get(c.seed) is c)
        )
        for c in family.cells
    )
    index = {run.folder: i for i, run in enumerate(runs)}
    flags = [*family.flags]
    if planned and plan.budget != deciding and len(family.budgets) == 1:
        flags.append(f"the plan decides on {plan.budget}; there are runs of {deciding} only")
    if planned and (other := [s for s in plan.seeds if s not in family.seeds]):
        flags.append(f"planned seeds without a run: {', '.join(map(str, other))}")
    if planned and (extra := [s for s in family.seeds if s not in plan.seeds]):
        flags.append(f"seeds that were not planned take no part in the verdict: {', '.join(map(str, extra))}")
    tables = {name: _Budget(name, family, table, plan, reference or plan.reference, index) for name, table in family.budgets.items()}
    decider = tables[deciding]
    flags += [*decider.reference_flags, *decider.without_goal]
    for table in tables.values():
        flags += [f"{table.name}: {flag}" for flag in table.not_finite]
    taken = [i for i, s in enumerate(family.seeds) if s in plan.seeds] if planned else list(range(len(family.seeds)))
    outcome = {arm: row[taken] for arm, row in decider.gains(plan.key).items()}
    validation = decider.validation(taken)
    verdicts = judge(plan, outcome, [family.seeds[i] for i in taken], validation, planned=planned)
    beside = {c.arm: c.compared_as for c in family.cells if c.compared_as != "setting"}
    means = {arm: estimate(row, 1 - plan.alpha) for arm, row in outcome.items() if arm not in beside}
    blocks = tuple(sorted({b for c in family.cells for b in c.results.blocks}, key=block_order))
    tasks = tuple(dict.fromkeys(t for b in blocks for c in family.cells for t in c.results.blocks.get(b, {})))
    every = list(tables.values())
    missing = [MissingRow("", None, str(m.folder), m.reason) for m in unread]
    missing += [
        MissingRow(arm, seed, "", f"no run under {deciding}")
        for arm in (plan.arms if planned else family.arms)
        for seed in (plan.seeds if planned else family.seeds)
        if seed not in decider.table.get(arm, {})
    ]
    return Comparison(
        plan=plan,
        planned=planned,
        verdict=two_sentences(plan, verdicts, means, len(set(flags))),
        budget=deciding,
        budgets=tuple(tables),
        arms=family.arms,
        seeds=family.seeds,
        blocks=blocks,
        tasks=tasks,
        references=decider.references,
        beside=beside,
        runs=runs,
        missing=tuple(missing),
        flags=tuple(dict.fromkeys(flags)),
        validation={rival: mean(row) for rival, row in validation.items()},
        contrasts=verdicts,
        summary=tuple(row for t in every for row in t.summary(blocks)),
        rows=tuple(row for t in every for b in blocks for row in t.rows(b)),
        baselines=tuple(row for t in every for row in t.baselines(blocks)),
        effects=tuple(row for t in every for row in t.effects(blocks)),
        savings=tuple(row for t in every for row in t.savings(blocks)),
        steps=tuple(row for t in every for row in t.steps(blocks)),
        costs=tuple(row for t in every for row in t.costs()),
        pareto=tuple(row for t in every for row in t.pareto()),
        transference=tuple(row for t in every for row in t.transference()),
        table_one=table_one.statements(decider.table, key=plan.key, margin=plan.margin, level=1 - plan.alpha, index=index),
    )


def _plan_of(family: Family, reference: str, margin: float, gain_reference: str) -> Plan:
    """The family that could have been planned for these runs: on the newest kind of task, at the middle number of shots."""
    keys = {b for c in family.cells for b in c.results.blocks}
    kinds = [k for k in ("c", "b", "a") if any(block_parts(key)[0] == k for key in keys)]
    block = kinds[0] if kinds else "a"
    shots = sorted(n for kind, n in map(block_parts, keys) if kind == block and n is not None) if block != "a" else []
    judged = [c for c in family.cells if c.compared_as == "setting"] or list(family.cells)
    settings = list(dict.fromkeys(c.setting for c in judged))
    axes = {axis: sorted({c.axes[axis] for c in judged}) for axis in judged[0].axes}
    num_shots = shots[len(shots) // 2] if shots else None
    plan = plan_for(
        settings,
        axes=axes,
        seeds=family.seeds,
        block=block,
        num_shots=num_shots,
        margin=margin,
        reference=reference,
        gain_reference=gain_reference,
    )
    contrasts = tuple(c for c in plan.contrasts if set(c.weights) <= set(family.arms))
    # Runs that were picked by hand need not fill the grid of settings and axes.
    rivals = {c.name: {r: w for r, w in c.rivals.items() if set(w) <= set(family.arms)} for c in contrasts}
    kept = tuple(replace(c, rivals=rivals[c.name]) for c in contrasts if bool(c.rivals) == bool(rivals[c.name]))
    return replace(plan, contrasts=kept, arms=family.arms)


class _Budget:
    """The tables of one budget.

    Args:
        name: Of the budget.
        family: All cells.
        table: Arm to seed to cell.
        plan: Gives block, margin, alpha and the reference of gains.
        reference: Setting or arm.
        index: Position of a run by its folder.
    """

    def __init__(
        self, name: str, family: Family, table: Mapping[str, Mapping[int, Cell]], plan: Plan, reference: str, index: Mapping[str, int]
    ) -> None:
        self.name, self.plan, self.index = name, plan, index
        self.table, self.seeds, self.level = table, family.seeds, 1 - plan.alpha
        self.arms = tuple(arm for arm in family.arms if table.get(arm))
        self.cell_of = {arm: next(iter(table[arm].values())) for arm in self.arms}
        self.reference_flags: list[str] = []
        own_arms = [arm for arm, cell in self.cell_of.items() if cell.compared_as == "setting"] or list(self.arms)
        settings = {self.cell_of[arm].setting for arm in own_arms}
        if reference in self.arms or reference not in settings:
            base = reference if reference in self.arms else own_arms[0]
            if base != reference:
                self.reference_flags.append(f"no run of the reference `{reference}`: `{base}` stands in for it")
            self.references = dict.fromkeys(self.arms, base)
        elif len(settings) == 1:
            self.references = dict.fromkeys(self.arms, own_arms[0])
        else:
            own = {arm: arm_label(reference, cell.axes) for arm, cell in self.cell_of.items()}
            self.references = {arm: base for arm, base in own.items() if base in self.arms}
            self.reference_flags += [
                f"no run of `{base}`: `{arm}` has no differences" for arm, base in own.items() if base not in self.arms
            ]
        self.gains = lru_cache(maxsize=None)(self._gains)
        self.task_gains = lru_cache(maxsize=None)(self._task_gains)

    def estimate(self, values: Array) -> Estimate:
        return estimate(values, self.level)

    def runs(self, *arms: str) -> Runs:
        """Runs of the arms, and of the arms that they are compared with."""
        wanted = dict.fromkeys(a for arm in arms for a in (arm, self.references.get(arm, arm)))
        return tuple(sorted(self.index[str(c.folder)] for a in wanted for c in self.table[a].values()))

    def pick(self, number: Callable[[Cell], float]) -> dict[str, Array]:
        return outcomes(self.table, self.seeds, number, self.arms)

    def results(self, block: str) -> dict[str, TaskResult]:
        """Task to a result of any arm: what its kind, role and metrics are."""
        found: dict[str, TaskResult] = {}
        for arm in self.arms:
            for cell in self.table[arm].values():
                for task, result in cell.results.blocks.get(block, {}).items():
                    found.setdefault(task, result)
        return found

    def main_tasks(self, block: str) -> tuple[str, ...]:
        return tuple(t for t, r in self.results(block).items() if r.role == "main")

    def gain(self, cell: Cell, block: str, task: str, metric: str, of: Mapping[str, TaskResult] | None = None) -> float:
        """Normalised gain of one score of a cell, or of the results `of` a baseline of its; NaN where there is none."""
        found = (cell.results.blocks.get(block, {}) if of is None else of).get(task)
        score = None if found is None else found.scores.get(metric)
        if score is None:
            return math.nan
        return score_gain(score, self.goal(cell, score, block, task, metric))

    def goal(self, cell: Cell, score: Score, block: str, task: str, metric: str) -> float:
        """The 1 of the gain: the perfect score, or that of the plan's baseline in the reference's run of the same seed."""
        if self.plan.gain_reference == PERFECT:
            return score.perfect
        holder = self.table[self.references.get(cell.arm, cell.arm)].get(cell.seed)
        goals = {} if holder is None else holder.results.baselines.get(self.plan.gain_reference, {}).get(block, {})
        found = goals[task].scores.get(metric) if task in goals else None
        return math.nan if found is None else found.value

    @property
    def without_goal(self) -> list[str]:
        """Runs of references whose baseline cannot be the 1 of the gain: it is not there, or at a task no better than the trivial one."""
        name, block = self.plan.gain_reference, self.plan.key
        if name == PERFECT:
            return []
        found: dict[str, list[str]] = {}
        for base in dict.fromkeys(self.references.values()):
            for seed, cell in self.table[base].items():
                if not cell.results.baselines.get(name, {}).get(block):
                    found.setdefault(f"`{base}` has no baseline `{name}` on {block}, and no gain", []).append(str(seed))
                    continue
                for task, result in cell.results.blocks.get(block, {}).items():
                    score = result.scores[result.primary]
                    if math.isnan(score_gain(replace(score, value=score.perfect), self.goal(cell, score, block, task, result.primary))):
                        told = (
                            f"`{name}` of `{base}` is no better than the trivial predictor at {task} on {block}, which no mean gain counts"
                        )
                        found.setdefault(told, []).append(str(seed))
        return [f"{told}, with seed {', '.join(seeds)}" for told, seeds in found.items()]

    def _task_gains(self, block: str, task: str, metric: str) -> dict[str, Array]:
        return self.pick(lambda cell: self.gain(cell, block, task, metric))

    def mean_gain(self, cell: Cell, block: str, of: Mapping[str, TaskResult] | None = None) -> float:
        """Over the main tasks' primary metrics; NaN where a score is not finite: a run that failed at a task has no mean without it."""
        found = cell.results.blocks.get(block, {}) if of is None else of
        main = {t: r for t, r in found.items() if r.role == "main"}
        if any(not math.isfinite(r.scores[r.primary].value) for r in main.values()):
            return math.nan
        return mean(self.gain(cell, block, t, r.primary, of) for t, r in main.items())

    def _gains(self, block: str) -> dict[str, Array]:
        return self.pick(lambda cell: self.mean_gain(cell, block))

    def minus_reference(self, values: Mapping[str, Array], arm: str) -> Array:
        base = self.references.get(arm)
        return values[arm] - values[base] if base is not None else np.full(len(self.seeds), math.nan)

    @cached_property
    def not_finite(self) -> list[str]:
        """Scores that are no numbers: they take their run out of every mean over tasks."""
        return [
            f"`{arm}` with seed {seed} has no finite {result.primary} of {task} on {block}"
            for arm in self.arms
            for seed, cell in self.table[arm].items()
            for block, tasks in cell.results.blocks.items()
            for task, result in tasks.items()
            if not math.isfinite(result.scores[result.primary].value)
        ]

    def validation(self, taken: Sequence[int]) -> dict[str, Array]:
        """Score on meta-validation on the outcome's block per rival of the plan and seed; a rival that has none is left out."""

        def score(cell: Cell) -> float:
            return next((c.score for c in cell.results.choices if c.block == self.plan.key), math.nan)

        scores = {arm: row[taken] for arm, row in self.pick(score).items()}
        rivals = {name: weights for contrast in self.plan.contrasts for name, weights in contrast.rivals.items()}
        found = {name: combine(weights, scores) for name, weights in rivals.items() if set(weights) <= set(scores)}
        return {name: row for name, row in found.items() if np.isfinite(row).any()}

    def rows(self, block: str) -> Iterator[TaskRow]:
        """A row per task, metric and arm that has the block."""
        shrunk = {arm: self.shrunk(block, arm) for arm in self.arms}
        for task, result in self.results(block).items():
            for metric, sample in result.scores.items():
                scores = {
                    arm: {
                        s: r.scores[metric]
                        for s, c in self.table[arm].items()
                        if (r := c.results.blocks.get(block, {}).get(task)) is not None and metric in r.scores
                    }
                    for arm in self.arms
                }
                values = {
                    arm: np.asarray([scores[arm][s].value if s in scores[arm] else math.nan for s in self.seeds]) for arm in self.arms
                }
                gains = self.task_gains(block, task, metric)
                primary = metric == result.primary
                for arm in self.arms:
                    if not scores[arm]:
                        continue
                    relative = self.estimate(self.relative(values, arm, sample.direction))
                    yield TaskRow(
                        budget=self.name,
                        block=block,
                        arm=arm,
                        task=task,
                        kind=result.kind,
                        role=result.role,
                        metric=metric,
                        unit=sample.unit,
                        direction=sample.direction,
                        primary=primary,
                        value=self.estimate(values[arm]),
                        trivial=mean(s.trivial for s in scores[arm].values()),
                        gain=self.estimate(gains[arm]),
                        difference=self.estimate(self.minus_reference(values, arm)),
                        gain_difference=self.estimate(self.minus_reference(gains, arm)),
                        relative=relative,
                        negative_transfer=max(0.0, -relative.mean) if math.isfinite(relative.mean) else math.nan,
                        shrunk=shrunk[arm][0].get(task, math.nan) if primary else math.nan,
                        runs=self.runs(arm),
                    )

    def relative(self, values: Mapping[str, Array], arm: str, direction: Direction) -> Array:
        """Paired change against the reference, over the reference's mean over seeds."""
        base = self.references.get(arm)
        if base is None:
            return np.full(len(self.seeds), math.nan)
        below = mean(values[base])
        return np.asarray([relative_change(a, b, below, direction) for a, b in zip(values[arm], values[base], strict=True)])

    def shrunk(self, block: str, arm: str) -> tuple[dict[str, float], float]:
        """James-Stein estimates of an arm's gain differences per main task, and their factor.

        One variance for all tasks, the mean of their squared standard errors, which is estimated from the seeds.
        """
        if self.references.get(arm, arm) == arm:
            return {}, math.nan
        kinds = self.results(block)
        effects: dict[str, Array] = {}
        for task in self.main_tasks(block):
            row = self.minus_reference(self.task_gains(block, task, kinds[task].primary), arm)
            row = row[np.isfinite(row)]
            if row.size > 1:
                effects[task] = row
        if len(effects) < _MIN_SHRUNK:
            return {}, math.nan
        variance = mean(float(row.var(ddof=1)) / row.size for row in effects.values())
        found = shrinkage.to_mean(
            [float(row.mean()) for row in effects.values()], variance, degrees=min(row.size for row in effects.values()) - 1
        )
        return dict(zip(effects, map(float, found.values), strict=True)), found.factor

    def summary(self, blocks: Sequence[str]) -> Iterator[SummaryRow]:
        """A row per block and arm."""
        for block in blocks:
            gains, tasks, kinds = self.gains(block), self.main_tasks(block), self.results(block)
            arms = [arm for arm in self.arms if any(block in c.results.blocks for c in self.table[arm].values())]
            if not tasks or not arms:
                continue
            per_task = {t: self.task_gains(block, t, kinds[t].primary) for t in tasks}
            ranked = [arm for arm in arms if self.cell_of[arm].compared_as == "setting"]
            cases = [np.concatenate([per_task[t][arm] for t in tasks]) for arm in ranked]
            ranks = dict(zip(ranked, average_ranks(np.stack(cases)), strict=True)) if ranked else {}
            for arm in arms:
                differences = {t: self.minus_reference(per_task[t], arm) for t in tasks}
                estimates = {t: self.estimate(row) for t, row in differences.items()}
                known = {t: e for t, e in estimates.items() if math.isfinite(e.mean)}
                worst = min(known, key=lambda t: known[t].mean, default="")
                wins, ties, losses = win_tie_loss(np.concatenate(list(differences.values())), self.plan.margin)
                by_metrics, by_tasks = self.delta_m(block, arm)
                yield SummaryRow(
                    budget=self.name,
                    block=block,
                    arm=arm,
                    num_tasks=len(tasks),
                    gain=self.estimate(gains[arm]),
                    difference=self.estimate(self.minus_reference(gains, arm)),
                    delta_m_metrics=self.estimate(by_metrics),
                    delta_m_tasks=self.estimate(by_tasks),
                    rank=float(ranks.get(arm, math.nan)),
                    wins=wins,
                    ties=ties,
                    losses=losses,
                    worst_task=worst,
                    worst=known.get(worst, _NOTHING),
                    hurt=tuple(self.hurt(block, arm, tasks, kinds)),
                    across_tasks=self.across_tasks(known),
                    shrink_factor=self.shrunk(block, arm)[1],
                    runs=self.runs(arm),
                )

    def across_tasks(self, known: Mapping[str, Estimate]) -> Estimate:
        return estimate([e.mean for e in known.values()], self.level) if len(known) >= MIN_TASKS else _NOTHING

    def hurt(self, block: str, arm: str, tasks: Sequence[str], kinds: Mapping[str, TaskResult]) -> Iterator[str]:
        for task in tasks:
            primary = kinds[task].primary

            def value(cell: Cell, task: str = task, primary: str = primary) -> float:
                found = cell.results.blocks.get(block, {}).get(task)
                return math.nan if found is None or primary not in found.scores else found.scores[primary].value

            changes = self.relative(self.pick(value), arm, kinds[task].scores[primary].direction)
            if self.estimate(changes).high < 0:
                yield task

    def delta_m(self, block: str, arm: str) -> tuple[Array, Array]:
        """Both Delta_m of an arm per seed, over main tasks and all their metrics; paired, over the reference's mean over seeds."""
        base = self.references.get(arm)
        nothing = np.full(len(self.seeds), math.nan)
        if base is None:
            return nothing, nothing.copy()

        def scores(cell: Cell) -> dict[str, dict[str, float]]:
            found = cell.results.blocks.get(block, {})
            return {t: {m: s.value for m, s in r.scores.items()} for t, r in found.items() if r.role == "main"}

        kinds = self.results(block)
        directions: dict[str, dict[str, Direction]] = {t: {m: s.direction for m, s in r.scores.items()} for t, r in kinds.items()}
        singles = {seed: scores(cell) for seed, cell in self.table[base].items()}
        below = {t: {m: mean(s[t][m] for s in singles.values() if m in s.get(t, {})) for m in directions[t]} for t in directions}
        pairs = [
            delta_m(scores(self.table[arm][s]), singles[s], directions, below) if s in self.table[arm] and s in singles else (math.nan,) * 2
            for s in self.seeds
        ]
        return np.asarray([a for a, _ in pairs]), np.asarray([b for _, b in pairs])

    def baselines(self, blocks: Sequence[str]) -> Iterator[BaselineRow]:
        """A row per block, arm and baseline."""
        for block in blocks:
            for arm in self.arms:
                for name in dict.fromkeys(n for c in self.table[arm].values() for n in c.results.baselines):

                    def value(cell: Cell, name: str = name, block: str = block) -> float:
                        return self.mean_gain(cell, block, cell.results.baselines.get(name, {}).get(block, {}))

                    found = outcomes(self.table, self.seeds, value, [arm])[arm]
                    if np.isfinite(found).any():
                        own = self.gains(block)[arm]
                        yield BaselineRow(self.name, block, arm, name, self.estimate(found), self.estimate(own - found), self.runs(arm))

    def effects(self, blocks: Sequence[str]) -> Iterator[EffectRow]:
        """Main effects and interactions on every block where all eight corners stand; arms of a setting are averaged."""
        by_setting: dict[str, list[str]] = {}
        for arm, cell in self.cell_of.items():
            by_setting.setdefault(cell.setting, []).append(arm)
        for block in blocks:
            corners = corner_arms(list(by_setting), block_parts(block)[0])
            gains = self.gains(block)
            used = [arm for setting in corners.values() for arm in by_setting[setting]]
            if len(corners) < 8 or not all(np.isfinite(gains[arm]).any() for arm in used):
                continue
            for term in factorial_terms():
                weights = {
                    arm: sign / len(by_setting[corners[corner]])
                    for corner, sign in factorial_weights(term).items()
                    for arm in by_setting[corners[corner]]
                }
                effect = self.estimate(combine(weights, gains))
                runs = tuple(sorted(self.index[str(c.folder)] for arm in used for c in self.table[arm].values()))
                yield EffectRow(self.name, block, " x ".join(term), len(term), effect, runs)

    def savings(self, blocks: Sequence[str]) -> Iterator[SavingRow]:
        """A learning curve per kind of target block, arm and task, against the reference's."""
        kinds: dict[str, list[int]] = {}
        for block in blocks:
            kind, number = block_parts(block)
            if number is not None and kind != "a":
                kinds.setdefault(kind, []).append(number)
        for kind, shots in kinds.items():
            keys = [block_key(kind, n) for n in shots]
            results = self.results(keys[-1])
            curves = {"": [self.gains(key) for key in keys]}
            curves |= {t: [self.task_gains(key, t, results[t].primary) for key in keys] for t in self.main_tasks(keys[-1])}
            for task, points in curves.items():
                for arm in self.arms:
                    base = self.references.get(arm)
                    seeds = [point[arm] for point in points]
                    gains = tuple(map(self.estimate, seeds))
                    if base is None or not any(math.isfinite(g.mean) for g in gains):
                        continue
                    single = [self.estimate(point[base]).mean for point in points]
                    own = samples_to_target(shots, [g.mean for g in gains], single[-1])
                    theirs = samples_to_target(shots, single, single[-1])
                    saved = theirs.at / own.at if math.isfinite(own.at) and math.isfinite(theirs.at) else math.nan
                    exponents = [power_law(shots, [1 - float(gain) for gain in curve]).exponent for curve in zip(*seeds, strict=True)]
                    yield SavingRow(
                        budget=self.name,
                        block=kind,
                        arm=arm,
                        task=task,
                        num_shots=tuple(shots),
                        gains=gains,
                        target=single[-1],
                        samples=own.at,
                        kind=own.kind,
                        saved=saved,
                        exponent=self.estimate(np.asarray(exponents)),
                        runs=self.runs(arm),
                    )

    def steps(self, blocks: Sequence[str]) -> Iterator[StepRow]:
        """An adaptation curve per block, arm and task, of the trial that meta-validation chose in each run."""
        for block in blocks:
            for arm in self.arms:
                cells = self.table[arm]
                chosen = {s: {c.task: c for c in cell.results.curves if c.chosen and c.key == block} for s, cell in cells.items()}
                grids = {curve.steps for curves in chosen.values() for curve in curves.values()}
                base = self.references.get(arm)
                if not grids or base is None:
                    continue
                steps = tuple(sorted(set.intersection(*map(set, grids))))
                main, results = self.main_tasks(block), self.results(block)
                for task in ("", *main):
                    wanted = [t for t in main if t in {t for curves in chosen.values() for t in curves}] if task == "" else [task]
                    rows = np.asarray(
                        [self.curve(cells[s], chosen[s], wanted, steps) if s in cells else [math.nan] * len(steps) for s in self.seeds]
                    )
                    if not np.isfinite(rows).any():
                        continue
                    gains = tuple(self.estimate(column) for column in rows.T)
                    ends = self.gains(block)[base] if task == "" else self.task_gains(block, task, results[task].primary)[base]
                    target = mean(ends)
                    reached = steps_to_target(steps, [g.mean for g in gains], target).at
                    yield StepRow(self.name, block, arm, task, steps, gains, target, reached, self.runs(arm))

    def curve(self, cell: Cell, curves: Mapping[str, Curve], tasks: Sequence[str], steps: Sequence[int]) -> list[float]:
        """Mean gain over tasks at each step; NaN where a task has no curve."""
        if not tasks or not set(tasks) <= set(curves):
            return [math.nan] * len(steps)
        found = {c: [c.at(step) for step in steps] for c in (curves[t] for t in tasks)}
        rows = [[score_gain(score, self.goal(cell, score, c.key, c.task, c.metric)) for score in scores] for c, scores in found.items()]
        return [mean(column) for column in zip(*rows, strict=True)]

    @cached_property
    def cost_values(self) -> dict[tuple[str, str], dict[str, Array]]:
        columns = {cell.folder: cost_columns(cell.results) for arm in self.arms for cell in self.table[arm].values()}
        keys = dict.fromkeys(key for found in columns.values() for key in found)
        return {key: self.pick(lambda cell, key=key: columns[cell.folder].get(key, math.nan)) for key in keys}  # type: ignore[misc]

    def costs(self) -> Iterator[CostRow]:
        """A row per arm, column and stage."""
        for (column, stage), values in self.cost_values.items():
            for arm in self.arms:
                found = self.estimate(values[arm])
                if math.isfinite(found.mean):
                    base = self.references.get(arm)
                    below = mean(values[base]) if base is not None else math.nan
                    ratio = found.mean / below if below and math.isfinite(below) else math.nan
                    yield CostRow(self.name, arm, column, stage, COST_UNITS.get(column, ""), found, ratio, self.runs(arm))

    def pareto(self) -> Iterator[ParetoRow]:
        """A row per cost of a whole run: with and without pretraining."""
        scores = {arm: mean(row) for arm, row in self.gains(self.plan.key).items()}
        if not any(map(math.isfinite, scores.values())):
            return
        for (column, stage), values in self.cost_values.items():
            if stage in ("all", "without pretraining"):
                points = {arm: (mean(values[arm]), scores[arm]) for arm in self.arms if math.isfinite(scores[arm])}
                yield ParetoRow(self.name, self.plan.key, column, stage, points, pareto_front(points))

    def transference(self) -> Iterator[TransferenceRow]:
        """A row per arm and ordered pair of tasks that an update of its training could move together."""
        for arm in self.arms:
            found = {seed: cell.results.transference for seed, cell in self.table[arm].items()}
            pairs = dict.fromkeys((i, j) for matrix in found.values() for i, row in matrix.items() for j in row)
            own = tuple(sorted(self.index[str(c.folder)] for c in self.table[arm].values()))
            for i, j in pairs:
                values = [found[s].get(i, {}).get(j, math.nan) if s in found else math.nan for s in self.seeds]
                yield TransferenceRow(self.name, arm, i, j, self.estimate(np.asarray(values)), own)
