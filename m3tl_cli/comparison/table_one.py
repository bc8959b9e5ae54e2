"""Table 1 of the survey ("transfer, multi-task and meta-learning compared") as statements that runs agree or disagree with.

The survey's cell is the hypothesis. A row is measured on the runs of `transfer`, `mtl` and `meta`; with axes, on each one's first arm, of
those with the most modalities where they are an axis.
Rows that are counted need no seeds; rows that are estimated answer from 6 seeds on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS, Cell
from m3tl_cli.comparison.measures import (
    REACHED,
    Direction,
    cost_columns,
    delta_m,
    power_law,
    relative_change,
    samples_to_target,
    score_gain,
)
from m3tl_cli.comparison.statistics import MIN_SEEDS, Estimate, estimate
from m3tl_cli.comparison.tables import StatementRow
from m3tl_cli.core.results import Curve, Score, block_key, block_parts, mean

Answer = Literal["agrees", "disagrees", "undecided"]

COLUMNS: Mapping[str, str] = {"transfer": "transfer", "multi-task": "mtl", "meta": "meta"}
"""Column of the table to the setting that stands for it; `stl` is what they are held against."""

HYPOTHESES: Mapping[str, tuple[str, str, str]] = {
    "what is shared": ("architecture, parameters", "parameters, features", "parameters, hyper-parameters, architecture"),
    "when": ("after source training", "while training", "after source training"),
    "why": ("data and label efficiency", "all tasks improve", "quick on a new task"),
    "how": ("source to target", "all to all", "source to target"),
    "type": ("representational", "functional", "representational"),
    "heterogeneous tasks": ("may differ", "may differ", "should match"),
    "training data": ("source much larger than target", "large", "few-shot: little"),
    "computation": ("most efficient", "efficient, grows with tasks", "meta-training is not efficient"),
    "structure": ("one batch, one task", "one batch, many tasks", "one episode, one task"),
    "two-level optimisation": ("no", "no", "yes"),
    "negative transfer": ("occurs", "occurs", "does not occur"),
    "multi-modal inputs": ("yes", "yes", "yes"),
}
"""What the survey says, per row and column."""

AXIS = "data.modalities"
"""Along which arms of a setting say what several modalities gain."""


@dataclass(frozen=True)
class Finding:
    """What runs say of one cell: in words, as a number where there is one, whether it agrees, and what other arms that rests on."""

    measured: str
    answer: Answer = "undecided"
    value: Estimate | None = None
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """The runs of one column and of `stl`, paired.

    Args:
        column: Of the table.
        arm: The column's arm.
        own: Its cells by seed; `single`: those of `stl`. `others`: of the other columns.
        unimodal: Arms of the same setting with one modality, otherwise alike, to their cells by seed.
        key: Block of the outcome.
        margin: Largest difference that counts as none.
        level: Of the intervals.
    """

    column: str
    arm: str
    own: Mapping[int, Cell]
    single: Mapping[int, Cell]
    others: tuple[Mapping[int, Cell], ...]
    unimodal: Mapping[str, Mapping[int, Cell]]
    key: str
    margin: float
    level: float

    @property
    def cell(self) -> Cell:
        """The first of its own."""
        return next(iter(self.own.values()))

    @property
    def paired(self) -> tuple[tuple[Cell, Cell], ...]:
        """Own cell and that of `stl`, per seed that both have."""
        return tuple((cell, self.single[seed]) for seed, cell in self.own.items() if seed in self.single)

    def switch(self, name: str) -> bool:
        """A switch of the paradigm, as the run had it."""
        names = ("pretrain", "joint", "bilevel", "handover")
        return bool(self.cell.config.get("paradigm", {}).get(name, SETTINGS[self.cell.setting][names.index(name)]))

    @property
    def together(self) -> bool | None:
        """Whether tasks share a network; None with fewer than two tasks."""
        tasks = len(self.cell.results.tasks)
        return None if tasks < 2 else self.cell.results.cost.networks < tasks

    @property
    def networks(self) -> str:
        """Networks and tasks in words."""
        count, tasks = self.cell.results.cost.networks, len(self.cell.results.tasks)
        return f"{count} network{'' if count == 1 else 's'} for {tasks} task{'' if tasks == 1 else 's'}"


def statements(
    table: Mapping[str, Mapping[int, Cell]], *, key: str, margin: float, level: float, index: Mapping[str, int]
) -> tuple[StatementRow, ...]:
    """Measure every cell of the table.

    Args:
        table: Arm to seed to cell: one budget of a family.
        key: Block of the outcome.
        margin: Largest relative change or gain difference that counts as none.
        level: Of the intervals.
        index: Position of a run by its folder.
    """
    firsts = {arm: next(iter(by_seed.values())) for arm, by_seed in table.items() if by_seed}
    arms = {s: _representative({arm: cell for arm, cell in firsts.items() if cell.setting == s}) for s in SETTINGS}
    rows = []
    for row, hypotheses in HYPOTHESES.items():
        definition, measure = _MEASURES[row]
        for (column, setting), hypothesis in zip(COLUMNS.items(), hypotheses, strict=True):
            arm = arms[setting]
            if not arm:
                rows.append(StatementRow(row, column, hypothesis, definition, "", f"no run of {setting}", None, "undecided", ()))
                continue
            others = tuple(table[arms[s]] for s in COLUMNS.values() if s != setting and arms[s])
            unimodal = {a: table[a] for a, cell in firsts.items() if _like(cell, firsts[arm]) and len(_names(cell)) == 1}
            evidence = Evidence(column, arm, table[arm], table.get(arms["stl"], {}), others, unimodal, key, margin, level)
            found = measure(evidence)
            used = [*evidence.own.values(), *evidence.single.values()]
            used += [cell for a in found.arms for cell in table[a].values()]
            runs = tuple(sorted({index[str(c.folder)] for c in used}))
            rows.append(StatementRow(row, column, hypothesis, definition, arm, found.measured, found.value, found.answer, runs))
    return tuple(rows)


def _claim(holds: bool | None, measured: str) -> Finding:
    return Finding(measured, "undecided" if holds is None else "agrees" if holds else "disagrees")


def _estimated(values: Sequence[float], level: float, what: str) -> Finding:
    """A claim that the mean of `values` is above 0."""
    return _decided(estimate(values, level), what)


def _decided(found: Estimate, what: str) -> Finding:
    """A claim that what was estimated is above 0."""
    if found.seeds < 2:
        return Finding(f"{what}: not measured in enough seeds", value=found)
    if found.exploratory:
        return Finding(f"{what}: exploratory, {found.seeds} of the {MIN_SEEDS} seeds that a verdict needs", value=found)
    return Finding(what, "agrees" if found.low > 0 else "disagrees" if found.high <= 0 else "undecided", found)


def _shared(e: Evidence) -> Finding:
    if e.column == "transfer":
        holds = None if e.together is None else e.switch("handover") and not e.together
        return _claim(holds, f"{e.networks}; parameters {'' if e.switch('handover') else 'not '}handed over")
    rates = e.cell.config.get("inner", {}).get("rates") if e.column == "meta" else None
    return _claim(e.together, e.networks + (f"; learned inner rates: {rates}" if rates else ""))


def _when(e: Evidence) -> Finding:
    stages = [s.stage for s in e.cell.results.stages]
    told = ", ".join(stages)
    if e.column == "multi-task":
        return _claim(e.together, f"{e.networks}, trained in one stage" if e.together else e.networks)
    if "train" not in stages or "adapt" not in stages:
        return Finding(f"stages: {told or 'not recorded'}; no adaptation after training to look at")
    return _claim(stages.index("adapt") > stages.index("train"), f"stages: {told}")


def _why(e: Evidence) -> Finding:
    if e.column == "multi-task":
        return _estimated(_delta_m(e), e.level, "Delta_m over all tasks of block a, mean over tasks, against stl")
    if e.column == "transfer":
        return _estimated(_log_saved(e), e.level, "log2 of stl's samples to its own final gain over the arm's")
    return _estimated(_log_steps(e), e.level, "log2 of stl's adaptation steps to its final gain over the arm's (each + 1)")


def _direction(e: Evidence) -> Finding:
    """From tasks that are trained to others at the target, or between all tasks while they are trained."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for cell in e.own.values():
        for source, row in cell.results.transference.items():
            for target, share in row.items():
                if source != target:
                    pairs.setdefault((source, target), []).append(share)
    if not pairs and e.together:
        return Finding("nobody measured what a step on one task does to others: trainer.transference_every")
    moved = {pair: mean(values) for pair, values in pairs.items()}
    both_ways = bool(moved) and all((j, i) in moved and moved[i, j] != 0 != moved[j, i] for i, j in moved)
    told = "no task's step reaches another's loss"
    if moved:
        (best, worst), helped = (max(moved, key=lambda p: moved[p]), min(moved, key=lambda p: moved[p])), sum(v > 0 for v in moved.values())
        extremes = ", ".join(f"{i} to {j} {100 * moved[i, j]:+.2g} %" for i, j in dict.fromkeys((best, worst)))
        told = f"steps reach {len(moved)} ordered pairs of tasks and help {helped}: {extremes} of the loss"
    handed = e.switch("handover")
    told += "; handed over from source to target" if handed else ""
    return _claim(both_ways if e.column == "multi-task" else handed and not moved, told)


