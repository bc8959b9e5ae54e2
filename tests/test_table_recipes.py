"""The recipes on tables: each composes, holds in the check of configs and trains on files drawn here; on the minefields sharing helps."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from scipy.io import savemat

from m3tl_cli import experiment
from m3tl_cli.config.validate import validate
from m3tl_cli.core.results import Results
from tests.data.test_columns import cells
from tests.test_house import ROOT

LANDMINE = ("landmine", "landmine_hard")
STL, MTL, POOLED, BOOSTING = "paradigm=stl", "paradigm=mtl", "baseline=pooled", "baseline=gradient_boosting"
LIKE_TASKS = [
    ("landmine", STL, 29), ("landmine", MTL, 29), ("landmine_hard", MTL, 1), ("landmine", POOLED, 1), ("landmine", BOOSTING, 29),
    pytest.param("school", POOLED, 1, marks=pytest.mark.slow),
    pytest.param("school", STL, 139, marks=pytest.mark.slow), pytest.param("school", MTL, 139, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))


def configured(recipe: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[f"experiment={recipe}", "tracking=off", "trainer.updates=2", *overrides])


def trained(cfg: DictConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setattr(experiment.page, "write", lambda folder: folder)  # a plot for each of 139 tasks takes half a minute
    return experiment.run(cfg, folder=folder)


def checked(cfg: DictConfig) -> None:
    plain = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    assert [str(p) for p in validate({k: v for k, v in plain.items() if k != "hydra"})] == []


@pytest.mark.parametrize(("recipe", "word", "networks"), LIKE_TASKS)
def test_a_recipe_of_like_tasks_trains(recipe: str, word: str, networks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    number, columns = (29, 9) if recipe in LANDMINE else (139, 28)
    x = [random.normal(size=(12, columns)) for _ in range(number)]
    if recipe in LANDMINE:
        savemat(tmp_path / "t.mat", {"feature": cells(*x), "label": cells(*(random.integers(0, 2, (12, 1)) for _ in x))})
    else:
        savemat(tmp_path / "t.mat", {"X": cells(*x), "Y": cells(*(random.integers(0, 70, (12, 1)) for _ in x))})
    cfg = configured(recipe, word, f"data.files=[{tmp_path / 't.mat'}]", "sampler.batch_size=100")
    if recipe in LANDMINE:
        cfg.data.train_rows = 6
    checked(cfg)
    results = trained(cfg, tmp_path / "run", monkeypatch)
    assert len(results.tasks) == number
    assert results.cost.networks == networks
    assert all(math.isfinite(r.scores[r.primary].value) for r in results.blocks["a"].values())


@pytest.mark.parametrize("paradigm", ["stl", "mtl"])
def test_the_recipe_of_mice_trains_on_every_fold(paradigm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for name, columns in (("gene", 6), ("lipid", 3)):
        rows = [",".join(f"c{i}" for i in range(columns)), *(",".join(f"{v:.2f}" for v in random.normal(size=columns)) for _ in range(40))]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
    (tmp_path / "diet.csv").write_text("diet\n" + "\n".join(["fish", "sun", "lin", "ref", "coc"] * 8))
    (tmp_path / "genotype.csv").write_text("genotype\n" + "\n".join(["wt"] * 20 + ["ppar"] * 20))
    files = ",".join(str(tmp_path / f"{n}.csv") for n in ("gene", "lipid", "diet", "genotype"))
    for fold in range(5):
        cfg = configured("nutrimouse", f"paradigm={paradigm}", f"data.files=[{files}]", f"data.fold={fold}")
        checked(cfg)
        results = trained(cfg, tmp_path / f"run{fold}", monkeypatch)
        assert set(results.blocks["a"]) == {"diet", "genotype"}
        accuracy = results.blocks["a"]["diet"].scores["accuracy"].value
        assert accuracy * 8 == pytest.approx(round(accuracy * 8), abs=1e-5), "eight test mice"


@pytest.mark.slow
def test_on_the_minefields_models_that_share_beat_models_alone(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shared_data / "landmine").is_dir():
        pytest.skip(f"no landmine at {shared_data / 'landmine'}")
    monkeypatch.setitem(os.environ, "M3TL_SHARED_DATA", str(shared_data))

    def area(word: str) -> float:
        few = ["trainer.updates=60", "data.train_rows=20", "sampler.batch_size=580", word]
        results = trained(configured("landmine", *few), tmp_path / word, monkeypatch)
        return float(np.mean([r.scores["auroc"].value for r in results.blocks["a"].values()]))

    alone = area(STL)
    # Over ten seeds: .61 alone, .72 pooled, .73 pulled together; docs/benchmarks.md.
    assert area(MTL) > alone + 0.03
    assert area(POOLED) > alone + 0.03
