from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3tl_cli.comparison import shrinkage
from m3tl_cli.comparison.cells import SETTINGS, Cell, Missing
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import Plan, plan_for
from m3tl_cli.comparison.statistics import estimate
from m3tl_cli.comparison.tables import Comparison, SummaryRow
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.results import Score, TaskResult, block_parts
from tests.comparison._cells import NEW, ablation, cell, noise, result

SEEDS = tuple(range(1, 9))
PLAN = plan_for(list(SETTINGS), axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.05, budget="equal_updates")


def additive(setting: str, seed: int, key: str, task: str) -> float:
    """Each switch adds its own, alike for all tasks; seeds differ, and arms of a seed by a little."""
    pretrain, joint, bilevel, handover = SETTINGS[setting]
    effect = 0.1 * pretrain + 0.2 * joint - 0.05 * bilevel + 0.05 * handover
    return 0.3 + effect + noise("", seed, key, scale=0.05) + noise(setting, seed, key, task, scale=0.005)


def identical(setting: str, seed: int, key: str, task: str) -> float:
    return 0.4 + noise("", seed, key, task, scale=0.1)


def conflicting(setting: str, seed: int, key: str, task: str) -> float:
    """Tasks learnt together: one gains what another loses."""
    change = {"segmentation": 0.2, "depth": -0.2, "edges": 0.2, "height": -0.2, "drivable": 0.0, "count": 0.0}[task]
    return 0.5 + change * SETTINGS[setting][1] + noise("", seed, key, scale=0.02) + noise(setting, seed, key, task, scale=0.01)


def summary(found: Comparison, arm: str, block: str = "c@5", budget: str = "equal_updates") -> SummaryRow:
    [row] = [r for r in found.summary if (r.arm, r.block, r.budget) == (arm, block, budget)]
    return row


@pytest.fixture(scope="module")
def planted() -> Comparison:
    return compare(ablation(additive), PLAN)


def test_an_additive_response_gives_its_main_effects_and_no_interaction(planted: Comparison) -> None:
    effects = {row.term: row for row in planted.effects if row.block == "c@5"}
    assert len(effects) == 7
    for term, size in {"pretrain": 0.1, "joint": 0.2, "bilevel": -0.05}.items():
        assert effects[term].effect.mean == pytest.approx(size, abs=0.003)
        assert effects[term].effect.low < size < effects[term].effect.high
    for term, row in effects.items():
        if row.order > 1:
            assert abs(row.effect.mean) < 0.003, term
            assert row.effect.low < 0 < row.effect.high, term
    # Eight corners of eight seeds; stl and mtl are no part of the cube at a target.
    assert len(effects["joint"].runs) == 64


def test_an_exactly_additive_response_has_interactions_of_0() -> None:
    found = compare(ablation(lambda s, seed, key, task: 0.25 + 0.125 * SETTINGS[s][0] + 0.25 * SETTINGS[s][1] + seed / 64), PLAN)
    assert all(row.effect.mean == pytest.approx(0.0, abs=1e-12) for row in found.effects if row.order > 1 and row.block != "a")
    for row in found.effects:
        if row.term == "joint":
            assert row.effect.mean == pytest.approx(0.25, abs=1e-12)


def test_the_planted_effects_are_confirmed(planted: Comparison) -> None:
    answers = {v.name: v.answer for v in planted.contrasts}
    assert answers["main effect of pretrain"] == answers["main effect of joint"] == answers["m3tl - stl"] == "higher"
    assert answers["main effect of bilevel"] == "lower"
    assert answers["m3tl - mtl_transfer"] == "lower"
    assert planted.planned
    assert planted.verdict.startswith("On new tasks in target domains, 5 shots, mtl_transfer has the highest")
    assert planted.flags == planted.missing == ()


def test_identical_settings_have_no_verdict_but_no_difference() -> None:
    found = compare(ablation(identical), PLAN)
    assert {v.answer for v in found.contrasts} == {"no difference"}
    assert all(row.difference.mean == 0 and row.ties == row.num_tasks * 8 for row in found.summary)
    assert {row.rank for row in found.summary} == {5.5}
    assert all(row.effect.mean == 0 for row in found.effects)


