"""Curves of a run as SVG. matplotlib is imported by the first plot; pyplot, and with it any window, never."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m3tl_cli.core.results import Results, Score
from m3tl_cli.report.formats import ARROWS, drawable, number
from m3tl_cli.report.read import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Readable on white and on near black, told apart by colour-blind people; after the last one the dashes change.
COLOURS = ("#3b82c4", "#d1742a", "#2e9a68", "#a06bd0", "#c94f5d", "#8a8f2a", "#2a9aa8", "#b0669a")
DASHES = ("-", "--", ":", "-.")
INK, PAPER, GRID = "#24292f", "#fefefe", "#d5dae0"

# A plot is 350 pixels wide at most on a page: more points cannot be seen, and make the page heavy.
MAX_POINTS = 400
LEGEND_WIDTH = 60  # letters


@dataclass(frozen=True)
class Plot:
    """One figure.

    Args:
        name: File name without ending.
        group: Task that it belongs to; empty for those of the whole run.
        alt: What it shows, in words.
        svg: A whole SVG file, white ground.
    """

    name: str
    group: str
    alt: str
    svg: str


def curves(history: Mapping[str, Series], tasks: Sequence[str], results: Results | None, shown: Sequence[str] | None = None) -> list[Plot]:
    """Training loss and validation metrics per task, then weights, learning rate and gradient norms of the run.

    Args:
        history: Logged metrics.
        tasks: All of them, in their order.
        results: Say directions, units and the trivial predictor's level; None where the run did not get there.
        shown: The tasks to draw, in the order to show; None: all.
    """
    made: list[Plot] = []
    shown = tasks if shown is None else shown
    hidden = set(tasks) - set(shown)
    for i, task in enumerate(shown):
        scores = _scores(results, task)
        loss = f"train/{task}/loss"
        if loss in history:
            made += _plot(f"{task}-loss", task, f"{task}: training loss", {task: history[loss]}, first=i)
        prefix = f"val/{task}/"
        metrics = [k.removeprefix(prefix) for k in history if k.startswith(prefix)]
        for metric in [*(m for m in scores if m in metrics), *sorted(set(metrics) - set(scores))]:
            score = scores.get(metric)
            arrow = f" {ARROWS[score.direction]}" if score else ""
            unit = f" [{score.unit}]" if score and score.unit else ""
            level = score.trivial if score else math.nan
            title = f"{task}: validation {metric}{arrow}{unit}"
            made += _plot(f"{task}-{metric}", task, title, {task: history[prefix + metric]}, first=i, level=level)
    weights = {k.split("/")[1]: s for k, s in history.items() if re.fullmatch(r"balancing/[^/]+/weight", k)}
    weights = {t: weights[t] for t in (*shown, *sorted(weights)) if t in weights and t not in hidden}
    made += _plot("weights", "", "task weights of the balancing", weights)
    if "optimizer/lr" in history:
        made += _plot("learning-rate", "", "learning rate", {"learning rate": history["optimizer/lr"]})
    norms = {k.removeprefix("train/grad_norm/"): s for k, s in history.items() if k.startswith("train/grad_norm/")}
    made += _plot("gradient-norm", "", "norm of the gradient", {k: s for k, s in norms.items() if k not in hidden})
    return made


def inline(plot: Plot) -> str:
    """The SVG as a part of an HTML page: ink and ground follow the page, ids are its own, the size is the page's to give."""
    body = plot.svg[plot.svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' (?:width|height)="[0-9.]+pt"', "", body, count=2)
    mark = re.sub(r"[^A-Za-z0-9_-]", "_", plot.name)
    body = re.sub(r'\bid="', f'id="{mark}-', body)
    body = re.sub(r"url\(#", f"url(#{mark}-", body)
    body = re.sub(r'href="#', f'href="#{mark}-', body)
    for colour, own in ((INK, "currentColor"), (PAPER, "none"), (GRID, "var(--line)")):
        body = body.replace(colour, own)
    return body


def _scores(results: Results | None, task: str) -> Mapping[str, Score]:
    for block in (results.blocks if results else {}).values():
        if task in block:
            return block[task].scores
    return {}