def _kind_of_transfer(e: Evidence) -> Finding:
    found = [
        *(["representational (parameters handed over)"] if e.switch("handover") else []),
        *(["functional (tasks learnt together)"] if e.together else []),
    ]
    told = " and ".join(found) or "neither"
    if e.column == "multi-task":
        return _claim(e.together, told)
    return _claim(e.switch("handover"), told)


def _unlike(e: Evidence) -> Finding:
    key = "a" if e.column == "multi-task" else e.key
    tasks = e.cell.results.blocks.get(key, {})
    kinds = sorted({t.kind for t in tasks.values()})
    if len(kinds) < 2:
        return Finding(f"{len(kinds)} kind of task only on {key}")
    values = [_mean_gain(cell, key) for cell in e.own.values()]
    if e.column != "meta":
        return _claim(all(map(math.isfinite, values)), f"ran with {', '.join(kinds)}; mean gain {mean(values):+.3f}")
    # The survey asks for matching tasks: unlike ones must then do no better than the trivial predictor.
    return _estimated([-v for v in values], e.level, f"minus the mean gain over trivial on {', '.join(kinds)}")


def _data(e: Evidence) -> Finding:
    kind, shots = block_parts(e.key)
    points = _shots(e.cell, kind)
    if not points or not e.paired:
        return Finding("no learning curve of both the arm and stl")
    least, most = (block_key(kind, n) for n in (points[0], points[-1]))
    first = [_mean_gain(own, least) - _mean_gain(single, least) for own, single in e.paired]
    labels = e.cell.results.cost.labels
    ratio = f"; {labels} labels to {shots} shots, {labels / shots:.0f} : 1" if labels and shots else ""
    own, single = ([_exponent(cell, kind) for cell in cells] for cells in zip(*e.paired, strict=True))
    law = f"; 1 - gain falls as n^-b, b {mean(own):.3f}, of stl {mean(single):.3f}" if len(points) > 1 else ""
    if e.column != "multi-task":
        return _estimated(first, e.level, f"gain over stl at the fewest shots, {points[0]}{ratio}{law}")
    if len(points) < 2:
        return Finding("one number of shots only")
    last = [_mean_gain(own, most) - _mean_gain(single, most) for own, single in e.paired]
    growth = [b - a for a, b in zip(first, last, strict=True)]
    return _estimated(growth, e.level, f"growth of the gain over stl from {points[0]} to {points[-1]} shots{law}")


