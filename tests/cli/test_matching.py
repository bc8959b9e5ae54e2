from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3tl_cli.cli.design import Ablate, Arm, Design
from m3tl_cli.cli.matching import (
    Flops,
    changed_updates,
    counted,
    estimates,
    known_flops,
    matched_updates,
    past_runs,
    pilots,
)
from m3tl_cli.cli.status import Status
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import Cost, Results, StageCost


def config(setting: str = "stl", **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "seed": 1,
        "name": "x",
        "paradigm": {"name": setting, "pretrain": setting == "m3tl"},
        "trainer": {"updates": 100, "validate_every": 50, "clip": 5.0},
        "transfer": {"source": {"updates": 300}},
        "target": {"num_shots": [1, 5]},
    }
    for key, value in changes.items():
        node, rest = key.split("__")
        found[node][rest] = value
    return found


def results(*stages: StageCost, setting: str = "stl") -> Results:
    cost = Cost(1, 1, 1, sum(s.updates for s in stages if s.stage != "pretrain"), 1, 1, 1, 1.0, 0.0, 1)
    return Results(setting, 1, ("depth",), {"a": {}}, cost, stages=stages)


def stage(name: str, updates: int, flops: float) -> StageCost:
    return StageCost(name, updates, 0, updates, updates, 1.0, flops=flops)


def design(*settings: str, **changes: Any) -> Design:
    options = Ablate(None, 1, {}, "equal_flops", 20, "c", 5, 0.02, 0.05, changes.pop("reference", "stl"), "perfect")
    arms = tuple(Arm(s, {}) for s in settings)
    return Design((), (), options, changes.pop("common", ()), arms, (3,), 5)


def test_an_update_costs_what_warm_up_and_training_did_per_update_and_pretraining_stands_beside() -> None:
    stages = (stage("pretrain", 300, 900.0), stage("warm_up", 50, 150.0), stage("train", 50, 1150.0), stage("adapt", 9, 999.0))
    found = counted(results(*stages), config("m3tl"), Path("run"))
    assert found == Flops(13.0, 900.0, "run")  # (150 + 1150) / (50 + 50)
    assert found.of(10) == 1030.0


def test_a_short_pretraining_tells_of_a_long_one() -> None:
    pilot = config("m3tl", transfer__source={"updates": 20})
    found = counted(results(stage("pretrain", 20, 60.0), stage("train", 20, 80.0)), pilot, Path("run"), 300)
    assert found == Flops(4.0, 900.0, "run")


@pytest.mark.parametrize("lacking", ["pretrain", "warm_up", "train"])
def test_a_run_that_did_not_count_its_operations_tells_nothing(lacking: str) -> None:
    stages = [stage(name, 20, 0.0 if name == lacking else 60.0) for name in ("pretrain", "warm_up", "train")]
    assert counted(results(*stages), config("m3tl"), Path("run")) is None


def test_adaptations_that_were_not_counted_are_no_part_of_the_budget() -> None:
    found = counted(results(stage("train", 20, 60.0), stage("adapt", 20, 0.0)), config(), Path("run"))
    assert found == Flops(3.0, 0.0, "run")


def test_a_run_without_an_update_tells_nothing() -> None:
    assert counted(results(stage("adapt", 9, 99.0)), config(), Path("run")) is None


def test_every_arm_does_the_operations_of_the_reference() -> None:
    configs = {s: config(s) for s in ("stl", "mtl", "m3tl")}
    flops = {"stl": Flops(9.0, 0.0, ""), "mtl": Flops(3.0, 0.0, ""), "m3tl": Flops(13.0, 250.0, "")}
    found = matched_updates(design("stl", "mtl", "m3tl"), configs, flops)
    assert found == {"stl": 100, "mtl": 300, "m3tl": 50}  # 900 = 9 * 100 = 3 * 300 = 250 + 13 * 50
    for label, updates in found.items():
        assert flops[label].of(updates) == flops["stl"].of(100)
    assert changed_updates(configs, found) == {"mtl": 300, "m3tl": 50}
    by_mtl = matched_updates(design("stl", "mtl", reference="mtl"), configs, flops)
    assert by_mtl == {"stl": 33, "mtl": 100}


def test_a_pretraining_that_costs_more_than_the_reference_is_refused() -> None:
    flops = {"stl": Flops(3.0, 0.0, ""), "m3tl": Flops(13.0, 299.0, "")}
    with pytest.raises(ConfigError, match="found 300 FLOPs, where an update takes 13 and pretraining 299"):
        matched_updates(design("stl", "m3tl"), {s: config(s) for s in ("stl", "m3tl")}, flops)