def test_noise_alone_gives_no_verdict() -> None:
    found = compare(ablation(lambda s, seed, key, task: 0.4 + noise(s, seed, key, task, scale=0.2)), replace(PLAN, margin=0.001))
    assert {v.answer for v in found.contrasts} == {"undecided"}


def test_conflicting_tasks_show_negative_transfer_in_the_task_that_loses() -> None:
    found = compare(ablation(conflicting), PLAN)
    mtl = summary(found, "mtl")
    assert mtl.hurt == ("height",)
    assert mtl.worst_task == "height"
    assert mtl.worst.mean == pytest.approx(-0.2, abs=0.01)
    assert mtl.difference.low < 0 < mtl.difference.high
    rows = {r.task: r for r in found.rows if (r.arm, r.block, r.metric) == ("mtl", "c@5", "accuracy")}
    # Accuracy .2 + .8 * .5 = .6 alone, .44 together.
    assert rows["height"].negative_transfer == pytest.approx(0.16 / 0.6, abs=0.02)
    assert rows["edges"].negative_transfer == 0.0
    assert summary(found, "stl").hurt == ()


def test_values_differences_and_intervals_are_those_of_the_cells(planted: Comparison) -> None:
    def score(arm: str, seed: int) -> float:
        return 0.2 + 0.8 * additive(arm, seed, "b@20", "depth")

    [row] = [r for r in planted.rows if (r.arm, r.block, r.task, r.metric) == ("m3tl", "b@20", "depth", "accuracy")]
    assert row.value == estimate([score("m3tl", s) for s in SEEDS])
    expected = estimate([score("m3tl", s) - score("stl", s) for s in SEEDS])
    assert (row.difference.mean, row.difference.low) == pytest.approx((expected.mean, expected.low))
    assert row.gain_difference.mean == pytest.approx(expected.mean / 0.8)
    base = np.mean([score("stl", s) for s in SEEDS])
    assert row.relative.mean == pytest.approx(expected.mean / base)
    [error] = [r for r in planted.rows if (r.arm, r.block, r.task, r.metric) == ("m3tl", "b@20", "depth", "error")]
    assert error.difference.mean < 0 < error.relative.mean
    assert error.unit == "m"
    assert not error.primary


def test_every_row_leads_to_its_runs(planted: Comparison) -> None:
    [row] = [r for r in planted.rows if (r.arm, r.block, r.task, r.metric) == ("m3tl", "b@20", "depth", "accuracy")]
    assert {planted.runs[i].arm for i in row.runs} == {"m3tl", "stl"}
    assert planted.folders(row.runs)[0].startswith("/runs/")
    for table in (planted.rows, planted.summary, planted.costs, planted.savings, planted.steps, planted.baselines, planted.effects):
        assert table
        assert all(r.runs for r in table)


def test_delta_m_of_a_summary_is_paired_with_the_references_mean_below(planted: Comparison) -> None:
    seeds = []
    for s in SEEDS:
        changes = []
        for task in NEW:
            for value in (lambda g: 0.2 + 0.8 * g, lambda g: -4 * (1 - g)):
                base = abs(np.mean([value(additive("stl", i, "c@5", task)) for i in SEEDS]))
                changes.append((value(additive("meta", s, "c@5", task)) - value(additive("stl", s, "c@5", task))) / base)
        seeds.append(float(np.mean(changes)))
    found = summary(planted, "meta")
    assert found.delta_m_metrics.mean == pytest.approx(np.mean(seeds))
    assert found.delta_m_metrics.low == pytest.approx(estimate(seeds).low)
    assert summary(planted, "stl").delta_m_tasks.mean == 0.0


def test_shrunk_estimates_stand_beside_the_raw_ones() -> None:
    found = compare(ablation(conflicting), PLAN)
    rows = [r for r in found.rows if r.arm == "mtl" and r.block == "c@5" and r.primary]
    raw = [r.gain_difference.mean for r in rows]
    factor = summary(found, "mtl").shrink_factor
    assert 0.9 < factor < 1
    assert [r.shrunk for r in rows] == pytest.approx([np.mean(raw) + factor * (x - np.mean(raw)) for x in raw])
    t = 2.364624  # t(.975, 7): back from the half width to the squared standard error
    variance = np.mean([((r.gain_difference.high - r.gain_difference.mean) / t) ** 2 for r in rows])
    assert factor == pytest.approx(shrinkage.to_mean(raw, float(variance), degrees=7).factor, abs=1e-6)
    assert all(math.isnan(r.shrunk) for r in found.rows if not r.primary or r.arm == "stl" or r.block.startswith("b"))


