"""The README's table: error reduction against the trivial predictor, mean and lower 95 % bound over seeds, per task and paradigm.

    m3tl train -m paradigm=stl,mtl seed=1,2,3 name=scenes          # 3 + 3 runs of six tasks
    .venv/bin/python scripts/scenes_table.py outputs/scenes/*-sweep

It shows every task of block a: held-out samples of the source domains. The bound is that of a one-sample t interval, two-sided, over
the seeds. A description of these runs, no claim about paradigms.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from scipy import stats

from m3tl_cli.core.results import Results


def table(sweep: Path) -> str:
    """Markdown."""
    runs: dict[str, list[Results]] = defaultdict(list)
    for file in sorted(sweep.glob("*/results.json")):
        results = Results.read(file)
        runs[results.paradigm].append(results)
    if not runs:
        raise SystemExit(f"no results.json below {sweep}")
    lines = ["| paradigm | task | metric | value | trivial | error reduction | lower 95 % bound |", "|---|---|---|---|---|---|---|"]
    for paradigm, found in sorted(runs.items(), reverse=True):
        for task, first in found[0].blocks["a"].items():
            primary = first.primary
            scores = [r.blocks["a"][task].scores[primary] for r in found]
            gains = [s.error_reduction for s in scores]
            mean = statistics.mean(gains)
            lower = (
                mean - stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            )
            arrow = "↑" if scores[0].direction == "higher" else "↓"
            value = f"{statistics.mean(s.value for s in scores):.3g} {scores[0].unit}".strip()
            lines.append(f"| {paradigm} | {task} | {primary} {arrow} | {value} | {scores[0].trivial:.3g} | {mean:.1%} | {lower:.1%} |")
        seconds = [r.cost.seconds for r in found]
        prepare = max(r.cost.seconds_prepare for r in found)
        lines.append(
            f"| {paradigm} | *cost* | seeds {', '.join(str(r.seed) for r in found)} | {statistics.mean(seconds):.0f} s a run (most "
            f"{max(seconds):.0f}) | data once {prepare:.0f} s | {found[0].cost.parameters:,} parameters | |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(table(Path(folder)))
