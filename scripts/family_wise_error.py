"""Family-wise error and power of the verdict: simulated ablations of ten settings, the confirmatory family of six contrasts.

    .venv/bin/python scripts/family_wise_error.py                 # 4,000 ablations a line; about 40 seconds on one thread
    .venv/bin/python scripts/family_wise_error.py --simulations 20000

An ablation is [S seeds, ten settings]: a part that all settings of a seed share, and noise of each setting, normal or Student t with 3
degrees of freedom. The family: the main effects of pretrain, joint and bilevel over the eight corners with hand-over, and m3tl against
stl, mtl_transfer and the best other setting by validation; the validation score is as good as the test score, and its errors correlate
with the test's by `choice`. All effects are in standard deviations of a setting's own noise (a paired difference has 1.41 of them).

Null: all settings are equal; the family-wise error is the share of ablations with a verdict on any contrast. Power: m3tl alone is better;
the share with a verdict for m3tl against stl, and against the best other. Partial null: m3tl and mtl_transfer are equal, all others worse.
Then three contrasts are truly 0 (the main effect of bilevel, m3tl - mtl_transfer, m3tl - best other where that is mtl_transfer); the error
is the share of ablations with a verdict on any of them or a wrong sign on any other, and that of m3tl - best other alone.

No difference: m3tl is exactly one margin better than each of the nine others, so that "no difference" is wrong of every contrast of m3tl;
the share of ablations that say it, of m3tl - best other as the only contrast, and of any in the family of six; and, where m3tl equals all
others, the share that rightly say it of m3tl - best other. Each before and after every rival counts as a hypothesis of its own: before, the
chosen rival's two one-sided tests stood as if nothing had been chosen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.statistics import Array, Choice, best_rival, equivalence_p, holm, max_t
from m3tl_cli.comparison.verdict import equivalence

Noise = Literal["normal", "t3"]

PLAN = plan_for(list(SETTINGS), axes={}, seeds=range(8), block="c", num_shots=5, margin=0.02)
NAMES = [c.name for c in PLAN.contrasts]
BEST = NAMES.index("m3tl - best other by validation")


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


class Drawn(NamedTuple):
    """A block of N ablations.

    Args:
        differences: [N, S, C], those of the chosen rival where there is one. true: their means [N, C].
        choice: Of the best other.
    """

    differences: Array
    true: Array
    choice: Choice


def ablations(num_seeds: int, noise: Noise, *, choice: float, simulations: int, effects: Mapping[str, float], seed: int) -> Iterator[Drawn]:
    """Draw ablations in blocks of 1,000; the arguments are those of `simulate`."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        # Unit variance: that of t with 3 degrees of freedom is 3.
        return rng.standard_normal(shape) if noise == "normal" else rng.standard_t(3, shape) / math.sqrt(3)

    column = {arm: i for i, arm in enumerate(PLAN.arms)}
    rivals = [column[arm] for rival in PLAN.contrasts[BEST].rivals.values() for arm in rival]
    weights = np.array([[contrast.weights.get(arm, 0.0) for arm in PLAN.arms] for contrast in PLAN.contrasts]).T
    truth = np.array([effects.get(arm, 0.0) for arm in PLAN.arms])
    for start in range(0, simulations, 1000):
        size = min(1000, simulations - start)
        own = draw(size, num_seeds, len(column))
        test = truth + own + draw(size, num_seeds, 1)
        told = truth + choice * own + math.sqrt(1 - choice**2) * draw(*own.shape)
        differences, true = test @ weights, np.tile(truth @ weights, (size, 1))
        made = Choice(differences[..., [BEST]] - test[..., rivals], told[..., rivals])
        best = best_rival(made)
        differences[..., BEST] = np.take_along_axis(made.differences, best[:, None, None], axis=-1)[..., 0]
        true[:, BEST] -= truth[rivals][best]
        yield Drawn(differences, np.where(np.abs(true) < 1e-9, 0.0, true), made)


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
    counts = np.zeros(4)
    for drawn in ablations(num_seeds, noise, choice=choice, simulations=simulations, effects=effects or {}, seed=seed):
        tested = max_t(drawn.differences, {BEST: drawn.choice})
        told_sign = np.where(tested.adjusted <= PLAN.alpha, np.sign(tested.t), 0.0)
        wrong = (told_sign != 0) & (told_sign != np.sign(drawn.true))
        counts += [
            wrong.any(axis=-1).sum(),
            wrong[:, BEST].sum(),
            (told_sign[:, NAMES.index("m3tl - stl")] > 0).sum(),
            (told_sign[:, BEST] > 0).sum(),
        ]
    shares = [float(share) for share in counts / simulations]
    return Simulated(shares[0], shares[1], shares[2], shares[3], simulations)