def test_data_saved_is_the_ratio_of_samples_to_the_references_score() -> None:
    # Gain grows by .1 for every factor of 5 or 4 in shots; m3tl is one such factor ahead from 5 shots on.
    curve = {"stl": {1: 0.1, 5: 0.2, 20: 0.3}, "m3tl": {1: 0.2, 5: 0.3, 20: 0.4}, "mtl": {1: 0.0, 5: 0.1, 20: 0.2}}

    def gain(setting: str, seed: int, key: str, task: str) -> float:
        return curve[setting][block_parts(key)[1] or 1]

    rows = {r.arm: r for r in compare(ablation(gain, (1, 2), tuple(curve))).savings if (r.block, r.task) == ("c", "")}
    assert rows["m3tl"].samples == pytest.approx(5.0)
    assert rows["m3tl"].saved == pytest.approx(4.0)
    assert rows["stl"].saved == pytest.approx(1.0)
    assert (rows["mtl"].kind, math.isnan(rows["mtl"].saved)) == ("never", True)
    assert rows["m3tl"].target == pytest.approx(0.3)


def test_the_exponent_of_a_learning_curve_is_the_mean_over_seeds_of_the_power_law() -> None:
    def gain(setting: str, seed: int, key: str, task: str) -> float:
        exponent = {"stl": 0.1, "m3tl": 0.3}[setting] + 0.1 * (seed - 1)
        return 1 - 0.9 * (block_parts(key)[1] or 1) ** -exponent

    rows = {r.arm: r for r in compare(ablation(gain, (1, 2, 3), ("stl", "m3tl"))).savings if (r.block, r.task) == ("c", "")}
    assert rows["stl"].exponent.mean == pytest.approx(0.2)
    assert rows["m3tl"].exponent.mean == pytest.approx(0.4)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom
    assert (rows["m3tl"].exponent.low, rows["m3tl"].exponent.seeds) == (pytest.approx(0.4 - half), 3)


def test_steps_to_target_come_from_the_chosen_curves(planted: Comparison) -> None:
    rows = {r.arm: r for r in planted.steps if (r.block, r.task) == ("c@5", "")}
    # The stand-in curves go from 0 half way at step 2 and all the way at step 10.
    assert rows["stl"].steps == (0, 2, 10)
    assert rows["stl"].reached == 10
    final = summary(planted, "stl").gain.mean
    assert rows["stl"].gains[1].mean == pytest.approx(final / 2)
    assert rows["stl"].target == pytest.approx(final)
    assert rows["transfer"].reached == 10


def test_costs_ratios_and_fronts(planted: Comparison) -> None:
    costs = {(r.arm, r.column, r.stage): r for r in planted.costs}
    assert costs["mtl", "forward", "train"].value.mean == 700
    assert costs["mtl", "forward", "train"].ratio == 0.5
    assert costs["m3tl", "seconds", "all"].value.mean - costs["m3tl", "seconds", "without pretraining"].value.mean == 2.0
    assert costs["m3tl", "peak_memory", "all"].unit == "B"
    [front] = [r for r in planted.pareto if (r.column, r.stage) == ("forward", "all")]
    # mtl_transfer scores highest, mtl_handover and mtl cost least; bilevel settings cost more and score less.
    assert front.front == ("mtl_handover", "mtl_transfer")
    assert set(front.points) == set(SETTINGS)


def test_baselines_stand_in_every_table(planted: Comparison) -> None:
    [row] = [r for r in planted.baselines if (r.arm, r.block) == ("m3tl", "c@5")]
    assert row.baseline == "ridge head"
    assert row.gain.mean == pytest.approx(0.1)
    assert row.advantage.mean == pytest.approx(summary(planted, "m3tl").gain.mean - 0.1)


