"""How each task went while it adapted to target episodes: a small plot per task and kind of block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from m3tl_cli.core.results import BLOCKS, Curve, Results, block_parts
from m3tl_cli.report.blocks import chosen_curves
from m3tl_cli.report.formats import ARROWS, number
from m3tl_cli.report.plots import COLOURS, Plot, draw, file_name, mark_trivial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

EPISODES = 30  # thin lines per number of shots, at most: more hide one another
INNER = "inner"  # labels of trials that adapt with the inner loop's own rule begin with it


def adaptation_plots(results: Results, shown: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[Plot]]:
    """A plot per task of every kind of block: the metric over steps, a line per number of shots.

    Solid: the trial that meta-validation chose, mean over the episodes, each of which is a thin line; a dot where its number of
    steps ends. Dashed: the inner loop's own rule, where another trial was chosen.

    Args:
        results: Of the run.
        shown: Kind of block to the tasks to draw, in their order; None: all tasks of all kinds.

    Returns:
        Plots by kind of block; their group is the task.
    """
    chosen = chosen_curves(results)
    grouped: dict[tuple[str, str], list[Curve]] = {}
    for curve in chosen.values():
        grouped.setdefault((curve.block, curve.task), []).append(curve)
    made: dict[str, list[Plot]] = {}
    of = shown if shown is not None else {kind: [t for k, t in grouped if k == kind] for kind, _ in grouped}
    for kind, task in ((kind, task) for kind, tasks in of.items() for task in tasks):
        found = grouped.get((kind, task), [])
        if not found:
            continue
        found.sort(key=lambda c: c.num_shots)
        metric, shots = found[0].metric, {c.num_shots for c in found}
        beside = [
            c
            for c in results.curves
            if (c.block, c.task, c.metric, c.chosen) == (kind, task, metric, False)
            and c.num_shots in shots
            and c.optimizer.startswith(INNER)
        ]
        if any(math.isfinite(v) for c in found for v in c.means):
            made.setdefault(kind, []).append(_plot(results, kind, task, found, beside))
    return made


def _plot(results: Results, kind: str, task: str, found: Sequence[Curve], beside: Sequence[Curve]) -> Plot:
    first = found[0]
    scores = (t[task].scores for key, t in results.blocks.items() if block_parts(key)[0] == kind and task in t)
    unit = next((s[first.metric].unit for s in scores if first.metric in s), "")
    title = f"{task}: {first.metric} {ARROWS[first.direction]}{f' [{unit}]' if unit else ''}"
    colours = {c.num_shots: COLOURS[i % len(COLOURS)] for i, c in enumerate(found)}
    labels = [f"n={c.num_shots}" for c in found] + (["inner SGD"] if beside else [])
    svg = draw(title, "adaptation step", labels, lambda axes: _paint(axes, found, beside, colours))
    ends = "; ".join(_words(curve) for curve in found)
    where = BLOCKS.get(kind, f"block {kind}")
    alt = f"{title} over adaptation steps, {where}: {ends}; the trivial predictor is at {number(first.trivial)}."
    return Plot(file_name(f"adapt-{kind}-{task}"), task, alt, svg)


def _words(curve: Curve) -> str:
    end = curve.at(curve.chosen_step)
    shots = "1 shot" if curve.num_shots == 1 else f"{curve.num_shots} shots"
    start = f"from {number(curve.at(0).value)} " if 0 in curve.steps else ""
    return f"with {shots} {start}to {number(end.value)} after {curve.chosen_step} steps"


def _paint(axes: Axes, found: Sequence[Curve], beside: Sequence[Curve], colours: Mapping[int, str]) -> list[Line2D]:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    handles = []
    for curve in found:
        # One path for all episodes, with a gap after each, keeps the page light.
        rows = curve.episodes[:EPISODES]
        thin = [v for row in rows for v in (*row, math.nan)]
        axes.plot([*curve.steps, math.nan] * len(rows), thin, color=colours[curve.num_shots], lw=0.5, alpha=0.3)
    for curve in beside:
        axes.plot(curve.steps, curve.means, ls=(0, (2.5, 1.5)), color=colours[curve.num_shots], lw=1.1)
    for curve in found:
        handles += axes.plot(curve.steps, curve.means, color=colours[curve.num_shots], lw=1.6)
        axes.plot([curve.chosen_step], [curve.at(curve.chosen_step).value], "o", color=colours[curve.num_shots], ms=4.5)
    low, high = _span(found, beside)
    if math.isfinite(found[0].trivial):
        mark_trivial(axes, found[0].trivial)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    steps = sorted({s for c in (*found, *beside) for s in c.steps})
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.set_xlim(steps[0] - 0.25, max(1.0, 1.2 * steps[-1]))
    axes.xaxis.set_major_locator(FixedLocator(steps if len(steps) <= 10 else [s for s in steps if str(s).strip("0") in ("", "1")]))
    axes.xaxis.set_minor_locator(NullLocator())
    if beside:
        handles.append(Line2D([], [], color=COLOURS[0], ls=(0, (2.5, 1.5)), lw=1.1))
    return handles


def _span(found: Sequence[Curve], beside: Sequence[Curve]) -> tuple[float, float]:
    """Ends of the vertical axis: all that was chosen, nine in ten of the episodes, and the rest only as far as it stays near."""
    needed = [v for c in found for v in (*c.means, c.trivial) if math.isfinite(v)]
    spread = sorted(v for c in found for row in c.episodes for v in row if math.isfinite(v))
    needed += [spread[len(spread) // 20], spread[-1 - len(spread) // 20]]
    low, high = min(needed), max(needed)
    reach = high - low or abs(high) or 1.0
    near = [v for c in beside for v in c.means if low - reach / 2 <= v <= high + reach / 2]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.05 * reach, high + 0.08 * reach