def _plot(name: str, group: str, title: str, lines: Mapping[str, Series], *, first: int = 0, level: float = math.nan) -> list[Plot]:
    """One figure, or none where there is no finite number."""
    thinned = {label: _thin(series) for label, series in lines.items()}
    shown = {label: s for label, s in thinned.items() if any(map(math.isfinite, s.values))}
    if not shown:
        return []
    svg = _draw(title, shown, first, level)
    ends = "; ".join(f"{label} ends at {number(_last(lines[label]))}" for label in list(shown)[:12])
    trivial = f"; the trivial predictor is at {number(level)}" if math.isfinite(level) else ""
    return [Plot(file_name(name), group, f"{title} over steps: {ends}{trivial}.", svg)]


def _last(series: Series) -> float:
    return next(v for v in reversed(series.values) if math.isfinite(v))


def _thin(series: Series) -> Series:
    """At most `MAX_POINTS` points, each the mean of its neighbours; what is not finite is a gap."""
    values = [v if math.isfinite(v) else math.nan for v in series.values]
    width = -(-len(values) // MAX_POINTS)
    if width <= 1:
        return Series(series.steps, tuple(values))
    starts = range(0, len(values), width)
    steps = tuple(series.steps[min(i + width, len(values)) - 1] for i in starts)
    parts = ([v for v in values[i : i + width] if not math.isnan(v)] for i in starts)
    return Series(steps, tuple(math.fsum(p) / len(p) if p else math.nan for p in parts))


def draw(title: str, xlabel: str, labels: Sequence[str], paint: Callable[[Axes], Sequence[Line2D]]) -> str:
    """One figure as a whole SVG file in the style of all plots.

    Args:
        title: Above the axes.
        xlabel: Below them.
        labels: Of the legend, which stands below; empty: none.
        paint: Draws into the axes and returns the line of each label.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    settings = {
        "svg.hashsalt": "m3tl",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 8,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.borderaxespad": 0.1,
        "legend.labelspacing": 0.3,
        "legend.handlelength": 1.6,
        "legend.columnspacing": 1.2,
    }
    words = [_plain(label) for label in labels]
    longest = sorted((6 + len(word) for word in words), reverse=True)  # with the line's sample and the gap, about 6 letters
    columns = max(1, *(k for k in range(len(words) + 1) if sum(longest[:k]) <= LEGEND_WIDTH))
    legend = 0.17 * -(-len(words) // columns) + 0.05 if words else 0.0
    with matplotlib.style.context(["default", settings]):
        figure = Figure(figsize=(3.9, 2.3 + legend))
        axes = figure.add_axes((0.145, (0.42 + legend) / (2.3 + legend), 0.825, 1.62 / (2.3 + legend)))
        handles = paint(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        axes.grid(axis="y", color=GRID, lw=0.6)
        axes.set_axisbelow(True)
        axes.set_title(_plain(title), loc="left", fontsize=9, x=-0.13, y=1.0)  # a place of its own: else it is looked for, tick by tick
        axes.set_xlabel(xlabel, labelpad=1)
        if words:
            figure.legend(handles, words, loc="lower center", ncol=columns)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", out.getvalue())


def mark_trivial(axes: Axes, level: float) -> None:
    """A dashed line where the trivial predictor is."""
    axes.axhline(level, color=INK, lw=1, ls=(0, (4, 3)))
    axes.annotate("trivial", (1, level), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right")


def file_name(text: str) -> str:
    """`text` as the name of a file."""
    return re.sub(r"[^\w.-]", "_", text)


def _draw(title: str, lines: Mapping[str, Series], first: int, level: float) -> str:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    def paint(axes: Axes) -> list[Line2D]:
        handles = []
        for i, series in enumerate(lines.values(), start=first):
            marker = "o" if len(series.steps) <= 25 else None
            dash, colour = DASHES[i // len(COLOURS) % len(DASHES)], COLOURS[i % len(COLOURS)]
            handles += axes.plot(series.steps, series.values, dash, color=colour, lw=1.4, marker=marker, ms=3)
        finite = [v for s in lines.values() for v in s.values if math.isfinite(v)]
        if math.isfinite(level):
            finite.append(level)
            mark_trivial(axes, level)
        if min(finite) > 0 and max(finite) > 100 * min(finite):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return handles

    return draw(title, "step", list(lines) if len(lines) > 1 else [], paint)


def _plain(text: str) -> str:
    """One line of at most 60 characters."""
    kept = drawable(" ".join(text.split()))
    return kept if len(kept) <= 60 else kept[:59] + "\u2026"
