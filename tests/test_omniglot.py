"""The recipes of class episodes: each composes and trains on classes drawn here; on Omniglot itself one learns what pixels do not say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from m3tl_cli import experiment
from m3tl_cli.core.results import Results
from tests.test_house import ROOT

RECIPES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("omniglot*.yaml"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Path]:
    """Six classes of four images in one alphabet, and two official runs of two classes."""
    random = np.random.default_rng(0)

    def draw(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)

    for label in range(6):
        for image in range(4):
            draw(tmp_path / "images" / "Greek" / f"character{label}" / f"{image}.png")
    for run in ("run01", "run02"):
        for item in ("01", "02"):
            draw(tmp_path / "runs" / run / "training" / f"class{item}.png")
            draw(tmp_path / "runs" / run / "test" / f"item{item}.png")
        table = "".join(f"{run}/test/item{i}.png {run}/training/class{c}.png\n" for i, c in (("01", "02"), ("02", "01")))
        (tmp_path / "runs" / run / "class_labels.txt").write_text(table)
    return tmp_path / "images", tmp_path / "runs"


def configured(recipe: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[f"experiment={recipe}", "tracking=off", "trainer.num_pictures=0", *overrides])


def at_target(results: Results) -> float:
    """Accuracy of `way` at the target."""
    return results.blocks["b@1"]["way"].scores["accuracy"].value


def test_the_recipes_are_found() -> None:
    assert RECIPES == ["omniglot", "omniglot_maml", "omniglot_protonet"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_is_judged_on_the_runs(recipe: str, drawn: tuple[Path, Path], tmp_path: Path) -> None:
    images, runs = drawn
    small = ["data.num_ways=2", "episodes.num_ways=2", "data.size=16", "data.validation_classes=0.34", "data.rotations=[0]"]
    few = ["episodes.num_query=1", "trainer.updates=2", "trainer.validate_every=2", "target.num_validation=1", "target.num_query=2"]
    even = ["data.fractions={train: 0.5, val: 0.25, test: 0.25}"]
    cfg = configured(recipe, f"data.folders=[{images}]", f"data.runs={runs}", *small, *few, *even)
    results = experiment.run(cfg, folder=tmp_path / "run")
    assert results.cost.updates == 2
    assert math.isfinite(at_target(results))
    assert at_target(results) in {0.0, 0.25, 0.5, 0.75, 1.0}, "two runs of two queries"


@pytest.mark.slow
def test_a_hundred_episodes_of_prototypes_leave_pixels_behind(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shared_data / "omniglot").is_dir():
        pytest.skip(f"no Omniglot at {shared_data / 'omniglot'}")
    monkeypatch.setenv("M3TL_SHARED_DATA", str(shared_data))
    results = experiment.run(configured("omniglot_protonet", "trainer.updates=100"), folder=tmp_path / "run")
    # The nearest neighbour by pixels is right in 22.8 % of the 400 trials; these 100 episodes reached 60.5 %.
    assert at_target(results) > 0.45
