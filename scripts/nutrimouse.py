"""Nutrimouse: accuracy of diet and genotype by a network a task (stl) and one for both (mtl), 20 times 5-fold cross-validation.

    .venv/bin/python scripts/nutrimouse.py
    .venv/bin/python scripts/nutrimouse.py --seeds 1 2

A seed draws five folds anew, each with its share of every diet, and every mouse is a test mouse once; both networks see the same folds. The
values are means over repetitions, with their standard deviation: repetitions are of the same 40 mice, so no interval is given.

Reference (leave-one-out logistic regression), diet / genotype: genes .600 / 1.000, lipids 1.000 / .975, both .925 / 1.000.
"""

from __future__ import annotations

import argparse
import statistics

from _runs import Clock, run
from _timing import machine

LEARNERS = ("stl", "mtl")
TASKS = ("diet", "genotype")
FOLDS = 5


def repeated(paradigm: str, seed: int) -> dict[str, float]:
    """Accuracy per task over all mice, each tested once."""
    right: dict[str, float] = dict.fromkeys(TASKS, 0.0)
    mice = 0
    for fold in range(FOLDS):
        found = run(("experiment=nutrimouse", f"paradigm={paradigm}"), {"seed": seed, "data.fold": fold})
        size = len(found.data.pool("test"))
        mice += size
        for task, result in found.results.blocks["a"].items():
            right[task] += size * result.scores["accuracy"].value
    return {task: number / mice for task, number in right.items()}


def main() -> None:
    """Print a row per paradigm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 21)))
    asked = parser.parse_args()
    print(machine())
    print("| paradigm | " + " | ".join(TASKS) + " | cost |\n|---|" + "---|" * (len(TASKS) + 1), flush=True)
    for paradigm in LEARNERS:
        clock = Clock()
        found = [repeated(paradigm, seed) for seed in asked.seeds]
        cells = []
        for task in TASKS:
            values = [f[task] for f in found]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} (sd {spread:.3f})")
        print(f"| {paradigm} | " + " | ".join(cells) + f" | {len(asked.seeds)} x {FOLDS} runs, {clock} |", flush=True)


if __name__ == "__main__":
    main()
