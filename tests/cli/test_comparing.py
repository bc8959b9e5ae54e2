from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3tl_cli.cli.comparing import Gathered, compared, gather, saved_seconds, under, write
from m3tl_cli.cli.design import PLAN, Arm, Planned, Record
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.core.errors import ConfigError, DataError
from tests.cli.run_folders import run

SEEDS = (1, 2)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for setting in ("stl", "mtl"):
        for seed in SEEDS:
            run(tmp_path / "x-sweep", setting, seed)
    return tmp_path / "x-sweep"


def as_ablation(folder: Path, budget: str = "equal_updates") -> Path:
    plan = plan_for(["stl", "mtl"], axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.02, budget=budget)
    cells = tuple(Planned(f"{s}-s{n}", Arm(s, {}), n, budget, ()) for n in SEEDS for s in ("stl", "mtl"))
    plan.write(folder / PLAN)
    Record(("m3tl", "ablate"), (), (), "", "train", "x", (budget,), (), plan.digest, cells).write(folder)
    return folder


def test_a_word_may_be_a_run_a_sweep_what_holds_them_or_a_pattern(sweep: Path) -> None:
    one = sweep / "stl-s1"
    assert gather([str(one)]).folders == (one,)
    assert len(gather([str(sweep)]).folders) == 4
    assert len(gather([str(sweep.parent)]).folders) == 4
    assert gather([f"{sweep}/*-s1", str(one)]).folders == (sweep / "mtl-s1", one)
    run(sweep / "pilot", "m3tl", 1, "00-m3tl")
    assert len(gather([str(sweep)]).folders) == 4, "a pilot is no run to compare"
    with pytest.raises(ConfigError, match="found none in nowhere"):
        gather([str(one), "nowhere"])


def test_an_ablation_brings_its_plan_and_a_changed_plan_is_refused(sweep: Path) -> None:
    as_ablation(sweep)
    found = gather([str(sweep)])
    assert found.plan is not None
    assert compared(found).planned
    assert gather([str(sweep / "stl-s1"), str(sweep / "mtl-s1")]).plan is None
    (sweep / PLAN).write_text((sweep / PLAN).read_text().replace("0.02", "0.5"))
    with pytest.raises(ConfigError, match="another digest"):
        gather([str(sweep)])


def test_runs_of_other_data_are_refused_and_forced_ones_are_flagged_with_the_key(tmp_path: Path) -> None:
    folders = (run(tmp_path, "stl", 1), run(tmp_path, "mtl", 1, data__num_scenes=9, target__num_shots=[1, 5]))
    with pytest.raises(ConfigError, match=r"data\.num_scenes = 270 and 9"):
        compared(Gathered(folders))
    made = compared(Gathered(folders), force=True)
    assert "forced: `data.num_scenes` differs between runs: 270, 9" in made.flags
    assert any(flag.startswith("forced: `target.num_shots`") for flag in made.flags)
    assert f"{len(made.flags)} flags to read first" in made.verdict


def test_runs_of_other_lengths_are_refused_unless_forced(tmp_path: Path) -> None:
    folders = (run(tmp_path, "stl", 1), run(tmp_path, "mtl", 1, updates=350))
    with pytest.raises(ConfigError, match="found mtl: 350, stl: 700"):
        compared(Gathered(folders))
    assert compared(Gathered(folders), force=True).budgets == ("as run",)


def test_nothing_is_forced_that_no_key_can_mend(tmp_path: Path) -> None:
    folders = (run(tmp_path, "stl", 1), run(tmp_path, "stl", 1, "again"))
    with pytest.raises(ConfigError, match="must hold one run of `stl`"):
        compared(Gathered(folders), force=True)


def test_without_a_finished_run_the_reason_is_told(tmp_path: Path) -> None:
    folder = run(tmp_path, "stl", 1)
    (folder / "results.json").unlink()
    with pytest.raises(DataError, match="found none: stl-s1"):
        compared(Gathered((folder,)))


def test_an_ablation_of_matched_lengths_alone_is_called_by_its_budget(tmp_path: Path) -> None:
    for setting, updates in (("stl", 700), ("mtl", 1400)):
        for seed in SEEDS:
            run(tmp_path, setting, seed, updates=updates)
    made = compared(gather([str(as_ablation(tmp_path, "equal_flops"))]))
    assert (made.budget, made.budgets) == ("equal_flops", ("equal_flops",))
    assert {row.budget for row in (*made.summary, *made.rows, *made.costs, *made.pareto)} == {"equal_flops"}
    assert made.flags == ()
    assert "flag" not in made.verdict
    assert made.runs[0].budgets == ("equal_flops",)
    assert under(made, "equal_flops") is made
    assert Comparison.from_json(made.to_json()).budget == "equal_flops"


def test_what_is_written_can_be_read_again(sweep: Path, tmp_path: Path) -> None:
    made = compared(gather([str(sweep)]))
    written = write(made, tmp_path / "out")
    assert [path.name for path in written] == ["report.html", "comparison.json", "tables"]
    assert all(path.exists() for path in written)
    assert Comparison.read(tmp_path / "out" / "comparison.json").verdict == made.verdict
    assert (tmp_path / "out" / "tables" / "summary.csv").is_file()


def test_the_time_that_the_cache_saved_is_that_of_cached_stages(tmp_path: Path) -> None:
    folders = (run(tmp_path, "stl", 1), run(tmp_path, "transfer", 1), run(tmp_path, "m3tl", 1))
    assert saved_seconds(compared(Gathered(folders))) == 4.0  # 2 s of pretraining each, by the cells


def test_the_1_of_the_gain_may_be_chosen_without_a_plan_among_what_the_runs_have(sweep: Path) -> None:
    made = compared(gather([str(sweep)]), gain_reference="ridge")
    assert made.plan.gain_reference == "ridge head"
    assert made.flags == ()
    # The stand-in baselines reach a gain of .1, so that all others are ten times as large.
    plain = {r.arm: r.gain.mean for r in compared(gather([str(sweep)])).summary if r.block == "c@5"}
    assert {r.arm: r.gain.mean for r in made.summary if r.block == "c@5"} == pytest.approx({arm: 10 * gain for arm, gain in plain.items()})
    with pytest.raises(ConfigError, match="a baseline that the runs have: ridge; found scratch"):
        compared(gather([str(sweep)]), gain_reference="scratch")


def test_the_1_of_the_gain_and_the_margin_of_a_plan_stay(sweep: Path) -> None:
    as_ablation(sweep)
    assert compared(gather([str(sweep)]), margin=0.02).planned
    with pytest.raises(ConfigError, match=r"`margin` must be that of the plan, 0\.02; found 0\.3"):
        compared(gather([str(sweep)]), margin=0.3)
    assert compared(gather([str(sweep)]), gain_reference="perfect").planned
    with pytest.raises(ConfigError, match="that of the plan, perfect; found ridge"):
        compared(gather([str(sweep)]), gain_reference="ridge")


def test_a_reference_and_a_margin_may_be_chosen_without_a_plan(sweep: Path) -> None:
    made = compared(gather([str(sweep)]), reference="mtl", margin=0.3)
    assert set(made.references.values()) == {"mtl"}
    assert made.plan.margin == 0.3
    assert replace(made).planned is False