def test_claims_across_tasks_need_eight_tasks() -> None:
    tasks = {"c": [f"t{i}" for i in range(8)]}
    cells = ablation(lambda s, seed, key, task: 0.5 + 0.1 * (s == "mtl") * (ord(task[-1]) % 2), (1, 2), ("stl", "mtl"), tasks=tasks)
    across = summary(compare(cells), "mtl").across_tasks
    assert across.mean == pytest.approx(0.05)
    assert across.seeds == 8
    assert across.low == pytest.approx(estimate([0.0, 0.1] * 4).low)
    assert math.isnan(summary(compare(ablation(additive, (1, 2))), "mtl").across_tasks.mean)


def test_the_best_other_is_by_the_validation_scores_of_the_runs() -> None:
    found = compare(ablation(additive, validation={"meta": 0.7, "mtl_transfer": 0.6, "m3tl": 0.9}), PLAN)
    assert found.contrasts[-1].chosen == "meta"
    assert found.validation["meta"] == pytest.approx(0.7)
    assert "m3tl" not in found.validation


def test_both_budgets_are_told_and_equal_flops_decides() -> None:
    cells = [*ablation(additive), *ablation(lambda *a: additive(*a) + 0.3, settings=("m3tl",), updates=100)]
    found = compare(cells, replace(PLAN, budget="equal_flops"))
    assert found.budgets == ("equal_updates", "equal_flops")
    assert found.budget == "equal_flops"
    own = next(v for v in found.contrasts if v.name == "m3tl - stl").difference.mean
    assert own == pytest.approx(summary(found, "m3tl", budget="equal_flops").difference.mean)
    assert own == pytest.approx(summary(found, "m3tl").difference.mean + 0.3)
    assert compare(cells, PLAN).budget == "equal_updates"
    [flag] = compare(ablation(additive), replace(PLAN, budget="equal_flops")).flags
    assert flag == "the plan decides on equal_flops; there are runs of equal_updates only"


def test_along_an_axis_each_arm_is_held_against_its_own_level() -> None:
    cells = []
    for level, more in (("concat", 0.0), ("gated", 0.2)):
        cells += ablation(
            lambda s, seed, key, task, more=more: 0.3 + more + 0.1 * (s == "mtl") + seed / 100,
            (1, 2),
            ("stl", "mtl"),
            axes={"fusion": level},
            fusion={"_target_": level},
        )
    found = compare(cells)
    assert found.references["mtl, fusion=gated"] == "stl, fusion=gated"
    assert summary(found, "mtl, fusion=gated").difference.mean == pytest.approx(0.1)
    fixed = compare(cells, reference="stl, fusion=concat")
    assert summary(fixed, "mtl, fusion=gated").difference.mean == pytest.approx(0.3)


def test_three_seeds_and_no_plan_are_exploratory() -> None:
    found = compare(ablation(additive, seeds=(1, 2, 3)), PLAN)
    assert {v.answer for v in found.contrasts} == {"exploratory"}
    assert found.verdict.startswith("Exploratory (3 seeds")
    assert found.flags == ("planned seeds without a run: 4, 5, 6, 7, 8",)
    assert found.verdict.endswith("; 1 flag to read first.")
    without = compare(ablation(additive))
    assert not without.planned
    assert {v.answer for v in without.contrasts} == {"exploratory"}
    assert without.plan.key == "c@5"


def test_seeds_that_were_not_planned_take_no_part_in_the_verdict() -> None:
    found = compare(ablation(additive, seeds=range(1, 11)), PLAN)
    assert found.contrasts[0].seeds == SEEDS
    assert any("not planned" in f for f in found.flags)


def test_missing_cells_are_listed_with_their_reason() -> None:
    cells = [c for c in ablation(additive) if (c.setting, c.seed) != ("meta", 4)]
    found = compare(cells, PLAN, unread=[Missing(Path("/runs/x"), "a run that is FAILED")])
    assert {(m.arm, m.seed, m.folder) for m in found.missing} == {("", None, "/runs/x"), ("meta", 4, "")}
    assert found.contrasts[0].seeds == (1, 2, 3, 5, 6, 7, 8)


def broken(made: Cell) -> Cell:
    """The same run with a score that is no number."""
    score = Score(math.nan, 0.2, 1.0, "higher")
    blocks = {
        **made.results.blocks,
        "c@5": {**made.results.blocks["c@5"], "edges": TaskResult("multiclass", "accuracy", {"accuracy": score})},
    }
    return replace(made, results=replace(made.results, blocks=blocks))


