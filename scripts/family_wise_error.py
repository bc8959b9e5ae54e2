"""Family-wise error and power of the verdict: simulated ablations of ten settings, the confirmatory family of six contrasts.

    .venv/bin/python scripts/family_wise_error.py                 # 4,000 ablations a line; about ten seconds on one thread
    .venv/bin/python scripts/family_wise_error.py --simulations 20000

An ablation is [S seeds, ten settings]: a part that all settings of a seed share, and noise of each setting, normal or Student t with 3
degrees of freedom. The family: the main effects of pretrain, joint and bilevel over the eight corners with hand-over, and m3tl against
stl, mtl_transfer and the best other setting by validation; the validation score is as good as the test score, and its errors correlate
with the test's by `choice`. Null: all settings are equal; the family-wise error is the share of ablations with a verdict on any contrast.
Power: m3tl alone is better, by so many standard deviations of a setting's own noise (a paired difference has 1.41 of them); the share
with a verdict for m3tl against stl.
"""

from __future__ import annotations

import argparse
import math
from typing import Literal, NamedTuple

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.statistics import Array, max_t

Noise = Literal["normal", "t3"]

PLAN = plan_for(list(SETTINGS), axes={}, seeds=range(8), block="c", num_shots=5, margin=0.02)


class Simulated(NamedTuple):
    """Share of ablations with a wrong verdict, with the right one for m3tl - stl, and how many there were."""

    wrong: float
    found: float
    simulations: int

    @property
    def error(self) -> float:
        """Standard error of `wrong` where it is .05."""
        return math.sqrt(0.05 * 0.95 / self.simulations)


def simulate(num_seeds: int, noise: Noise, *, choice: float, effect: float, simulations: int, seed: int = 0) -> Simulated:
    """Run ablations in blocks of 1,000, vectorised, with the program's own plan and test."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        # Unit variance: that of t with 3 degrees of freedom is 3.
        return rng.standard_normal(shape) if noise == "normal" else rng.standard_t(3, shape) / math.sqrt(3)

    column = {arm: i for i, arm in enumerate(PLAN.arms)}
    wrong = found = done = 0
    while done < simulations:
        size = min(1000, simulations - done)
        own = draw(size, num_seeds, len(column))
        test = own + draw(size, num_seeds, 1)
        told = choice * own + math.sqrt(1 - choice**2) * draw(*own.shape)
        test[..., column["m3tl"]] += effect
        differences = []
        for contrast in PLAN.contrasts:
            row = sum(weight * test[..., column[arm]] for arm, weight in contrast.weights.items())
            if contrast.rivals:
                rivals = [column[arm] for rival in contrast.rivals.values() for arm in rival]
                best = told[..., rivals].mean(axis=1).argmax(axis=-1)
                row = row - np.take_along_axis(test[..., rivals], best[:, None, None], axis=-1)[..., 0]
            differences.append(row)
        adjusted = max_t(np.stack(differences, axis=-1)).adjusted
        names = [c.name for c in PLAN.contrasts]
        wrong += int((adjusted <= PLAN.alpha).any(axis=-1).sum()) if effect == 0 else 0
        found += int((adjusted[:, names.index("m3tl - stl")] <= PLAN.alpha).sum())
        done += size
    return Simulated(wrong / simulations, found / simulations, simulations)


def main() -> None:
    parser = argparse.ArgumentParser(description="Family-wise error and power of the verdict.")
    parser.add_argument("--simulations", type=int, default=4000)
    count = parser.parse_args().simulations
    print(f"{count} ablations a line; {len(PLAN.contrasts)} contrasts, alpha {PLAN.alpha}")
    print(f"{'noise':<8}{'seeds':>5}{'choice':>8}{'family-wise error':>20}{'power at 1.5':>14}{'at 2':>8}")
    for noise in ("normal", "t3"):
        for num_seeds in (6, 8):
            for choice in (0.0, 0.5, 0.9):
                null, *power = (simulate(num_seeds, noise, choice=choice, effect=e, simulations=count) for e in (0.0, 1.5, 2.0))
                error = f"{null.wrong:.4f} +- {null.error:.4f}"
                print(f"{noise:<8}{num_seeds:>5}{choice:>8.1f}{error:>20}{power[0].found:>14.2f}{power[1].found:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
