"""Landmine: mean AUC over 29 fields of a model a field (stl), one for all (pooled), models that share (mtl) and trees.

    .venv/bin/python scripts/landmine.py
    .venv/bin/python scripts/landmine.py --seeds 1 2 --rows 20 160

A seed draws the training rows of every field anew; a tenth of each field is for validation, by which each column chooses among its
settings, seed by seed; the rest is test. Every column has its own weight decay to choose; mtl also chooses between a pull of three
strengths (`sharing=soft`) and a shared hidden layer (`sharing=hard`). A field whose training rows have one class alone teaches stl
nothing; it scores .5 there and is counted. The last column is a scikit-learn logistic regression a field, on the same rows and under
the same rule: what stl should come to.

Reference of the data's README (scikit-learn, 10 seeds), stl / pooled / mean-regularised: 20 rows .669 / .723 / .731, 40 .693 / .728 /
.733, 80 .725 / .733 / .748, 160 .756 / .736 / .760.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from _runs import Clock, Run, interval, run
from _timing import machine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

FIELDS = 29
LEARNERS: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    "stl": [(("experiment=landmine", "paradigm=stl"), {"optimizer.weight_decay": decay}) for decay in (0.01, 0.1)],
    "pooled": [(("experiment=landmine", "baseline=pooled"), {"optimizer.weight_decay": decay}) for decay in (0.001, 0.1)],
    "mtl": [
        *(
            (("experiment=landmine", "paradigm=mtl"), {"sharing.strength": strength, "optimizer.weight_decay": decay})
            for strength, decay in ((0.1, 0.003), (0.3, 0.01), (1.0, 0.03))
        ),
        (("experiment=landmine_hard", "paradigm=mtl"), {}),
    ],
    "boosting": [(("experiment=landmine", "baseline=gradient_boosting"), {})],
}


def area(found: Run, *, alone: bool) -> float:
    """Mean AUC over fields on test rows; where models stand alone, .5 for a field whose training rows are of one class."""
    pool = found.data.pool("train")
    batch = pool.read(torch.arange(len(pool)))
    areas = []
    for task, result in found.results.blocks["a"].items():
        classes = batch.targets[task][batch.labelled[task]].unique()
        areas.append(0.5 if alone and len(classes) < 2 else result.scores["auroc"].value)
    return statistics.mean(areas)


def logistic(found: Run) -> float:
    """The same of a logistic regression a field (scikit-learn, C = .1, columns standardised by the program), on the same rows."""
    train, test = (pool.read(torch.arange(len(pool))) for pool in (found.data.pool("train"), found.data.pool("test")))
    areas = []
    for task in found.results.tasks:
        (x, y), (x_test, y_test) = (
            (batch.inputs["radar"][batch.labelled[task]].numpy(), batch.targets[task][batch.labelled[task]].numpy())
            for batch in (train, test)
        )
        if len(set(y)) < 2:
            areas.append(0.5)
        else:
            areas.append(float(roc_auc_score(y_test, LogisticRegression(C=0.1).fit(x, y).decision_function(x_test))))
    return statistics.mean(areas)


def main() -> None:
    """Print a row per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 40, 80, 160])
    asked = parser.parse_args()
    clock = Clock()
    print(machine())
    print(
        "| rows a field | "
        + " | ".join(LEARNERS)
        + " | mtl - best of the others | mtl chose | scikit-learn |\n|---|"
        + "---|" * (len(LEARNERS) + 3),
        flush=True,
    )
    for rows in asked.rows:
        scores: dict[str, list[float]] = {name: [] for name in LEARNERS}
        chosen: list[str] = []
        independent: list[float] = []
        for seed in asked.seeds:
            for name, settings in LEARNERS.items():
                best = float("-inf")
                for overrides, changes in settings:
                    found = run(overrides, {**changes, "seed": seed, "data.train_rows": rows, "sampler.batch_size": FIELDS * rows})
                    if found.validation["auroc"] > best:
                        best, kept, label = found.validation["auroc"], found, changes.get("sharing.strength", "hard")
                scores[name].append(area(kept, alone=name == "stl"))
                if name == "stl":
                    independent.append(logistic(kept))
                if name == "mtl":
                    chosen.append(str(label))
        others = max(statistics.mean(scores["stl"]), statistics.mean(scores["pooled"]))
        lead = statistics.mean(scores["mtl"]) - others
        counts = ", ".join(f"{label} x {chosen.count(label)}" for label in sorted(set(chosen)))
        print(
            f"| {rows} | " + " | ".join(interval(scores[n]) for n in LEARNERS) + f" | {lead:+.3f} | {counts} | {interval(independent)} |",
            flush=True,
        )
    print(f"{len(asked.seeds)} seeds, {sum(map(len, LEARNERS.values()))} runs a seed and size; {clock}")


if __name__ == "__main__":
    main()
