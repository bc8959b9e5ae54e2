"""School: explained variance of exam scores by a model a school (stl), one for all (pooled) and models pulled to their mean (mtl).

    .venv/bin/python scripts/school.py
    .venv/bin/python scripts/school.py --seeds 1 2

A seed splits every school anew: 65 % training, 10 % validation, by which stl and mtl choose among their settings, 25 % test. Explained
variance is 1 - squared error / squared deviation from the mean, over all test pupils of all schools together (Bakker and Heskes 2003).

Reference (scikit-learn, 75 / 25): a ridge regression per school 32.2 +- .9 %, pooled 33.4 +- 1.0 %.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from _runs import Clock, Run, interval, run
from _timing import machine

LEARNERS: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    "stl": [(("experiment=school", "paradigm=stl"), {"optimizer.weight_decay": decay}) for decay in (0.3, 1.0)],
    "pooled": [(("experiment=school", "baseline=pooled"), {})],
    "mtl": [
        (("experiment=school", "paradigm=mtl"), {"sharing.strength": strength, "optimizer.weight_decay": 0.1}) for strength in (1.0, 5.0)
    ],
    "boosting": [(("experiment=school", "baseline=gradient_boosting"), {})],
}


def explained(found: Run) -> float:
    """Share of the test pupils' variance that is explained, in %."""
    pool = found.data.pool("test")
    first = next(iter(found.results.blocks["a"]))
    scores = pool.read(torch.arange(len(pool)), [first]).targets[first].double()  # like tasks read one column
    errors = [int(pool.labelled[t].sum()) * r.scores["rmse"].value ** 2 for t, r in found.results.blocks["a"].items()]
    return 100 * (1 - sum(errors) / float((scores - scores.mean()).square().sum()))


def main() -> None:
    """Print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    asked = parser.parse_args()
    clock = Clock()
    print(machine())
    found: dict[str, list[float]] = {name: [] for name in LEARNERS}
    chosen: list[str] = []
    for seed in asked.seeds:
        for name, settings in LEARNERS.items():
            runs = [(run(overrides, {**changes, "seed": seed}), changes) for overrides, changes in settings]
            best, changes = min(runs, key=lambda pair: pair[0].validation["rmse"])
            found[name].append(explained(best))
            if name == "mtl":
                chosen.append(str(changes["sharing.strength"]))
        print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.1f}" for name, values in found.items()) + f"; {clock}", flush=True)
    print("| " + " | ".join(found) + " | mtl - best of the others | mtl chose |\n|" + "---|" * (len(found) + 2))
    lead = statistics.mean(found["mtl"]) - max(statistics.mean(found["stl"]), statistics.mean(found["pooled"]))
    counts = ", ".join(f"{label} x {chosen.count(label)}" for label in sorted(set(chosen)))
    print("| " + " | ".join(f"{interval(values, 1)} %" for values in found.values()) + f" | {lead:+.1f} | {counts} |")
    print(f"{len(asked.seeds)} seeds, {sum(map(len, LEARNERS.values()))} runs a seed; {clock}")


if __name__ == "__main__":
    main()
