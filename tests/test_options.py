"""Every option composes, builds, trains and reports; and a run in a real folder keeps its promises."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from m3tl_cli import experiment
from m3tl_cli.assembly import Experiment
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.events import Advanced, Event, Measured, Said, StageStarted, Wrote
from m3tl_cli.core.results import Results
from m3tl_cli.data.store import StorePool
from tests.test_house import PARTS, ROOT

pytestmark = pytest.mark.usefixtures("own_cache", "undrawn")

TINY = [
    "data.num_scenes=81", "data.size=32", "data.label_size=16", "trainer.updates=2", "trainer.validate_every=2", "trainer.log_every=1",
    "sampler.batch_size=5", "trainer.num_pictures=2", "tracking=off", "new_tasks=[edges]",
    "target.num_shots=[1]", "target.num_episodes=1", "target.num_validation=0", "target.num_query=1", "target.lrs=[0.01]",
    "target.inner=false", "target.steps=[1]", "target.baselines=[]",
]  # fmt: skip
EPISODES = ["data.num_scenes=216", "episodes.num_shots=2", "episodes.num_query=2", "tasks=[depth,vehicle_count,segmentation]"]
PRETRAINING = ["data.num_pretrain=20", "transfer.source.updates=2"]
NEEDS = {  # what a group's options need beside to be of any use
    "episodes": ["paradigm=mtl_meta", *EPISODES],
    "inner": ["paradigm=mtl_meta", *EPISODES, "target.inner=true"],
    "transfer/handover": ["paradigm=mtl_transfer", *PRETRAINING],
    "fusion=single": ["data.modalities=[rgb]"],
}
ELSEWHERE = (
    "task",
    "tracking",
    "transfer/source",
    "data",
    "episodes/n_way",
    "sharing/pooled",
    "estimator",
)  # they need files, or data of another sort
PARADIGMS = sorted(path.stem for path in (ROOT / "conf" / "paradigm").glob("*.yaml"))
QUICK = {"stl", "m3tl"}  # no switch and all of them; the others with the slow tests


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*TINY, *overrides])


def choices() -> list[str]:
    """`group=option` for every part that the root config can choose and does not choose by itself. Kinds of task belong to tasks."""
    found = [(str(option.parent), option.stem) for option in PARTS]
    asked = [f"{group}={stem}" for group, stem in found if group not in ELSEWHERE and f"{group}/{stem}" not in ELSEWHERE]
    return [choice for choice in asked if choice not in chosen()]


def chosen(file: str = "train", group: str = "") -> set[str]:
    """`group=option` of everything that the root config chooses by itself, through the bundles that it names."""
    entries = yaml.safe_load((ROOT / "conf" / group / f"{file}.yaml").read_text()).get("defaults", [])
    found: set[str] = set()
    for entry in (e for e in entries if isinstance(e, dict)):
        [(key, option)] = entry.items()
        place = f"{group}/{key}".lstrip("/")
        if option and (ROOT / "conf" / place / f"{option}.yaml").is_file():
            found |= {f"{place}={option}"} | chosen(option, place)
    return found


def quick(choice: str) -> bool:
    """Whether an option is among those that `make test` trains: one or two of each group, unlike one another; `make check` trains all."""
    group, _, option = choice.partition("=")
    return option in {"episodes": {"hard_task"}, "inner": {"reptile", "scale_shift"}, "balancing": {"pcgrad", "uncertainty"}}.get(
        group, {option}
    )


def test_what_the_root_config_chooses_is_known() -> None:
    assert {
        "fusion=gated",
        "encoder=small",
        "encoder/image=conv",
        "heads/dense=fcn",
        "transfer/handover=fine_tune",
        "inner=maml",
    } <= chosen()
    assert not {"fusion=concat", "inner=anil", "encoder/image=timm"} & chosen()


@pytest.mark.parametrize(
    "choice",
    [
        c if quick(c) else pytest.param(c, marks=pytest.mark.slow)
        for c in ("seed=1", *choices(), "trainer.precision=bf16", "sampler.per_task=true")
    ],
)
def test_an_option_trains(choice: str, tmp_path: Path) -> None:
    events: list[Event] = []
    cfg = configured(*NEEDS.get(choice.partition("=")[0], []), *NEEDS.get(choice, []), choice)
    results = experiment.run(cfg, folder=tmp_path, emit=events.append)
    for block in ("a", "b@1", "c@1"):
        for task in results.blocks[block].values():
            assert math.isfinite(task.scores[task.primary].value) or block != "a"
            assert math.isfinite(task.scores[task.primary].trivial) or block != "a"
    losses = [v for e in events if isinstance(e, Measured) for k, v in e.values.items() if k.startswith("train/") and k.endswith("/loss")]
    assert losses
    assert all(map(math.isfinite, losses))
    assert results.cost.updates == 2


@pytest.mark.parametrize("paradigm", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PARADIGMS])
def test_a_paradigm_walks_its_stages_and_says_what_it_found(paradigm: str, tmp_path: Path) -> None:
    events: list[Event] = []
    asked = ["target.baselines=[ridge,random,scratch]", "target.inner=true", "target.num_validation=1", "target.source_domains=true"]
    cfg = configured(f"paradigm={paradigm}", *EPISODES, *PRETRAINING, *asked)
    results = experiment.run(cfg, folder=tmp_path, emit=events.append)
    switches = cfg.paradigm
    assert set(results.blocks) >= {"a", "b@1", "c@1", "d@1"}
    assert ("a@0" in results.blocks) == switches.bilevel
    assert set(results.baselines) == {"ridge head", "random trunk + ridge", "scratch"}
    assert {c.block for c in results.choices} == {"b@1", "c@1", "d@1"}
    assert {c.optimizer for c in results.curves if c.block == "b"} == {"AdamW 0.01", "inner loop"}
    stages = [c.stage for c in results.stages]
    assert stages == [
        *(["pretrain"] if switches.pretrain else []),
        *(["warm_up"] if switches.bilevel else []),
        "train",
        "adapt",
        "evaluate",
    ]
    assert results.cost.updates == 2
    assert results.cost.networks == (1 if switches.joint or switches.bilevel else 3)
    assert bool(results.sources) == (switches.handover and not switches.joint and not switches.bilevel)
    skipped = {e.stage: e.skipped for e in events if isinstance(e, StageStarted)}
    assert ("off" in skipped["pretrain"]) != switches.pretrain
    again = experiment.run(cfg, folder=tmp_path / "again")
    assert again.blocks == results.blocks
    assert Results.read(tmp_path / "results.json") == results


def test_corners_meet_the_same_target_episodes(tmp_path: Path) -> None:
    """The trivial predictor sees the query alone: equal scores mean equal episodes."""
    found = [experiment.run(configured(f"paradigm={p}"), folder=tmp_path / p).blocks for p in ("stl", "mtl_handover")]
    for block in ("b@1", "c@1"):
        trivial = [{(t, m): s.trivial for t, r in blocks[block].items() for m, s in r.scores.items()} for blocks in found]
        assert str(trivial[0]) == str(trivial[1])


def test_case_1_changes_no_tensor_and_takes_no_step(tmp_path: Path) -> None:
    results = experiment.run(configured("paradigm=mtl_handover", "target.case=1"), folder=tmp_path)
    adapt = next(c for c in results.stages if c.stage == "adapt")
    assert (adapt.updates, adapt.backward) == (0, 0)
    assert set(results.blocks) == {"a", "b@1", "c@1"}, "new tasks by the probe"
    assert set(
        experiment.run(configured("paradigm=mtl_handover", "target.case=1", "target.probe=false"), folder=tmp_path / "n").blocks
    ) == {
        "a",
        "b@1",
    }
    with pytest.raises(ConfigError, match="case"):
        experiment.run(configured("paradigm=stl", "target.case=1"), folder=tmp_path / "stl")


def test_a_finished_run_takes_a_new_task(tmp_path: Path) -> None:
    first = experiment.run(configured("paradigm=mtl_handover", "tasks=[depth,normals]"), folder=tmp_path / "run")
    before = (tmp_path / "run" / "checkpoints" / "best.safetensors").read_bytes()
    added = experiment.run(
        configured("paradigm=mtl_handover", "tasks=[depth,normals]", "new_tasks=[height]", f"start={tmp_path / 'run'}"),
        folder=tmp_path / "added",
    )
    assert set(added.blocks) == {"b@1", "c@1", "old@1"}
    assert set(added.blocks["c@1"]) == {"height"}
    assert added.blocks["b@1"] == first.blocks["b@1"], "the same network, the same episodes"
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="network"):
        experiment.run(configured("paradigm=mtl_handover", "backbone.width=32", f"start={tmp_path / 'run'}"), folder=tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["warm_up", "train", "adapt"])
def test_a_run_that_is_killed_in_any_stage_ends_as_if_it_was_not(stage: str, tmp_path: Path) -> None:
    overrides = ["paradigm=m3tl", *EPISODES, *PRETRAINING, "trainer.updates=6", "trainer.warm_up=0.5", "trainer.checkpoint_every=1"]
    whole = experiment.run(configured(*overrides), folder=tmp_path / "whole")

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.what == stage and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(configured(*overrides), folder=tmp_path / "killed", emit=kill)
    events: list[Event] = []
    again = experiment.run(configured(*overrides), folder=tmp_path / "killed", emit=events.append, resume=True)
    assert again.blocks == whole.blocks
    assert str(again.curves) == str(whole.curves)
    seconds: dict[str, Any] = {"seconds": 0.0, "cached": True}
    assert [replace(c, **seconds) for c in again.stages] == [replace(c, **seconds) for c in whole.stages]
    started = [e.stage for e in events if isinstance(e, StageStarted) and not e.skipped]
    assert ("warm_up" in started) == (stage == "warm_up"), "what was finished is not repeated"


@pytest.mark.parametrize("paradigm", ["mtl_handover", "transfer"])
def test_the_source_is_not_read_while_a_target_adapts(paradigm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [""]
    read: dict[str, set[int]] = {}
    plain = StorePool.read

    def watched(self: StorePool, index: Any, tasks: Any = None) -> Any:
        batch = plain(self, index, tasks)
        read.setdefault(now[0], set()).update(batch.domain.tolist())
        return batch

    def listen(event: Event) -> None:
        if isinstance(event, StageStarted):
            now[0] = event.stage

    monkeypatch.setattr(StorePool, "read", watched)
    cfg = configured(f"paradigm={paradigm}", *PRETRAINING, "target.num_validation=1", "target.baselines=[ridge]", "tasks=[depth,normals]")
    experiment.run(cfg, folder=tmp_path, emit=listen)
    data = Experiment.from_config(cfg).data
    source = {i for i, name in enumerate(data.domains) if name in data.blocks["source"]}
    assert read["train"] & source
    assert read["adapt"]
    assert not read["adapt"] & source


def test_pretrained_encoders_are_trained_once(tmp_path: Path) -> None:
    overrides = ["paradigm=transfer", "tasks=[depth,normals]", *PRETRAINING, "transfer.source.updates=3"]
    first = experiment.run(configured(*overrides), folder=tmp_path / "first")
    second = experiment.run(configured(*overrides), folder=tmp_path / "second")
    assert [s.cached for s in first.stages if s.stage == "pretrain"] == [False]
    assert [s.cached for s in second.stages if s.stage == "pretrain"] == [True]
    assert second.blocks == first.blocks


@pytest.mark.parametrize(
    "overrides", [["data.modalities=[lidar]"], ["data.modalities=[rgb]", "fusion=concat"], ["data.missing_modalities=0.5"]]
)
def test_one_modality_or_a_missing_one_trains(overrides: Sequence[str], tmp_path: Path) -> None:
    results = experiment.run(configured(*overrides), folder=tmp_path)
    assert all(math.isfinite(t.scores[t.primary].value) for t in results.blocks["a"].values())


@pytest.mark.parametrize(
    "balancing",
    [*("uncertainty", "pcgrad"), *(pytest.param(b, marks=pytest.mark.slow) for b in ("sum", "static", "gradnorm", "mgda", "nash_mtl"))],
)
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
    assert len(shared["encoder.shared.rgb"]) == 6
    assert shared["head.depth"] == ["depth"]
    assert experiment.describe(configured("paradigm=stl"))["networks"] == 6


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


def test_joint_retraining_learns_from_the_targets_labels_and_is_scored_on_the_same_episodes(tmp_path: Path) -> None:
    found, other = (experiment.run(configured(*o), folder=tmp_path / o[0]) for o in (["baseline=joint_retraining"], ["paradigm=mtl"]))
    assert found.paradigm == "joint_retraining"
    assert found.tasks == (*other.tasks, "edges")
    assert found.blocks.keys() == other.blocks.keys() == {"a", "b@1", "c@1"}
    for block, tasks in other.blocks.items():
        assert found.blocks[block].keys() == tasks.keys()
        for task, result in tasks.items():
            theirs = found.blocks[block][task].scores[result.primary].trivial
            assert theirs == result.scores[result.primary].trivial or math.isnan(theirs)
    train = [pool(s) for s in ("source", "target") for pool in [lambda at: prepared().pool("train", at)]]
    labelled = sum(int(p.labelled[t].sum()) for p in train for t in found.tasks)
    assert found.cost.labels == labelled > other.cost.labels
    assert not found.choices
    assert not found.curves
    assert not found.baselines


def prepared() -> Any:
    return Experiment.from_config(configured(), lambda data: data.prepare()).data


def test_joint_retraining_says_what_the_data_lack(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`with_target` must meet data whose target lies beside its source"):
        experiment.run(configured("baseline=joint_retraining", "data.target_domains=[]", "new_tasks=[]"), folder=tmp_path)


def test_a_run_that_saw_the_target_is_not_started_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`with_target` must be false where a finished run is started from"):
        experiment.run(configured("baseline=joint_retraining", f"start={tmp_path}"), folder=tmp_path / "run")


def test_a_baseline_chooses_after_the_experiment() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=landmine", "baseline=pooled"])
    assert cfg.sharing == {"_target_": "m3tl_cli.sharing.pooled.Pooled"}
    assert cfg.balancing == {"_target_": "m3tl_cli.balancing.mean.Mean"}
    assert (cfg.paradigm.name, cfg.paradigm.joint, cfg.compared_as) == ("pooled", True, "baseline")


def test_arms_of_another_seed_meet_the_same_samples_and_episodes_from_another_start(tmp_path: Path) -> None:
    first, same, other = (
        experiment.run(configured("paradigm=mtl_handover", f"arm_seed={n}"), folder=tmp_path / folder)
        for folder, n in (("0", 0), ("1", 0), ("2", 1))
    )
    assert first.blocks == same.blocks
    for block, tasks in first.blocks.items():
        for task, result in tasks.items():
            mine, theirs = result.scores[result.primary], other.blocks[block][task].scores[result.primary]
            assert mine.trivial == theirs.trivial or math.isnan(mine.trivial)
    depth = [r.blocks[block]["depth"].scores["abs_rel"].value for r in (first, other) for block in ("a", "b@1")]
    assert len(set(depth)) == 4