def test_a_score_that_is_not_finite_takes_its_run_out_and_is_flagged() -> None:
    cells = [broken(c) if (c.setting, c.seed) == ("meta", 4) else c for c in ablation(additive)]
    found = compare(cells, PLAN)
    assert summary(found, "meta").gain.seeds == 7
    assert 4 not in found.contrasts[0].seeds
    assert any("`meta` with seed 4 has no finite accuracy of edges on c@5" in f for f in found.flags)


def test_the_1_of_the_gain_may_be_a_baseline_of_the_reference() -> None:
    def with_goal(made: Cell) -> Cell:
        goals = {"full data": {"c@5": {t: result(0.8) for t in NEW}}}
        return replace(made, results=replace(made.results, baselines=goals))

    cells = [with_goal(c) for c in ablation(lambda *_: 0.4, (1, 2), ("stl", "mtl"))]
    plan = plan_for(["stl", "mtl"], axes={}, seeds=(1, 2), block="c", num_shots=5, margin=0.02, gain_reference="full data")
    found = compare(cells, plan)
    assert summary(found, "mtl").gain.mean == pytest.approx(0.5)
    [step] = [r for r in found.steps if (r.arm, r.block, r.task) == ("mtl", "c@5", "")]
    assert step.gains[-1].mean == pytest.approx(0.5)


def test_a_reference_without_the_baseline_that_is_the_1_of_the_gain_is_said() -> None:
    cells = ablation(lambda *_: 0.4, (1, 2), ("stl", "mtl"))
    plan = plan_for(["stl", "mtl"], axes={}, seeds=(1, 2), block="c", num_shots=5, margin=0.02, gain_reference="scratch")
    found = compare(cells, plan)
    assert "`stl` has no baseline `scratch` on c@5, and no gain, with seed 1, 2" in found.flags
    assert found.contrasts[0].answer == "missing"


def test_a_task_at_which_the_1_of_the_gain_is_no_better_than_trivial_is_said_and_in_no_mean() -> None:
    def with_goal(made: Cell) -> Cell:
        goals = {"ridge head": {"c@5": {t: result(-0.1 if t == "height" and made.seed == 2 else 0.8) for t in NEW}}}
        return replace(made, results=replace(made.results, baselines=goals))

    cells = [with_goal(c) for c in ablation(lambda *words: 0.0 if words[-1] == "height" else 0.4, (1, 2), ("stl", "mtl"))]
    plan = plan_for(["stl", "mtl"], axes={}, seeds=(1, 2), block="c", num_shots=5, margin=0.02, gain_reference="ridge head")
    found = compare(cells, plan)
    assert [f for f in found.flags if "ridge" in f] == [
        "`ridge head` of `stl` is no better than the trivial predictor at height on c@5, which no mean gain counts, with seed 2"
    ]
    assert summary(found, "mtl").gain.mean == pytest.approx((3 / 4 * 0.5 + 0.5) / 2)


def test_a_reference_without_runs_is_replaced_and_said() -> None:
    found = compare(ablation(additive, (1, 2), ("mtl", "m3tl")))
    assert found.references == {"mtl": "mtl", "m3tl": "mtl"}
    assert any("`mtl` stands in for it" in f for f in found.flags)


def test_auxiliary_tasks_count_in_no_mean() -> None:
    def demoted(made: Cell) -> Cell:
        tasks = {**made.results.blocks["a"]}
        tasks["depth"] = replace(result(-5.0), role="auxiliary")
        return replace(made, results=replace(made.results, blocks={**made.results.blocks, "a": tasks}))

    found = compare([demoted(c) for c in ablation(lambda *_: 0.4, (1, 2), ("stl", "mtl"))])
    row = summary(found, "mtl", "a")
    assert row.gain.mean == pytest.approx(0.4)
    assert row.num_tasks == 1
    assert row.hurt == ()


def test_runs_of_other_arms_than_planned_are_refused() -> None:
    with pytest.raises(ConfigError, match="runs of the plan's arms"):
        compare([cell("protonet", 1, lambda *_: 0.5)], PLAN)