def _computation(e: Evidence) -> Finding:
    rivals = e.others if e.column == "transfer" else (e.single,)
    values = []
    for seed, cell in e.own.items():
        there = [by_seed[seed] for by_seed in rivals if seed in by_seed]
        if len(there) == len(rivals) and rivals:
            values.append(math.log2(_flops(cell) / min(map(_flops, there))))
    if not any(map(math.isfinite, values)):
        return Finding("no runs to hold its operations against")
    found = estimate(values, e.level)
    against = "the cheaper of multi-task and meta" if e.column == "transfer" else "stl"
    told = f"{2**found.mean:.2f} of the FLOPs of {against}, all stages"
    dear = e.column == "meta"
    # Operations are counted, not estimated: they decide where all seeds say the same.
    holds = None if min(values) <= 0 < max(values) else (max(values) > 0) == dear
    return Finding(told, _claim(holds, "").answer, found)


def _structure(e: Evidence) -> Finding:
    if e.together is None:
        return Finding("one task only")
    if e.column == "multi-task":
        return _claim(e.together, f"{e.networks}: a batch of each network serves {'several tasks' if e.together else 'one task'}")
    if e.column == "meta":
        return _claim(not e.switch("joint"), f"an episode holds {'two tasks or more' if e.switch('joint') else 'one task'}")
    return _claim(not e.together, f"{e.networks}: a batch of each network serves {'several tasks' if e.together else 'one task'}")


