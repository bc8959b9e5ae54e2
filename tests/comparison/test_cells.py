from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from m3tl_cli.comparison.cells import CORNERS, SETTINGS, Cell, arm_label, family_of, outcomes, read_cell, read_cells
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.results import Score, TaskResult
from tests.comparison._cells import ablation, cell

ROOT = Path(__file__).parents[2]


def flat_gain(setting: str, seed: int, key: str, task: str) -> float:
    return 0.5


def write(made: Cell, folder: Path, overrides: list[str], state: str = "FINISHED") -> Path:
    made.results.write(folder / "results.json")
    (folder / "config.yaml").write_text(yaml.safe_dump(made.config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "status.json").write_text(json.dumps({"state": state, "error": ""}))
    return folder


def test_a_run_folder_comes_back_as_a_cell(tmp_path: Path) -> None:
    made = cell("m3tl", 3, flat_gain)
    folder = write(made, tmp_path / "run", ["paradigm=m3tl", "encoder=small"])
    found = read_cell(folder, ["fusion", "encoder", "data.num_scenes"])
    assert (found.setting, found.seed, found.folder, found.updates) == ("m3tl", 3, folder, 700)
    assert found.results == made.results
    assert found.axes == {"fusion": "gated", "encoder": "small", "data.num_scenes": "270"}
    assert found.arm == "m3tl, data.num_scenes=270, encoder=small, fusion=gated"


def test_a_run_that_failed_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "FAILED", "error": "the loss is not finite"}))
    with pytest.raises(DataError, match="FAILED: the loss is not finite"):
        read_cell(tmp_path)
    good = write(cell("stl", 1, flat_gain), tmp_path / "good", [])
    cells, missing = read_cells([good, tmp_path, tmp_path / "nothing"])
    assert [c.setting for c in cells] == ["stl"]
    assert ["loss" in m.reason for m in missing] == [True, False]


def test_damaged_files_and_unknown_axes_are_refused(tmp_path: Path) -> None:
    folder = write(cell("stl", 1, flat_gain), tmp_path / "run", [])
    with pytest.raises(ConfigError, match="found balancing"):
        read_cell(folder, ["balancing"])
    (folder / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json"):
        read_cell(folder)


def test_the_settings_are_those_of_conf() -> None:
    stems = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / "paradigm").glob("*.yaml")}
    assert {name: tuple(node[s] for s in ("pretrain", "joint", "bilevel", "handover")) for name, node in stems.items()} == dict(SETTINGS)
    assert len(CORNERS) == 8
    assert CORNERS[False, False, False] == "stl_handover"
    assert CORNERS[True, True, True] == "m3tl"


def test_cells_of_one_ablation_are_a_family_without_flags() -> None:
    family = family_of(ablation(flat_gain, seeds=(2, 1)))
    assert family.arms == tuple(SETTINGS)
    assert family.seeds == (1, 2)
    assert family.flags == ()
    assert list(family.budgets) == ["equal_updates"]
    assert family.budgets["equal_updates"]["m3tl"][2].seed == 2


def test_other_data_or_target_protocol_is_refused_and_named() -> None:
    for change, key in (({"data__num_scenes": 100}, "data.num_scenes"), ({"target__num_shots": [3]}, "target.num_shots")):
        with pytest.raises(ConfigError, match=key):
            family_of([cell("stl", 1, flat_gain), cell("mtl", 1, flat_gain, **change)])


def test_a_declared_axis_may_differ_even_in_the_data() -> None:
    cells = [cell("mtl", 1, flat_gain, axes={"data.num_scenes": str(n)}, data__num_scenes=n) for n in (100, 270)]
    assert family_of(cells).arms == ("mtl, data.num_scenes=100", "mtl, data.num_scenes=270")
    fusion = [cell("mtl", 1, flat_gain, axes={"fusion": f}, fusion={"_target_": f}) for f in ("a", "b")]
    assert family_of(fusion).flags == ()


def test_data_seeds_may_follow_the_seed_but_not_the_arm() -> None:
    assert family_of([cell(s, seed, flat_gain, data__seed=seed) for s in ("stl", "mtl") for seed in (1, 2)]).flags == ()
    with pytest.raises(ConfigError, match=r"data\.seed"):
        family_of([cell("stl", 1, flat_gain, data__seed=1), cell("mtl", 1, flat_gain, data__seed=2)])


