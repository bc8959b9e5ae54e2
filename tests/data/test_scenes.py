"""The generated data as a run sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from m3tl_cli.assembly import Experiment
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.data.scenes import Scenes, assign_domains, match_domains

SMALL: dict[str, Any] = {
    "num_scenes": 60,
    "num_pretrain": 10,
    "size": 16,
    "label_size": 8,
    "num_beams": 2,
    "num_azimuths": 4,
    "modalities": ["rgb", "lidar"],
    "pretrain_domains": [],
    "source_domains": ["urban-clear-day", "suburban-fog-*"],
    "validation_domains": [],
    "target_domains": ["rural-rain-night"],
    "fractions": {"train": 0.6, "val": 0.2, "test": 0.2},
    "missing_labels": 0.0,
    "missing_modalities": 0.0,
    "max_depth": 80.0,
    "seed": 0,
}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(folder))


def _scenes(**changed: Any) -> Scenes:
    data = Scenes(**{**SMALL, **changed})
    data.prepare()
    return data


def test_it_is_made_once_and_says_how_far_it_is() -> None:
    data, told = Scenes(**{**SMALL, "seed": 17}), []
    assert data.prepare(lambda *a: told.append(a))
    assert told[0] == ("drawing scenes", 0, 60)
    assert told[-1] == ("drawing scenes", 60, 60)
    assert not data.prepare()
    assert not Scenes(**{**SMALL, "seed": 17, "modalities": ["lidar"], "missing_labels": 0.5}).prepare()  # the store is the same


def test_one_seed_is_one_store_on_any_number_of_threads(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    one = _scenes(seed=23)
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path))
    monkeypatch.setattr("m3tl_cli.data.scenes.CHUNK", 7)
    torch.set_num_threads(3)
    other = _scenes(seed=23)
    assert torch.get_num_threads() == 3
    files = [sorted(s.pool("train").store.folder.glob("*.npy")) for s in (one, other)]
    assert len(files[0]) == 14
    for a, b in zip(*files, strict=True):
        assert a != b
        assert a.read_bytes() == b.read_bytes()


def test_the_splits_are_balanced_disjoint_and_whole() -> None:
    data = _scenes()
    assert data.domains == ("urban-clear-day", "suburban-fog-day", "suburban-fog-dusk", "suburban-fog-night", "rural-rain-night")
    rows = []
    for at, count in (("source", 4), ("target", 1)):
        for split, size in zip(SPLITS, (7, 3, 2), strict=True):
            pool = data.pool(split, at)  # type: ignore[arg-type]
            assert torch.bincount(pool.domain, minlength=5).tolist() == ([size] * 4 + [0] if at == "source" else [0] * 4 + [size])
            assert len(pool) == size * count
            rows.append(pool.rows)
    assert sorted(torch.cat(rows).tolist()) == list(range(60))


def test_more_scenes_and_other_domains_leave_a_scene_as_it_is() -> None:
    small, large = _scenes(), _scenes(num_scenes=90, source_domains=["suburban-fog-*"], target_domains=["urban-*"])
    first = small.pool("train").store.read("input.rgb", torch.tensor([0]))
    again = large.pool("train").store.read("input.rgb", torch.arange(90))
    assert any(torch.equal(first[0], image) for image in again)


def test_a_batch_is_what_the_contract_says() -> None:
    data = _scenes()
    batch = data.pool("train").read(torch.tensor([0, 5, 5]))
    assert batch.inputs["rgb"].shape == (3, 3, 16, 16)
    assert batch.inputs["rgb"].dtype == torch.float32
    assert 0 <= batch.inputs["rgb"].min() <= batch.inputs["rgb"].max() <= 1
    assert batch.inputs["lidar"].shape == (3, 8, 5)
    shapes = {name: tuple(t.shape) for name, t in batch.targets.items()}
    assert shapes == {
        "segmentation": (3, 8, 8),
        "depth": (3, 8, 8),
        "normals": (3, 3, 8, 8),
        "vehicle_count": (3,),
        "vehicle_distance": (3, 1),
        "heading": (3, 1),
        **dict.fromkeys(("edges", "drivable", "height", "inverse_depth"), (3, 8, 8)),
    }
    assert all(batch.targets[name].dtype == torch.int64 for name in ("segmentation", "vehicle_count", "edges", "drivable"))
    assert set(batch.geometry) == {"intrinsics", "lidar.position", "lidar.valid", "lidar.extrinsics"}
    assert data.modalities["lidar"].length == 8
    assert data.modalities["rgb"].size == data.modalities["lidar"].size == (16, 16)


def test_distance_is_labelled_where_a_vehicle_counts() -> None:
    pool = _scenes().pool("train")
    batch = pool.read(torch.arange(len(pool)))
    assert torch.equal(batch.labelled["vehicle_distance"], batch.targets["vehicle_count"] > 0)
    assert torch.equal(batch.targets["vehicle_distance"][:, 0].isfinite(), batch.labelled["vehicle_distance"])
    assert batch.labelled["depth"].all()


def test_statistics_are_those_of_the_labelled_source_training_samples() -> None:
    plain = Scenes(**SMALL)
    assert plain.tasks["depth"].mean == ()
    data = _scenes()
    pool = data.pool("train")
    batch = pool.read(torch.arange(len(pool)))
    for name in ("depth", "vehicle_distance", "heading", "height", "inverse_depth"):
        values = batch.targets[name][batch.targets[name].isfinite()].double()
        assert data.tasks[name].mean == pytest.approx([values.mean().item()])
        assert data.tasks[name].std == pytest.approx([values.std(correction=0).item()])
    assert data.tasks["segmentation"].mean == data.tasks["edges"].mean == ()
    assert {name: task.kind for name, task in data.tasks.items()} == {
        "segmentation": "segmentation",
        "depth": "depth",
        "normals": "normals",
        "vehicle_count": "multiclass",
        "vehicle_distance": "regression",
        "heading": "regression",
        "edges": "binary_map",
        "drivable": "binary_map",
        "height": "regression_map",
        "inverse_depth": "depth",
    }


def test_tasks_of_the_target_stage_are_labelled_everywhere_and_trained_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    new = ("edges", "drivable", "height", "inverse_depth")
    data = _scenes()
    assert [name for name, task in data.tasks.items() if task.at == ("target",)] == list(new)
    assert all(data.pool("test").labelled[name].all() for name in new)
    monkeypatch.setattr(Scenes, "prepare", lambda *_: pytest.fail("the choice of tasks reads no data"))
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        all_seen, three = (compose("train", overrides=["tracking=off", *o]) for o in ([], ["tasks=[height,depth,edges]"]))
    assert list(all_seen.task) == list(data.tasks)
    seen = ["segmentation", "depth", "normals", "vehicle_count", "vehicle_distance", "heading"]
    assert list(Experiment.from_config(all_seen).tasks) == seen
    assert list(Experiment.from_config(three).tasks) == ["height", "depth", "edges"]


def test_blocks_have_their_own_domains_and_tasks() -> None:
    data = _scenes(validation_domains=["suburban-fog-night"], pretrain_domains=["shapes"])
    assert data.blocks == {
        "pretrain": ("shapes",),
        "source": ("urban-clear-day", "suburban-fog-day", "suburban-fog-dusk"),
        "validation": ("suburban-fog-night",),
        "target": ("rural-rain-night",),
    }
    rows = [data.pool(split, at).rows for at in ("source", "validation", "target") for split in SPLITS]  # type: ignore[arg-type]
    assert sorted(torch.cat(rows).tolist()) == list(range(60))
    assert data.pool("train", "validation").domain.unique().tolist() == [data.domains.index("suburban-fog-night")]
    places = {name: task.at for name, task in data.tasks.items()}
    assert places["depth"] == ("pretrain", "source", "validation", "target")
    assert places["heading"] == ("source", "validation", "target")
    assert {places[name] for name in ("edges", "drivable", "height", "inverse_depth")} == {("validation", "target")}
    for at in ("validation", "target"):
        pool = data.pool("test", at)  # type: ignore[arg-type]
        assert all(bool(pool.labelled[name].any()) for name, blocks in places.items() if at in blocks)


def test_the_source_gives_way_to_validation_unless_it_names_the_domain() -> None:
    def blocks(source: list[str], validation: list[str]) -> tuple[str, ...]:
        return assign_domains({"pretrain": [], "source": source, "validation": validation, "target": []})["source"]

    assert blocks(["suburban-fog-*"], ["*-night"]) == ("suburban-fog-day", "suburban-fog-dusk")
    with pytest.raises(ConfigError, match="`validation_domains` must be apart from `source_domains`; found urban-fog-day in both"):
        blocks(["urban-fog-*", "urban-fog-day"], ["urban-fog-*"])
    with pytest.raises(ConfigError, match="`source_domains` must name a domain; found only validation domains"):
        blocks(["urban-fog-*"], ["urban-*"])


def test_scenes_for_pretraining_are_made_when_asked_for_in_a_store_of_their_own() -> None:
    data, told = Scenes(**{**SMALL, "seed": 31, "pretrain_domains": ["shapes"]}), []
    assert data.prepare()
    with pytest.raises(DataError, match="scenes for pretraining must be prepared"):
        data.pool("train", "pretrain")
    assert data.prepare(lambda *a: told.append(a), pretrain=True)  # the others stay
    assert told == [("drawing scenes", 0, 10), ("drawing scenes", 10, 10)]
    assert not data.prepare(pretrain=True)
    pool = data.pool("train", "pretrain")
    assert [len(data.pool(split, "pretrain")) for split in SPLITS] == [6, 2, 2]  # type: ignore[arg-type]
    assert pool.domain.unique().tolist() == [data.domains.index("shapes")]
    assert pool.store.folder != data.pool("train").store.folder
    assert Scenes(**{**SMALL, "seed": 31, "pretrain_domains": ["shapes"], "num_pretrain": 12}).prepare(pretrain=True)
    assert not Scenes(**{**SMALL, "seed": 31}).prepare(pretrain=True)  # nothing to pretrain on, and the runs' store is there


def test_every_task_for_pretraining_has_something_to_learn_from_shapes() -> None:
    data = Scenes(**{**SMALL, "num_pretrain": 30, "pretrain_domains": ["shapes"]})
    data.prepare(pretrain=True)
    assert set(data.pretrain_tasks) == {name for name, task in data.tasks.items() if "pretrain" in task.at}
    assert Scenes(**SMALL).pretrain_tasks == ()
    pool = data.pool("train", "pretrain")
    batch = pool.read(torch.arange(len(pool)))
    for name in data.pretrain_tasks:
        assert pool.labelled[name].all()
        values = batch.targets[name].double()
        assert values[values.isfinite()].std() > 0.1
    classes = torch.bincount(batch.targets["segmentation"].flatten(), minlength=9)
    assert (classes[[0, 4, 5, 6, 7, 8]] > 0).all()
    assert classes[[1, 2, 3]].sum() == 0
    assert not batch.targets["drivable"].any()  # no road, so neither this nor a heading is a task here
    assert not pool.labelled["heading"].any()


def test_heading_varies_as_much_within_a_domain_as_over_all() -> None:
    data = _scenes(num_scenes=400, size=8, label_size=2)
    pool = data.pool("train")
    heading = pool.read(torch.arange(len(pool)), ["heading"]).targets["heading"][:, 0]
    within = [heading[pool.domain == d].std().item() for d in pool.domain.unique()]
    assert min(within) > 0.8 * heading.std().item()
    assert heading.std().item() == pytest.approx(48 / 12**0.5, rel=0.1)  # uniform from -24 to 24 degrees


def test_reading_before_preparing_is_refused() -> None:
    with pytest.raises(DataError, match="must be prepared"):
        Scenes(**SMALL).pool("train")


def test_labels_go_missing_in_training_only_the_same_ones_each_time() -> None:
    data, again = _scenes(missing_labels=0.5), _scenes(missing_labels=0.5)
    for at in ("source", "target"):
        train, full = data.pool("train", at), _scenes().pool("train", at)  # type: ignore[arg-type]
        for name, mask in train.labelled.items():
            assert torch.equal(mask, again.pool("train", at).labelled[name])  # type: ignore[arg-type]
            assert mask.sum() == full.labelled[name].sum() - round(0.5 * int(full.labelled[name].sum()))
            assert not (mask & ~full.labelled[name]).any()
        assert data.pool("test", at).labelled["depth"].all()  # type: ignore[arg-type]
    masks = data.pool("train").labelled
    assert not torch.equal(masks["depth"], masks["normals"])


def test_modalities_go_missing_but_never_all_of_a_sample() -> None:
    data = _scenes(missing_modalities=0.5)
    for split in SPLITS:
        present = torch.stack(list(data.pool(split).present.values()))  # type: ignore[arg-type]
        assert (present.sum(0) >= 1).all()
        assert (present.sum(0) == 1).sum() == round(0.5 * present.shape[1])
    batch = data.pool("train").read(torch.arange(28))
    assert not batch.present["rgb"].all()
    assert not batch.present["lidar"].all()
    assert not batch.inputs["rgb"][~batch.present["rgb"]].any()
    assert not batch.geometry["lidar.valid"][~batch.present["lidar"]].any()


def test_modalities_are_read_in_config_order() -> None:
    assert list(_scenes(modalities=["lidar", "rgb"]).modalities) == ["lidar", "rgb"]
    batch = _scenes(modalities=["rgb"]).pool("val").read(torch.tensor([0]))
    assert set(batch.inputs) == {"rgb"}
    assert set(batch.geometry) == {"intrinsics"}


def test_shapes_are_a_domain_with_the_same_labels() -> None:
    data = _scenes(source_domains=["shapes"], target_domains=[], num_scenes=10)
    assert data.domains == ("shapes",)
    assert data.tasks["depth"].at == ("source",)
    assert len(data.pool("train")) == 6
    with pytest.raises(DataError, match="`target_domains` must name a domain"):
        data.pool("train", "target")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modalities": ["rgb", "radar"]}, "`modalities` must be of rgb, lidar; found 'radar'"),
        ({"modalities": []}, "`modalities` must name"),
        ({"modalities": ["rgb", "rgb"]}, "`modalities` must name each modality once"),
        ({"target_domains": ["urban-clear-*"]}, "`target_domains` must be apart from `source_domains`; found urban-clear-day in both"),
        ({"validation_domains": ["rural-rain-*"]}, "`target_domains` must be apart from `validation_domains`; found rural-rain-night"),
        ({"pretrain_domains": ["rural-rain-*"]}, "`target_domains` must be apart from `pretrain_domains`; found rural-rain-night"),
        ({"validation_domains": ["urban-clear-day"]}, "`validation_domains` must be apart from `source_domains`"),
        ({"target_domains": ["rurl-*"]}, r"`target_domains` must match a domain.*found 'rurl-\*'.*rural"),
        ({"source_domains": ["urban-clear-dy"]}, "near it: urban-clear-day"),
        ({"source_domains": []}, "`source_domains` must name a domain"),
        ({"num_scenes": 14}, "`num_scenes` must be at least 15, 3 for each of 5 domains; found 14"),
        ({"pretrain_domains": ["rural-fog-*"], "num_pretrain": 8}, "`num_pretrain` must be at least 9, 3 for each of 3 domains; found 8"),
        ({"label_size": 5}, "`label_size` must divide `size` = 16; found 5"),
        ({"fractions": {"train": 0.9, "val": 0.2, "test": 0.1}}, "`fractions` must be above 0 and sum to 1"),
        ({"modalities": ["rgb"], "missing_modalities": 0.1}, "`missing_modalities` must be 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenes(**{**SMALL, **wrong})


def test_patterns_name_domains_in_the_program_s_order() -> None:
    assert match_domains(["*-fog-night", "urban-fog-night"], "source_domains") == (
        "urban-fog-night",
        "suburban-fog-night",
        "rural-fog-night",
    )
    assert len(match_domains(["urban-*", "suburban-*"], "source_domains")) == 18


def test_the_option_builds_the_default_data() -> None:
    option = yaml.safe_load((Path(__file__).parents[2] / "conf" / "data" / "scenes.yaml").read_text())
    kinds = [next(iter(d.items())) for d in option.pop("defaults")[:-1]]
    assert option.pop("_target_") == "m3tl_cli.data.scenes.Scenes"
    data = Scenes(**option)
    assert len(data.domains) == 28
    assert {block: len(domains) for block, domains in data.blocks.items()} == {"pretrain": 1, "source": 15, "validation": 3, "target": 9}
    seen = [name for name, task in data.tasks.items() if "source" in task.at]
    assert len(seen) == 6
    assert len(data.tasks) == 10
    assert {key.rpartition(".")[2]: kind for key, kind in kinds} == {name: task.kind for name, task in data.tasks.items()}
