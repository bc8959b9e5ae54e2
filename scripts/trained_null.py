"""A trained null: ten copies of one setting, which differ in the seed of initialisation and data order alone, under the full verdict.

    .venv/bin/python scripts/trained_null.py              # 80 runs; about a minute and a half on one core
    .venv/bin/python scripts/trained_null.py --seeds 6

The setting is `mtl` on Landmine: 29 fields, a hidden layer shared by all, 40 training rows a field, mini-batches. A replicate fixes data
and splits (`data.seed`); the copies of a replicate each have a `seed` of their own. They then bear the names of the ten settings, so that
the plan is that of a real ablation with all six contrasts, and the comparison is the program's own. The outcome is block a, where every
copy meets the same samples; a run tells no validation score for that block, so the mean over fields of the last validation stands in for
it. Whatever verdict comes out is false. Expected: none, as in 95 of 100 such ablations or more.

One ablation is one draw. So the names are also dealt out anew within each replicate, which is as likely, and the share of 2,000 such
ablations with any verdict is printed: the family-wise error under the noise of training instead of a simulated one.

With a target, and by the command itself:

    m3tl ablate budget=smoke settings=mtl_handover 'axes.arm_seed=[1,2,3,4]' 'baselines=[]' name=trained_null
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from _runs import Clock, composed, run
from _timing import machine
from omegaconf import OmegaConf

from m3tl_cli.comparison.cells import SETTINGS, Cell
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import Plan, plan_for
from m3tl_cli.comparison.statistics import Array
from m3tl_cli.comparison.verdict import judge
from m3tl_cli.core.results import Choice, mean

OVERRIDES = ("experiment=landmine_hard", "paradigm=mtl", "data.train_rows=40", "sampler.batch_size=290")
KEY, METRIC = "a", "auroc"
RELABELLED = 2000


def trained(setting: str, replicate: int) -> Cell:
    """A copy of the one setting, under the name of another: what a copy is called decides its `seed` and nothing else."""
    seed = 1000 * replicate + list(SETTINGS).index(setting)
    found = run(OVERRIDES, {"seed": seed, "data.seed": replicate})
    choice = Choice(KEY, "as trained", 0, found.validation[METRIC], (("as trained", found.validation[METRIC]),))
    config = composed(OVERRIDES).copy()
    config.merge_with({"seed": seed, "data": {"seed": replicate}})
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    del plain["paradigm"]  # its switches are those of mtl, whatever the copy is called
    results = replace(found.results, paradigm=setting, seed=replicate, choices=(choice,))
    return Cell(setting, replicate, {}, results, Path(f"{setting}-s{replicate}"), {str(k): v for k, v in plain.items()})


def relabelled(plan: Plan, outcomes: Array, validation: Array, count: int) -> float:
    """Share of ablations with a verdict, where each replicate deals its runs [S, arms] out to the arms anew."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(count):
        order = rng.permuted(np.tile(np.arange(outcomes.shape[1]), (len(outcomes), 1)), axis=1)
        test, told = (np.take_along_axis(values, order, axis=1) for values in (outcomes, validation))
        by_arm = {arm: test[:, i] for i, arm in enumerate(plan.arms)}
        scores = {arm: told[:, i] for i, arm in enumerate(plan.arms)}
        wrong += any(v.answer in ("higher", "lower") for v in judge(plan, by_arm, plan.seeds, scores, planned=True))
    return wrong / count


def main() -> None:
    """Train, compare, and print the contrasts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="replicates, 6 or more")
    count = parser.parse_args().seeds
    clock = Clock()
    print(machine())
    plan = plan_for(list(SETTINGS), axes={}, seeds=range(1, count + 1), block=KEY, num_shots=None, margin=0.02, budget="equal_updates")
    cells = {(arm, seed): trained(arm, seed) for seed in plan.seeds for arm in plan.arms}
    found = compare(list(cells.values()), plan)
    print(f"| contrast | difference | {100 * (1 - plan.alpha):g} % interval | adjusted p | answer |\n|---|---|---|---|---|")
    for v in found.contrasts:
        e = v.difference
        name = f"{v.name} ({v.chosen})" if v.chosen else v.name
        print(f"| {name} | {e.mean:+.4f} | {e.low:+.4f} to {e.high:+.4f} | {v.p_adjusted:.3f} | {v.answer} |")
    verdicts = sum(v.answer in ("higher", "lower") for v in found.contrasts)
    print(f"{verdicts} of {len(found.contrasts)} contrasts with a verdict; flags: {'; '.join(found.flags) or 'none'}")
    gains = np.array(
        [[mean(t.scores[METRIC].error_reduction for t in cells[a, s].results.blocks[KEY].values()) for a in plan.arms] for s in plan.seeds]
    )
    told = np.array([[cells[a, s].results.choices[0].score for a in plan.arms] for s in plan.seeds])
    own, own_told = (values - values.mean(axis=1, keepdims=True) for values in (gains, told))
    alike = float(np.corrcoef(own.ravel(), own_told.ravel())[0, 1])
    print(
        f"copies of a replicate: standard deviation of the gain {own.std(ddof=len(own)):.4f}, its correlation with validation {alike:.2f}"
    )
    share = relabelled(plan, gains, told, RELABELLED)
    error = math.sqrt(0.05 * 0.95 / RELABELLED)
    print(f"copies dealt out anew within replicates, {RELABELLED} times: a verdict in {share:.4f} (standard error at .05: {error:.4f})")
    print(f"{len(cells)} runs; {clock}")


if __name__ == "__main__":
    main()
