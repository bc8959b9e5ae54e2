"""Family-wise error and power of the verdict: simulated ablations of ten settings, the confirmatory family of six contrasts.

    .venv/bin/python scripts/family_wise_error.py                 # 4,000 ablations a line; about 20 seconds on one thread
    .venv/bin/python scripts/family_wise_error.py --simulations 20000

An ablation is [S seeds, ten settings]: a part that all settings of a seed share, and noise of each setting, normal or Student t with 3
degrees of freedom. The family: the main effects of pretrain, joint and bilevel over the eight corners with hand-over, and m3tl against
stl, mtl_transfer and the best other setting by validation; the validation score is as good as the test score, and its errors correlate
with the test's by `choice`. All effects are in standard deviations of a setting's own noise (a paired difference has 1.41 of them).

Null: all settings are equal; the family-wise error is the share of ablations with a verdict on any contrast. Power: m3tl alone is better;
the share with a verdict for m3tl against stl, and against the best other. Partial null: m3tl and mtl_transfer are equal, all others worse.
Then three contrasts are truly 0 (the main effect of bilevel, m3tl - mtl_transfer, m3tl - best other where that is mtl_transfer); the error
is the share of ablations with a verdict on any of them or a wrong sign on any other, and that of m3tl - best other alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.statistics import Array, Choice, best_rival, max_t

Noise = Literal["normal", "t3"]

PLAN = plan_for(list(SETTINGS), axes={}, seeds=range(8), block="c", num_shots=5, margin=0.02)
NAMES = [c.name for c in PLAN.contrasts]


class Simulated(NamedTuple):
    """Shares of ablations, and how many there were.

    Args:
        wrong: With a verdict on a contrast that is truly 0, or one with the wrong sign.
        wrong_best: The same of m3tl - best other alone.
        found: With the verdict that m3tl is higher than stl.
        found_best: With the verdict that m3tl is higher than the best other.
    """

    wrong: float
    wrong_best: float
    found: float
    found_best: float
    simulations: int

    @property
    def error(self) -> float:
        """Standard error of `wrong` where it is .05."""
        return math.sqrt(0.05 * 0.95 / self.simulations)


def simulate(
    num_seeds: int, noise: Noise, *, choice: float, simulations: int, effects: Mapping[str, float] | None = None, seed: int = 0
) -> Simulated:
    """Run ablations in blocks of 1,000, vectorised, with the program's own plan and test.

    Args:
        num_seeds: S.
        noise: Of a setting, with variance 1.
        choice: Correlation of the errors of validation and test, in [0, 1].
        simulations: Ablations.
        effects: Setting to its true mean; 0 where not named.
        seed: Of the simulation.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        # Unit variance: that of t with 3 degrees of freedom is 3.
        return rng.standard_normal(shape) if noise == "normal" else rng.standard_t(3, shape) / math.sqrt(3)

    column = {arm: i for i, arm in enumerate(PLAN.arms)}
    truth = np.array([(effects or {}).get(arm, 0.0) for arm in PLAN.arms])
    counts = np.zeros(4)
    done = 0
    while done < simulations:
        size = min(1000, simulations - done)
        own = draw(size, num_seeds, len(column))
        test = truth + own + draw(size, num_seeds, 1)
        told = truth + choice * own + math.sqrt(1 - choice**2) * draw(*own.shape)
        differences, true = [], []
        choices: dict[int, Choice] = {}
        for i, contrast in enumerate(PLAN.contrasts):
            weights = np.array([contrast.weights.get(arm, 0.0) for arm in PLAN.arms])
            row, mean = test @ weights, np.full(size, truth @ weights)
            if contrast.rivals:
                rivals = [column[arm] for rival in contrast.rivals.values() for arm in rival]
                choices[i] = Choice(row[..., None] - test[..., rivals], told[..., rivals])
                mean = mean - truth[rivals][best_rival(choices[i])]
            differences.append(row)
            true.append(np.where(np.abs(mean) < 1e-9, 0.0, np.sign(mean)))
        tested = max_t(np.stack(differences, axis=-1), choices)
        told_sign = np.where(tested.adjusted <= PLAN.alpha, np.sign(tested.t), 0.0)
        wrong = (told_sign != 0) & (told_sign != np.stack(true, axis=-1))
        best = NAMES.index("m3tl - best other by validation")
        counts += [
            wrong.any(axis=-1).sum(),
            wrong[:, best].sum(),
            (told_sign[:, NAMES.index("m3tl - stl")] > 0).sum(),
            (told_sign[:, best] > 0).sum(),
        ]
        done += size
    shares = [float(share) for share in counts / simulations]
    return Simulated(shares[0], shares[1], shares[2], shares[3], simulations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=4000)
    count = parser.parse_args().simulations
    print(f"{count} ablations a line; {len(PLAN.contrasts)} contrasts, alpha {PLAN.alpha}")
    head = f"{'noise':<8}{'seeds':>5}{'choice':>8}"
    print(f"{head}{'family-wise error':>20}{'power at 1.5':>14}{'at 2':>6}{'best other at 1.5':>20}{'at 2':>6}")
    lines: list[tuple[Noise, int, float]] = [(n, s, c) for n in ("normal", "t3") for s in (6, 8) for c in (0.0, 0.5, 0.9)]
    for noise, num_seeds, choice in lines:
        null, *power = (simulate(num_seeds, noise, choice=choice, effects={"m3tl": e}, simulations=count) for e in (0.0, 1.5, 2.0))
        error = f"{null.wrong:.4f} +- {null.error:.4f}"
        print(
            f"{noise:<8}{num_seeds:>5}{choice:>8.1f}{error:>20}{power[0].found:>14.2f}{power[1].found:>6.2f}"
            f"{power[0].found_best:>20.2f}{power[1].found_best:>6.2f}",
            flush=True,
        )
    print("\npartial null: m3tl = mtl_transfer, the others worse by")
    print(f"{head}{'2: family-wise':>20}{'best other':>12}{'.5: family-wise':>18}{'best other':>12}")
    for noise, num_seeds, choice in lines:
        told = ""
        for gap, width in ((2.0, 20), (0.5, 18)):
            effects = {arm: 0.0 if arm in ("m3tl", "mtl_transfer") else -gap for arm in PLAN.arms}
            found = simulate(num_seeds, noise, choice=choice, effects=effects, simulations=count)
            told += f"{f'{found.wrong:.4f} +- {found.error:.4f}':>{width}}{found.wrong_best:>12.4f}"
        print(f"{noise:<8}{num_seeds:>5}{choice:>8.1f}{told}", flush=True)


if __name__ == "__main__":
    main()