class NoDifference(NamedTuple):
    """Shares of ablations that say "no difference", by the test as it is and as if nothing had been chosen (`plain`).

    Args:
        alone, alone_plain: Of "m3tl - best other" as the only contrast of its family.
        family, family_plain: Of any contrast of m3tl in the family of six.
    """

    alone: float
    alone_plain: float
    family: float
    family_plain: float


def no_difference(
    num_seeds: int, noise: Noise, *, choice: float, simulations: int, margin: float, effect: float, seed: int = 0
) -> NoDifference:
    """Ask how often "no difference" is said of an m3tl and nine rivals that are alike; wrongly where `effect` is `margin`.

    Args:
        num_seeds: S.
        noise: Of a setting, with variance 1.
        choice: Correlation of the errors of validation and test.
        simulations: Ablations.
        margin: Largest difference that counts as none.
        effect: What m3tl is better by than each rival.
        seed: Of the simulation.
    """
    counts = np.zeros(4)
    own = [i for i, name in enumerate(NAMES) if name.startswith("m3tl - ")]
    for drawn in ablations(num_seeds, noise, choice=choice, simulations=simulations, effects={"m3tl": effect}, seed=seed):
        best, column = best_rival(drawn.choice), drawn.differences
        rows = [drawn.choice.differences if i == BEST else column[..., [i]] for i in range(len(NAMES))]
        chosen = [best if i == BEST else np.zeros_like(best) for i in range(len(NAMES))]
        plain = equivalence_p(np.moveaxis(column, -1, -2), margin)
        open_alone = max_t(column[..., [BEST]], {0: drawn.choice}).adjusted[:, 0] > PLAN.alpha
        open_family = max_t(column, {BEST: drawn.choice}).adjusted > PLAN.alpha
        counts += [
            (open_alone & (equivalence([rows[BEST]], [best], margin)[:, 0] <= PLAN.alpha)).sum(),
            (open_alone & (plain[:, BEST] <= PLAN.alpha)).sum(),
            (open_family & (equivalence(rows, chosen, margin) <= PLAN.alpha))[:, own].any(axis=-1).sum(),
            (open_family & (holm(plain) <= PLAN.alpha))[:, own].any(axis=-1).sum(),
        ]
    return NoDifference(*(float(share) for share in counts / simulations))


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
    print(
        "\nno difference: of nine rivals that are alike, before -> after every rival counts as a hypothesis of its own; m3tl is better by"
    )
    print(f"{head}{'margin':>8}{'the margin: alone':>20}{'family of six':>20}{'0: alone':>20}")
    for noise, num_seeds, choice in (line for line in lines if line[2] != 0.5):
        for margin in (1.0, 2.0, 3.0):
            wrong, right = (
                no_difference(num_seeds, noise, choice=choice, simulations=count, margin=margin, effect=effect) for effect in (margin, 0.0)
            )
            pairs = ((wrong.alone_plain, wrong.alone), (wrong.family_plain, wrong.family), (right.alone_plain, right.alone))
            told = "".join(f"{f'{before:.4f} -> {after:.4f}':>20}" for before, after in pairs)
            print(f"{noise:<8}{num_seeds:>5}{choice:>8.1f}{margin:>8.1f}{told}", flush=True)


if __name__ == "__main__":
    main()