def _levels(e: Evidence) -> Finding:
    inner = int(e.cell.config.get("inner", {}).get("num_inner_steps", 1)) if e.switch("bilevel") else 0
    training = next((s for s in e.cell.results.stages if s.stage == "train" and s.updates), None)
    told = f"; {training.forward / training.updates:.1f} forward passes an update" if training else ""
    return _claim((inner > 0) == (e.column == "meta"), f"{2 if inner else 1} level{'s' if inner else ''}, {inner} inner steps{told}")


def _negative(e: Evidence) -> Finding:
    key = "a" if e.column == "multi-task" else e.key
    changes: dict[str, list[float]] = {}
    tasks = [t for t, r in e.cell.results.blocks.get(key, {}).items() if r.role == "main"]
    for task in tasks:
        pairs = [(_primary(own, key, task), _primary(single, key, task)) for own, single in e.paired]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        below = mean(b.value for _, b in known)
        changes[task] = [relative_change(a.value, b.value, below, b.direction) for a, b in known]
    if not any(changes.values()):
        return Finding("no task that both the arm and stl have")
    # One statement over all tasks: each interval is widened so that all hold at once.
    level = 1 - (1 - e.level) / len(changes)
    found = {task: estimate(v, level) for task, v in changes.items()}
    worst = min(found, key=lambda t: found[t].mean if math.isfinite(found[t].mean) else math.inf)
    lost = [t for t, f in found.items() if f.high < 0]
    told = f"{len(lost)} of {len(found)} tasks surely worse than stl on {key}; lowest change: {worst}"
    if any(f.seeds < MIN_SEEDS for f in found.values()):
        return Finding(f"{told}: exploratory, {found[worst].seeds} of the {MIN_SEEDS} seeds that a verdict needs", value=found[worst])
    occurs = True if lost else False if all(f.low > -e.margin for f in found.values()) else None
    claimed = e.column != "meta"
    return Finding(told, _claim(None if occurs is None else occurs == claimed, "").answer, found[worst])