def test_a_pilot_is_short_in_every_respect_and_keeps_what_decides_the_cost_of_an_update() -> None:
    configs = {s: config(s) for s in ("stl", "m3tl")}
    common = ("trainer.updates=700", "trainer.clip=1", "target.num_shots=[5]", "tracking=mlflow")
    found = pilots(design("stl", "m3tl", common=common), configs, {"stl": Flops(1, 0, "")})
    assert list(found) == ["01-m3tl"]
    arm, words = found["01-m3tl"]
    assert arm == Arm("m3tl", {})
    assert words == [
        "trainer.clip=1",
        "paradigm=m3tl",
        "trainer.updates=20",
        "trainer.validate_every=20",
        "target.num_shots=[1]",
        "transfer.source.updates=20",
        "tracking=off",
        "seed=3",
    ]


class TestPast:
    def put(self, folder: Path, config: dict[str, Any], state: str = "FINISHED", seconds: float = 8.0, flops: float = 900.0) -> None:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        results(stage("train", 100, flops), setting=config["paradigm"]["name"]).write(folder / "results.json")
        status = Status("FINISHED", 1, "here", 0.0, (), value=0.0, seconds=seconds)
        (folder / "status.json").write_text(json.dumps({**asdict(status), "state": state}))

    def test_only_finished_runs_tell_and_pilots_do_not(self, tmp_path: Path) -> None:
        self.put(tmp_path / "train" / "run", config())
        self.put(tmp_path / "train" / "stopped", config(), state="KILLED")
        self.put(tmp_path / "train" / "x-ablation" / "stl-s1", config("mtl"))
        self.put(tmp_path / "train" / "pilot" / "00-stl", config())
        (tmp_path / "train" / "x-ablation" / "broken").mkdir()
        (tmp_path / "train" / "x-ablation" / "broken" / "status.json").write_text("{")
        assert {run.folder.name for run in past_runs(tmp_path)} == {"run", "stl-s1"}

    def test_another_seed_or_target_tells_the_same_operations_and_another_optimiser_does_not(self, tmp_path: Path) -> None:
        self.put(tmp_path / "train" / "run", config(target__num_shots=[20], trainer__updates=7) | {"seed": 9})
        past = past_runs(tmp_path)
        assert known_flops({"stl": config()}, past)["stl"].per_update == 9.0  # 900 / 100
        assert known_flops({"stl": config(trainer__clip=1.0)}, past) == {}
        assert known_flops({"mtl": config("mtl")}, past).keys() == {"mtl"}  # the same switches under another name

    def test_a_run_from_before_operations_were_counted_is_passed_over(self, tmp_path: Path) -> None:
        self.put(tmp_path / "train" / "old", config(), flops=0.0)
        assert known_flops({"stl": config()}, past_runs(tmp_path)) == {}
        self.put(tmp_path / "train" / "new", config(), flops=700.0)
        assert known_flops({"stl": config()}, past_runs(tmp_path))["stl"].per_update == 7.0

    def test_an_estimate_is_the_mean_of_runs_of_the_same_config_and_protocol(self, tmp_path: Path) -> None:
        self.put(tmp_path / "train" / "one", config() | {"seed": 1}, seconds=8.0)
        self.put(tmp_path / "train" / "two", config() | {"seed": 2}, seconds=12.0)
        past = past_runs(tmp_path)
        assert estimates({"stl": config()}, past) == {"stl": 10.0}
        assert estimates({"stl": config(target__num_shots=[20])}, past) == {}


def test_an_arm_that_makes_no_updates_needs_no_pilot_and_stays_as_it_is_configured() -> None:
    trees = {**config("gradient_boosting"), "estimator": {"_target_": "m3tl_cli.estimator.hist_gradient_boosting.HistGradientBoosting"}}
    configs = {"stl": config(), "mtl": config("mtl"), "gradient_boosting": trees}
    made = design(*configs)
    known = known_flops(configs, [])
    assert set(known) == {"gradient_boosting"}
    assert {arm.label for arm, _ in pilots(made, configs, known).values()} == {"stl", "mtl"}
    flops = known | {"stl": Flops(9.0, 0.0, ""), "mtl": Flops(3.0, 0.0, "")}
    updates = matched_updates(made, configs, flops)
    assert updates == {"stl": 100, "mtl": 300, "gradient_boosting": 100}
    assert changed_updates(configs, updates) == {"mtl": 300}