def test_any_other_key_is_flagged_with_its_values() -> None:
    flags = family_of([cell("stl", 1, flat_gain), cell("mtl", 1, flat_gain, optimizer__lr=0.1)]).flags
    assert flags == ("equal_updates: `optimizer.lr` differs between runs: 0.003 in stl; 0.1 in mtl",)
    assert family_of([cell("stl", 1, flat_gain), cell("mtl", 1, flat_gain, trainer__num_pictures=0)]).flags == ()


def test_an_overridden_switch_is_flagged() -> None:
    changed = {"name": "mtl", "pretrain": False, "joint": True, "bilevel": False, "handover": True}
    [flag] = family_of([cell("mtl", 1, flat_gain, paradigm=changed)]).flags
    assert "switches of `mtl`" in flag


def test_missing_cells_are_named() -> None:
    cells = [c for c in ablation(flat_gain, seeds=(1, 2), settings=("stl", "mtl")) if (c.setting, c.seed) != ("mtl", 2)]
    assert family_of(cells).flags == ("equal_updates: no run of `mtl` with seed 2",)


def test_settings_that_met_other_samples_are_not_paired() -> None:
    one, other = cell("stl", 1, flat_gain), cell("mtl", 1, flat_gain)
    score = Score(0.5, 0.3, 1.0, "higher")
    blocks = {**other.results.blocks, "a": {"segmentation": TaskResult("multiclass", "accuracy", {"accuracy": score})}}
    changed = replace(other, results=replace(other.results, blocks=blocks))
    flags = family_of([one, changed]).flags
    assert any("not paired" in f and "of a with seed 1" in f for f in flags)
    assert any("different tasks on a: depth" in f for f in flags)


def test_two_runs_of_a_cell_are_refused() -> None:
    with pytest.raises(ConfigError, match="one run of `stl` with seed 1"):
        family_of([cell("stl", 1, flat_gain), cell("stl", 1, flat_gain, root=Path("/again"))])
    with pytest.raises(ConfigError, match="found none"):
        family_of([])


def test_a_second_length_of_training_is_a_second_budget() -> None:
    cells = [*ablation(flat_gain, seeds=(1, 2), settings=("stl", "mtl", "meta")), *ablation(flat_gain, (1, 2), ("mtl",), updates=4200)]
    cells += ablation(flat_gain, (1, 2), ("meta",), updates=100)
    family = family_of(cells)
    lengths = {b: {arm: {c.updates for c in cs.values()} for arm, cs in t.items()} for b, t in family.budgets.items()}
    assert lengths == {
        "equal_updates": {"stl": {700}, "mtl": {700}, "meta": {700}},
        "equal_flops": {"stl": {700}, "mtl": {4200}, "meta": {100}},
    }
    assert family.flags == ()


def test_lengths_that_nobody_shares_are_taken_as_run_and_flagged() -> None:
    family = family_of([cell("stl", 1, flat_gain), cell("mtl", 1, flat_gain, updates=100)])
    assert list(family.budgets) == ["as run"]
    assert "trainer.updates" in family.flags[0]
    with pytest.raises(ConfigError, match="one length that all arms share"):
        family_of([cell(s, 1, flat_gain, updates=n) for s in ("stl", "mtl") for n in (1, 2)])


def test_outcomes_are_nan_where_there_is_no_cell() -> None:
    table = family_of([cell("stl", 1, flat_gain), cell("mtl", 2, flat_gain)]).budgets["equal_updates"]
    found = outcomes(table, (1, 2), lambda c: float(c.seed))
    assert found["stl"][0] == 1.0
    assert math.isnan(found["stl"][1])
    assert np.isnan(outcomes(table, (1, 2), lambda c: 0.0, ["m3tl"])["m3tl"]).all()


def test_labels() -> None:
    assert arm_label("m3tl", {}) == "m3tl"
    assert arm_label("m3tl", {"fusion": "gated", "balancing": "sum"}) == "m3tl, balancing=sum, fusion=gated"


def test_reading_runs_needs_no_torch() -> None:
    code = "import sys, m3tl_cli.comparison.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