def _modalities(e: Evidence) -> Finding:
    names = _names(e.cell)
    if len(names) < 2:
        return Finding("the data has one modality, or does not say")
    told = f"ran with {', '.join(names)}"
    if not e.unimodal:
        gains = [_mean_gain(cell, "a") for cell in e.own.values()]
        told += f"; mean gain {mean(gains):+.3f} on block a"
        if isinstance(e.cell.config["data"]["modalities"], list):
            levels = ",".join(f"[{level}]" for level in (",".join(names), *names))
            settings = ",".join(COLUMNS.values())
            told += f"; the gain over the best single one takes m3tl ablate settings={settings} 'axes.{AXIS}=[{levels}]'"
        return _claim(all(map(math.isfinite, gains)), told)
    # One interval an arm, each widened so that all hold at once: then the smallest difference lies between the smallest ends.
    level = 1 - (1 - e.level) / len(e.unimodal)
    found = {
        arm: estimate([_gain_over(cell, by_seed[seed], "a") for seed, cell in e.own.items() if seed in by_seed], level)
        for arm, by_seed in e.unimodal.items()
    }
    means = {arm: f.mean if math.isfinite(f.mean) else math.inf for arm, f in found.items()}
    best = min(means, key=lambda arm: means[arm])
    lows, highs = [f.low for f in found.values()], [f.high for f in found.values()]
    least = min(f.seeds for f in found.values())
    whole = all(map(math.isfinite, (*lows, *highs)))
    value = Estimate(found[best].mean, min(lows) if whole else math.nan, min(highs) if whole else math.nan, least, e.level)
    single = ", ".join(_names(next(iter(e.unimodal[best].values()))))
    decided = _decided(value, f"{told}; gain over the best single one, {single}, on block a: {value.mean:+.3f}")
    return replace(decided, arms=tuple(e.unimodal))


_MEASURES: Mapping[str, tuple[str, Callable[[Evidence], Finding]]] = {
    "what is shared": ("networks (components of tasks that share a parameter) and what is handed over", _shared),
    "when": ("order of the stages that ran", _when),
    "why": ("each paradigm's own aim against stl: samples to target, Delta_m, steps to target", _why),
    "how": ("transference while training (what a step on one task does to the losses of others), and hand-over", _direction),
    "type": ("hand-over of parameters, sharing while training", _kind_of_transfer),
    "heterogeneous tasks": ("mean normalised gain with tasks of several kinds", _unlike),
    "training data": ("gain over stl along the learning curve; power law by least squares on logarithms, mean over seeds", _data),
    "computation": ("floating-point operations of all stages", _computation),
    "structure": ("tasks that a step of one network serves", _structure),
    "two-level optimisation": ("inner steps in training", _levels),
    "negative transfer": ("relative change per task against stl, intervals that hold for all tasks at once", _negative),
    "multi-modal inputs": (
        "whether it ran with two modalities or more; along an axis of modalities: the smallest difference to an arm with one, in mean gain "
        "over the main tasks of block a; no best one is chosen, the intervals hold for all of them at once",
        _modalities,
    ),
}


def _names(cell: Cell) -> tuple[str, ...]:
    """Modalities that the config names: a list of them, or for tables a mapping to their columns."""
    found: Any = cell.config.get("data", {}).get("modalities")
    return tuple(map(str, found)) if isinstance(found, (list, Mapping)) else ()


def _representative(arms: Mapping[str, Cell]) -> str:
    """The arm that stands for its setting: the first, of those with the most modalities where they are an axis; empty without one."""
    return max(arms, key=lambda arm: len(_names(arms[arm])) if AXIS in arms[arm].axes else 0, default="")


def _like(cell: Cell, other: Cell) -> bool:
    """Whether two arms differ in their modalities alone, and do."""

    def rest(of: Cell) -> tuple[str, dict[str, str]]:
        return of.setting, {axis: level for axis, level in of.axes.items() if axis != AXIS}

    return rest(cell) == rest(other) and cell.axes.get(AXIS) != other.axes.get(AXIS)


def _gain_over(cell: Cell, other: Cell, key: str) -> float:
    """Mean difference of the gains at the main tasks that both have on a block; NaN where a score is not finite."""
    mine, theirs = cell.results.blocks.get(key, {}), other.results.blocks.get(key, {})
    pairs = [(r.scores[r.primary], theirs[t].scores[r.primary]) for t, r in mine.items() if r.role == "main" and t in theirs]
    if any(not math.isfinite(score.value) for pair in pairs for score in pair):
        return math.nan
    return mean(score_gain(a) - score_gain(b) for a, b in pairs)


