"""A run without a network: it leaves what every run leaves, is asked on the same samples as a network, and refuses what it cannot do."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from m3tl_cli import experiment
from m3tl_cli.assembly import Experiment
from m3tl_cli.config.validate import validate
from m3tl_cli.core.contracts import Batch
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Advanced, Event, Measured, silent
from m3tl_cli.core.results import Results
from m3tl_cli.fitted import FittedRun, rows_of
from tests.test_house import ROOT

TREES = "baseline=gradient_boosting"
SHOTS = (2, 30)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four domains of 100 rows: `step` is a step of x0, `deep` 10 times another one, `late` is new; holes in x1."""
    random = np.random.default_rng(0)
    lines = ["place,x0,x1,word,step,deep,late"]
    for place in "abcd":
        for _ in range(100):
            x0, x1 = random.normal(size=2)
            late = f"{3 * (x0 > -0.2) + 0.5}" if place in "cd" else ""
            hole = "" if random.random() < 0.1 else f"{x1:.3f}"
            lines.append(f"{place},{x0:.3f},{hole},{random.choice(['up', 'down'])},{int(x0 > 0.3)},{10 * (x0 > 0) + 0.5:.1f},{late}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path / "t.csv"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["tracking=off", "trainer.updates=2", "trainer.num_pictures=0", *overrides])


def configured(table: Path, *overrides: str) -> DictConfig:
    kinds = {"step": "binary", "deep": "regression", "late": "regression"}
    return composed(
        *("data=table", "fusion=concat", "backbone=identity", "sampler.batch_size=8", f"data.files=[{table}]", "data.domain=place"),
        *("data.modalities={numbers: ['x*'], words: [word]}", f"data.tasks={{{', '.join(f'{k}: {k}' for k in kinds)}}}"),
        f"+data.kinds={{{', '.join(f'{k}: {v}' for k, v in kinds.items())}}}",
        *(f"+task@task.{name}={kind}" for name, kind in kinds.items()),
        *("data.validation_domains=[c]", "data.target_domains=[d]", "target.num_episodes=2", "target.steps=[1,40]", "target.lrs=[]"),
        *(f"target.num_shots=[{','.join(map(str, SHOTS))}]", "target.baselines=[]", *overrides),
    )


def trained(cfg: DictConfig, folder: Path, events: list[Event] | None = None) -> Results:
    return experiment.run(cfg, folder=folder, emit=silent if events is None else events.append)


def trivials(results: Results) -> dict[tuple[str, str, str], float]:
    return {(b, t, m): s.trivial for b, tasks in results.blocks.items() for t, r in tasks.items() for m, s in r.scores.items()}


def test_a_run_on_a_table_with_a_target_meets_the_same_samples_as_a_network(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configured(table, TREES)
    plain = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    assert [str(p) for p in validate({k: v for k, v in plain.items() if k != "hydra"})] == []
    events: list[Event] = []
    found = trained(cfg, tmp_path / "trees", events)
    monkeypatch.setattr(experiment.page, "write", lambda folder: folder)  # the page of the first run was enough
    network = trained(configured(table, "paradigm=stl", "target.steps=[1]"), tmp_path / "network")
    assert set(found.blocks) == {"a", "b@2", "b@30", "c@2", "c@30"} == set(network.blocks)
    assert trivials(found) == trivials(network)
    assert [c.block for c in found.choices] == [c.block for c in network.choices]
    assert (found.paradigm, found.tasks) == ("gradient_boosting", ("step", "deep"))

    # Each task is a step of one column: the trees have it, and at the target thirty shots are more than two.
    reached = {(b, t): r.scores[r.primary].error_reduction for b, tasks in found.blocks.items() for t, r in tasks.items()}
    assert reached["a", "step"] > 0.98
    assert reached["a", "deep"] > 0.9
    assert reached["c@30", "late"] > max(0.7, reached["c@2", "late"])
    assert reached["b@30", "step"] > max(0.7, reached["b@2", "step"])

    # What it cost: no update, no pass, the rows that were fitted.
    rows = 2 * 2 * 70  # two tasks, two domains, seven tenths of a hundred rows
    assert found.cost.labels == rows
    stages = {s.stage: s for s in found.stages}
    assert list(stages) == ["train", "adapt", "evaluate"]
    assert stages["train"].samples == rows
    # Episodes at meta-validation and at the target, for blocks b (two tasks) and c (one).
    assert stages["adapt"].samples == sum(SHOTS) * 3 * (cfg.target.num_validation + 2)
    cost = found.cost
    assert (cost.updates, cost.forward, cost.backward, cost.flops, cost.networks) == (0, 0, 0, 0.0, 2)
    assert 4 <= cost.parameters == cost.trainable <= 2 * 100 * 6

    # What it left, and what the tracker was told.
    assert Results.read(tmp_path / "trees" / "results.json") == found
    assert {"config.yaml", "results.json", "report.html", "metrics.jsonl", "tables"} <= {p.name for p in (tmp_path / "trees").iterdir()}
    told = [e.values for e in events if isinstance(e, Measured)]
    assert told[0]["val/step/auroc"] > 0.98
    assert told[1]["test/step/auroc"] == found.blocks["a"]["step"].scores["auroc"].value
    assert any(isinstance(e, Advanced) and e.what == "adapt" and e.done == e.total for e in events)

    # A run that is entered again has the same scores, and repeats no adaptation.
    record = (tmp_path / "trees" / "adaptations.jsonl").read_text()
    again = experiment.run(cfg, folder=tmp_path / "trees", resume=True)
    assert (again.blocks, again.stages[1].samples) == (found.blocks, stages["adapt"].samples)
    assert (tmp_path / "trees" / "adaptations.jsonl").read_text() == record


def test_the_number_of_rounds_is_the_one_with_the_least_loss_on_validation_rows(table: Path, tmp_path: Path) -> None:
    cfg = configured(table, TREES)
    parts = Experiment.from_config(cfg, lambda data: data.prepare())
    run = FittedRun(parts, tmp_path, silent)
    results = run.results(0.0)
    pool = parts.data.pool("val")
    batch = pool.read(torch.arange(len(pool)))
    used = []
    for task, kind in parts.kinds.items():
        fitted, rounds = run._fitted[task]
        losses = [float(kind.loss(o, batch.targets[task], batch.labelled[task])) for o in fitted.outputs(rows_of(batch), range(1, 101))]
        assert losses[rounds - 1] == min(losses)
        torch.testing.assert_close(run.outputs(batch)[task], fitted.outputs(rows_of(batch), [rounds])[0])
        used.append(rounds)
    assert f"validation chose {min(used)} to {max(used)} rounds" in results.notes[-1]


def test_a_row_has_all_tables_side_by_side_and_no_number_where_a_table_is_missing() -> None:
    inputs: dict[str, Tensor] = {"a": torch.tensor([[1.0, math.nan], [2.0, 3.0]]), "b": torch.tensor([[4.0], [5.0]])}
    present = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    batch = Batch(inputs, {}, present, {}, {}, {}, torch.arange(2), torch.zeros(2))
    np.testing.assert_array_equal(rows_of(batch), np.array([[1, math.nan, 4], [2, 3, math.nan]]))
    assert rows_of(batch).dtype == np.float64


def test_pictures_of_the_report_are_drawn_from_what_was_fitted(table: Path, tmp_path: Path) -> None:
    results = trained(configured(table, TREES, "trainer.num_pictures=3", "data.target_domains=[]"), tmp_path / "run")
    assert set(results.blocks) == {"a"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "step: prediction" in page
    assert "no network: HistGradientBoosting" in page


def test_show_promises_no_network(table: Path) -> None:
    found = experiment.describe(configured(table, TREES))
    assert found["modules"] == []
    assert found["networks"] == 0
    assert [(s["name"], s["updates"]) for s in found["stages"]] == [("pretrain", 0), ("train", 0), ("adapt", 0), ("evaluate", 0)]
    assert "no network" in found["notes"][0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["paradigm=mtl"], "must be stl where an estimator is fitted, each task by itself; found joint on"),
        (["with_target=true"], "`with_target` must be left out"),
        (["start=elsewhere"], "`start` must be left out"),
        (["members=2"], "`members` must be left out"),
        (["target.case=1"], "`case` must be 2 where nothing is handed over"),
    ],
)
def test_what_only_a_network_can_do_is_refused(overrides: list[str], message: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(configured(table, TREES, *overrides), tmp_path / "run")


def test_images_are_refused_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must meet tables alone; found modality `rgb`: image.*baselines=\[") as caught:
        trained(composed(TREES, "data.modalities=[rgb]"), tmp_path / "run")
    assert caught.value.place == "estimator"
    with pytest.raises(ConfigError, match="must meet tables alone"):
        experiment.describe(composed(TREES))


def test_a_wrong_number_of_an_estimator_is_named() -> None:
    cfg = composed(TREES, "estimator.max_iter=0")
    plain = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    assert any("estimator.max_iter" in str(p) for p in validate({k: v for k, v in plain.items() if k != "hydra"}))


@pytest.mark.slow
def test_on_the_minefields_trees_know_more_than_chance(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shared_data / "landmine").is_dir():
        pytest.skip(f"no landmine at {shared_data / 'landmine'}")
    monkeypatch.setitem(os.environ, "M3TL_SHARED_DATA", str(shared_data))
    monkeypatch.setattr(experiment.page, "write", lambda folder: folder)
    results = trained(composed("experiment=landmine", TREES, "data.train_rows=160"), tmp_path / "run")
    area = float(np.mean([r.scores["auroc"].value for r in results.blocks["a"].values()]))
    assert 0.68 < area < 0.76  # .71 over three seeds, .76 for linear models alone; docs/benchmarks.md