def same(a: object, b: object) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def test_a_comparison_survives_json(planted: Comparison, tmp_path: Path) -> None:
    planted.write(tmp_path / "comparison.json")
    found = Comparison.read(tmp_path / "comparison.json")
    assert same(found.to_json(), planted.to_json())
    assert isinstance(found.plan, Plan)
    assert found.plan == planted.plan
    assert found.contrasts == planted.contrasts
    assert found.rows[5].value == planted.rows[5].value
    (tmp_path / "comparison.json").write_text('{"plan": 1}')
    with pytest.raises(DataError, match=r"comparison\.json"):
        Comparison.read(tmp_path / "comparison.json")


def test_the_order_of_runs_changes_nothing(planted: Comparison) -> None:
    assert same(compare(ablation(additive)[::-1], PLAN).to_json(), planted.to_json())


def test_what_stands_beside_the_settings_is_in_every_table_but_in_no_rank_and_no_verdict(planted: Comparison) -> None:
    """An upper bound above all settings: it must not lead, not move a rank and not enter the family."""

    def gain(setting: str, seed: int, key: str, task: str) -> float:
        return 0.95 if setting == "joint_retraining" else additive(setting, seed, key, task)

    plan = plan_for(list(SETTINGS), baselines=["joint_retraining"], axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.05)
    assert plan.contrasts == PLAN.contrasts
    assert plan.arms == (*PLAN.arms, "joint_retraining")
    beside = ablation(gain, settings=["joint_retraining"], compared_as="upper_bound", sharing={"_target_": "other"})
    found = compare([*ablation(additive), *beside], replace(plan, budget="equal_updates"))
    assert found.beside == {"joint_retraining": "upper_bound"}
    assert found.verdict == planted.verdict
    assert found.flags == ()
    assert summary(found, "joint_retraining").gain.mean == pytest.approx(0.95)
    assert math.isnan(summary(found, "joint_retraining").rank)
    assert summary(found, "mtl_transfer").rank == summary(planted, "mtl_transfer").rank
    assert [v.p_adjusted for v in found.contrasts] == [v.p_adjusted for v in planted.contrasts]


def test_without_a_plan_none_is_made_for_what_stands_beside_the_settings() -> None:
    cells = [*ablation(additive, settings=["stl", "mtl"]), *ablation(identical, settings=["pooled"], compared_as="baseline")]
    assert [c.name for c in compare(cells).plan.contrasts] == ["mtl - stl"]


def test_a_baseline_may_differ_in_what_it_chooses_and_is_flagged_for_anything_else() -> None:
    cells = ablation(additive, settings=["stl"])
    chosen = {"sharing": {"_target_": "pooled"}, "members": 3, "target": {"num_shots": [1, 5, 20], "baselines": []}}
    own = ablation(identical, settings=["pooled"], compared_as="baseline", optimizer__lr=0.1, inner__num_inner_steps=3, **chosen)
    told = "equal_updates: `inner.num_inner_steps` differs between runs: 2 in stl; 3 in pooled"
    assert compare([*cells, *own]).flags == (told,), "its sharing, rate and members are its own"


def test_what_stands_beside_one_setting_does_not_change_what_its_levels_are_held_against() -> None:
    """One setting along an axis: every arm is held against the first level, with or without a baseline."""

    def gain(setting: str, seed: int, key: str, task: str) -> float:
        return identical("", seed, key, task)

    def level(fusion: str, more: float, setting: str = "stl", **changes: str) -> list[Cell]:
        return [
            cell(setting, s, lambda *a: gain(*a) + more, axes={"fusion": fusion}, fusion={"_target_": fusion}, **changes) for s in (1, 2)
        ]

    alone = [*level("concat", 0.0), *level("gated", 0.1)]
    beside = [*level("concat", 0.05, "ensemble", compared_as="baseline"), *level("gated", 0.05, "ensemble", compared_as="baseline")]
    for cells in (alone, [*alone, *beside]):
        assert summary(compare(cells), "stl, fusion=gated").difference.mean == pytest.approx(0.1)
    assert summary(compare([*alone, *beside]), "ensemble, fusion=gated").difference.mean == pytest.approx(0.05)