def _primary(cell: Cell, key: str, task: str) -> Score | None:
    found = cell.results.blocks.get(key, {}).get(task)
    return None if found is None else found.scores[found.primary]


def _mean_gain(cell: Cell, key: str) -> float:
    tasks = [t for t in cell.results.blocks.get(key, {}).values() if t.role == "main"]
    return mean(score_gain(t.scores[t.primary]) for t in tasks)


def _shots(cell: Cell, kind: str) -> list[int]:
    parts = [block_parts(key) for key in cell.results.blocks]
    return sorted(n for k, n in parts if k == kind and n is not None)


def _exponent(cell: Cell, kind: str) -> float:
    """b of the power law that is fitted to a run's learning curve; NaN where there is none."""
    shots = _shots(cell, kind)
    return power_law(shots, [1 - _mean_gain(cell, block_key(kind, n)) for n in shots]).exponent


def _flops(cell: Cell) -> float:
    """NaN where nobody counted them."""
    return cost_columns(cell.results).get(("flops", "all"), math.nan)


def _delta_m(e: Evidence) -> list[float]:
    def scores(cell: Cell) -> dict[str, Mapping[str, Score]]:
        return {t: r.scores for t, r in cell.results.blocks.get("a", {}).items() if r.role == "main"}

    singles = [scores(single) for _, single in e.paired]
    below = {
        t: {m: mean(s[t][m].value for s in singles if m in s.get(t, {})) for m in metrics} for s in singles[:1] for t, metrics in s.items()
    }
    found = []
    for (own, _), single in zip(e.paired, singles, strict=True):
        directions: dict[str, dict[str, Direction]] = {t: {m: s.direction for m, s in ms.items()} for t, ms in single.items()}
        values = {t: {m: s.value for m, s in ms.items()} for t, ms in scores(own).items()}
        base = {t: {m: s.value for m, s in ms.items()} for t, ms in single.items()}
        found.append(delta_m(values, base, directions, below)[1])
    return found


def _log_saved(e: Evidence) -> list[float]:
    """Per seed; an arm that never reaches the target counts as no saving, one that starts above it as its fewest shots."""
    kind, _ = block_parts(e.key)
    found = []
    for own, single in e.paired:
        shots = _shots(single, kind)
        if shots and shots == _shots(own, kind):
            curve = [_mean_gain(single, block_key(kind, n)) for n in shots]
            target = curve[-1]
            needed = samples_to_target(shots, [_mean_gain(own, block_key(kind, n)) for n in shots], target).at
            found.append(math.log2(samples_to_target(shots, curve, target).at / min(needed, shots[-1])))
    return found


def _log_steps(e: Evidence) -> list[float]:
    """Per seed, on the outcome's block; an arm that never reaches the target counts with the last step."""
    found = []
    for own, single in e.paired:
        mine, theirs = _chosen(own, e.key), _chosen(single, e.key)
        if not mine or not theirs:
            continue
        target = mean(score_gain(c.at(c.chosen_step)) for c in theirs)
        if not math.isfinite(target):
            continue
        found.append(math.log2((1 + _first_step(theirs, target)) / (1 + _first_step(mine, target))))
    return found


def _chosen(cell: Cell, key: str) -> list[Curve]:
    main = {t for t, r in cell.results.blocks.get(key, {}).items() if r.role == "main"}
    return [c for c in cell.results.curves if c.chosen and c.key == key and c.task in main]


def _first_step(curves: Sequence[Curve], target: float) -> int:
    steps = sorted(set.intersection(*(set(c.steps) for c in curves)))
    gains = np.asarray([mean(score_gain(c.at(step)) for c in curves) for step in steps])
    there = np.flatnonzero(gains >= target - REACHED)
    return steps[int(there[0])] if there.size else steps[-1]
