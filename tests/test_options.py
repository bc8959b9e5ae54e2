"""Every option composes, builds, trains and reports; and a run in a real folder keeps its promises."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from m3tl_cli import experiment
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.events import Event, Measured, Said, Wrote
from m3tl_cli.core.results import Results
from tests.test_house import PARTS, ROOT

TINY = [
    "data.num_scenes=81", "data.size=32", "data.label_size=16", "trainer.updates=2", "trainer.validate_every=2", "trainer.log_every=1",
    "sampler.batch_size=5", "trainer.num_pictures=2", "tracking=off",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(cache))


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*TINY, *overrides])


def choices() -> list[str]:
    """`group=option` for every part that the root config can choose. Kinds of task belong to tasks, inner loops to episodes."""
    found = []
    for option in PARTS:
        group = str(option.parent)
        if group not in ("task", "inner", "tracking"):
            found.append(f"{group}={option.stem}")
    return found


@pytest.mark.parametrize("choice", [*choices(), "paradigm=stl", "paradigm=mtl", "trainer.precision=bf16", "sampler.per_task=true"])
def test_an_option_trains(choice: str, tmp_path: Path) -> None:
    events: list[Event] = []
    results = experiment.run(configured(choice), folder=tmp_path, emit=events.append)
    for task in results.blocks["a"].values():
        assert math.isfinite(task.scores[task.primary].value)
        assert math.isfinite(task.scores[task.primary].trivial)
    losses = [v for e in events if isinstance(e, Measured) for k, v in e.values.items() if k.startswith("train/") and k.endswith("/loss")]
    assert len(losses) == 2 * 5
    assert all(map(math.isfinite, losses))
    assert results.cost.updates == 2


@pytest.mark.parametrize(
    "overrides", [["data.modalities=[lidar]"], ["data.modalities=[rgb]", "fusion=concat"], ["data.missing_modalities=0.5"]]
)
def test_one_modality_or_a_missing_one_trains(overrides: Sequence[str], tmp_path: Path) -> None:
    results = experiment.run(configured(*overrides), folder=tmp_path)
    assert all(math.isfinite(t.scores[t.primary].value) for t in results.blocks["a"].values())


@pytest.mark.parametrize("balancing", ["sum", "static", "uncertainty", "gradnorm", "pcgrad", "mgda", "nash_mtl"])
def test_every_balancer_survives_missing_labels(balancing: str, tmp_path: Path) -> None:
    overrides = [f"balancing={balancing}", "data.missing_labels=0.8", "sampler.batch_size=1", "trainer.updates=8"]
    results = experiment.run(configured(*overrides), folder=tmp_path)
    assert results.cost.updates == 8


def test_a_run_leaves_what_its_readers_need(tmp_path: Path) -> None:
    events: list[Event] = []
    results = experiment.run(configured("tasks=[depth,vehicle_count]", "seed=4"), folder=tmp_path, emit=events.append, overrides=["seed=4"])
    assert Results.read(tmp_path / "results.json") == results
    assert results.tasks == ("depth", "vehicle_count")
    assert (results.seed, results.paradigm, results.cost.networks) == (4, "mtl", 1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"train/depth/loss", "balancing/depth/weight", "optimizer/lr", "val/depth/abs_rel", "test/depth/abs_rel"} <= {
        key for line in lines for key in line["values"]
    }
    assert json.loads((tmp_path / "environment.json").read_text())["command"] == ["m3tl", "train", "seed=4"]
    for name in (
        "config.yaml",
        "overrides.yaml",
        "samples.json",
        "samples.npz",
        "report.html",
        "tables",
        "plots",
        "checkpoints/best.safetensors",
    ):
        assert (tmp_path / name).exists(), name
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert {e.path.name for e in events if isinstance(e, Wrote)} >= {"checkpoints", "report.html", "tables", "plots"}


def test_the_same_seed_gives_the_same_numbers_and_another_seed_does_not(tmp_path: Path) -> None:
    def scores(folder: str, *overrides: str) -> list[float]:
        results = experiment.run(configured("tasks=[depth,normals]", *overrides), folder=tmp_path / folder)
        return [s.value for t in results.blocks["a"].values() for s in t.scores.values()]

    first = scores("first")
    assert scores("second") == first
    assert scores("other", "seed=2") != first


def test_the_log_says_what_was_loaded(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_model

    save_model(timm.create_model("resnet18", num_classes=0), str(tmp_path / "resnet18.safetensors"))
    events: list[Event] = []
    weights = [f"encoder.image.weights={tmp_path / 'resnet18.safetensors'}", "encoder.image.norm=model", "paradigm=stl"]
    experiment.run(configured("encoder/image=timm", "tasks=[depth,normals]", *weights), folder=tmp_path / "run", emit=events.append)
    said = [e.text for e in events if isinstance(e, Said) and "resnet18" in e.text]
    assert len(said) == 1, "once, though two networks loaded it"
    assert "loaded" in said[0]


def test_a_description_needs_no_data(cache: Path) -> None:
    before = sorted(cache.rglob("*"))
    found = experiment.describe(configured("data.num_scenes=500", "sharing=cross_stitch"))
    assert sorted(cache.rglob("*")) == before
    assert found["networks"] == 1
    shared = {m["module"]: m["tasks"] for m in found["modules"]}
    assert len(shared["encoder.shared.rgb"]) == 5
    assert shared["head.depth"] == ["depth"]
    assert experiment.describe(configured("paradigm=stl"))["networks"] == 5


def test_samples_are_drawn_with_their_labels() -> None:
    gallery = experiment.draw_samples(configured(), 3)
    assert gallery.columns[:3] == ["rgb", "lidar", "segmentation: label"]
    assert len(gallery.rows) == 3
    assert all(p.dtype == "uint8" and p.shape[2] == 3 for p in gallery.pictures.values())


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["tasks=[depth,length]"], ConfigError, "length"),
        (["trainer.device=cuda:9"], ConfigError, "device of this machine"),
        (["sampler.batch_size=5000"], DataError, "batch_size"),
        (["encoder.image=null"], ConfigError, "rgb"),
        (["fusion._target_=m3tl_cli.scheduler.cosine.Cosine"], ConfigError, "must"),
    ],
)
def test_what_cannot_run_is_refused_in_words(overrides: Sequence[str], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        experiment.run(configured(*overrides), folder=tmp_path)
