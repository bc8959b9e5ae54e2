"""`baseline=ensemble`: several narrower networks a task, trained apart, adapted apart, and scored by what they say together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m3tl_cli import experiment
from m3tl_cli.assembly import Experiment
from m3tl_cli.core.contracts import components
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Advanced, Event, Measured, Said
from m3tl_cli.core.results import Results
from m3tl_cli.paradigm.ensemble import Ensemble
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.evaluation import evaluate
from m3tl_cli.trainer.loop import BEST
from tests.test_options import configured
from tests.toys import states_equal

pytestmark = pytest.mark.usefixtures("own_cache", "undrawn")

TWO = ["tasks=[depth,vehicle_count]", "trainer.updates=4", "trainer.validate_every=2"]


def trivial(results: Results) -> dict[str, Any]:
    return {b: {(t, m): str(s.trivial) for t, r in tasks.items() for m, s in r.scores.items()} for b, tasks in results.blocks.items()}


def test_all_members_together_are_no_larger_than_one_network_a_task() -> None:
    one, three = (Experiment.from_config(configured(choice, "tasks=null")) for choice in ("paradigm=stl", "baseline=ensemble"))
    full, found = (sum(p.numel() for p in e.model.params().values()) for e in (one, three))
    assert 0.8 * full < found <= full
    assert (len(one.tasks), len(three.tasks), len(three.trained)) == (6, 6, 18)
    assert len(components(three.model, tuple(three.trained))) == 18, "no two members read the same parameter"
    [note] = three.notes
    assert f"{found:,} parameters" in note
    assert f"{full:,} of one" in note, "counted without making them as they were made"
    assert one.notes == ()


def test_one_member_is_the_single_task_run_to_the_bit(tmp_path: Path) -> None:
    plain = experiment.run(configured("paradigm=stl", *TWO), folder=tmp_path / "stl")
    found = experiment.run(configured("baseline=ensemble", "members=1", *TWO), folder=tmp_path / "one")
    assert found.blocks == plain.blocks
    assert str(found.curves) == str(plain.curves)
    assert replace(found.cost, seconds=0.0, peak_memory=0, seconds_prepare=0.0) == replace(
        plain.cost, seconds=0.0, peak_memory=0, seconds_prepare=0.0
    )
    assert states_equal(*(checkpoint.load(tmp_path / name / BEST)["model"] for name in ("stl", "one")))


@pytest.mark.slow
def test_a_run_of_members_trains_adapts_and_shows_tasks(tmp_path: Path) -> None:
    events: list[Event] = []
    more = ["target.num_validation=1", "target.inner=true", "target.source_domains=true"]
    found = experiment.run(configured("baseline=ensemble", *TWO, *more), folder=tmp_path / "run", emit=events.append)
    plain = experiment.run(configured("paradigm=stl", *TWO, *more), folder=tmp_path / "stl")
    assert (found.paradigm, found.tasks) == ("ensemble", ("depth", "vehicle_count"))
    assert {b: set(tasks) for b, tasks in found.blocks.items()} == {b: set(tasks) for b, tasks in plain.blocks.items()}
    assert trivial(found) == trivial(plain), "the same episodes, and the same zero"
    assert {(c.block, c.task, c.optimizer) for c in found.curves} == {(c.block, c.task, c.optimizer) for c in plain.curves}
    assert all(math.isfinite(s.value) for r in found.blocks["a"].values() for s in r.scores.values())
    assert found.cost.networks == 6
    assert found.cost.labels == plain.cost.labels
    assert found.cost.parameters <= plain.cost.parameters
    train = [next(s for s in r.stages if s.stage == "train") for r in (found, plain)]
    assert (train[0].samples, train[0].forward) == (3 * train[1].samples, 3 * train[1].forward)
    assert "3 networks a task" in found.notes[-1]
    assert any(isinstance(e, Said) and e.text == found.notes[-1] for e in events)
    judged = {key.split("/")[1] for e in events if isinstance(e, Measured) for key in e.values if key.startswith("val/")}
    assert judged == {t for task in ("depth", "vehicle_count") for t in (task, f"{task}__2", f"{task}__3")}
    assert Results.read(tmp_path / "run" / "results.json") == found


def test_what_is_scored_is_the_mean_of_members_that_differ(tmp_path: Path) -> None:
    cfg = configured("baseline=ensemble", *TWO)
    found = experiment.run(cfg, folder=tmp_path)
    parts = Experiment.from_config(cfg, lambda data: data.prepare())
    with torch.no_grad():
        for name, value in checkpoint.load(tmp_path / BEST)["model"].items():
            parts.model.params()[name].copy_(value)
    pool = parts.data.pool("test")
    batch = pool.read(torch.arange(4))
    outputs = parts.model.outputs(parts.model.params(), batch, tuple(parts.trained))
    for task in parts.tasks:
        assert not torch.equal(outputs[task], outputs[f"{task}__2"])
        assert not torch.equal(outputs[f"{task}__2"], outputs[f"{task}__3"])
    runtime, size = parts.loop.runtime, parts.loop.eval_batch_size
    together = evaluate(Ensemble(parts.model, parts.kinds), parts.kinds, pool, runtime, size)
    assert {t: {m: s.value for m, s in r.scores.items()} for t, r in found.blocks["a"].items()} == together
    alone = evaluate(parts.model, parts.kinds, pool, runtime, size)
    assert alone["depth"] != together["depth"]


@pytest.mark.slow
def test_members_hand_over_each_to_its_own(tmp_path: Path) -> None:
    """With a hand-over a member of a new task starts from the same member of the source task."""
    more = ["target.num_validation=1", "target.baselines=[ridge,random,scratch]"]
    found = experiment.run(configured("paradigm=stl_handover", "members=2", *TWO, *more), folder=tmp_path / "run")
    assert set(found.sources) == {"edges"}
    assert set(found.sources["edges"]) == {"depth", "vehicle_count"}
    assert set(found.baselines) == {"ridge head", "random trunk + ridge", "scratch"}
    assert all(set(tasks) <= {"depth", "vehicle_count", "edges"} for b in found.baselines.values() for tasks in b.values())
    again = experiment.run(
        configured("paradigm=stl_handover", "members=2", *TWO, *more, f"start={tmp_path / 'run'}"), folder=tmp_path / "added"
    )
    assert again.blocks["b@1"] == found.blocks["b@1"]
    assert again.blocks["c@1"] == found.blocks["c@1"]
    with pytest.raises(ConfigError, match=r"`members` must be that of the run that is started from, 2; found 1"):
        experiment.run(configured("paradigm=stl_handover", *TWO, *more, f"start={tmp_path / 'run'}"), folder=tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "adapt"])
def test_a_run_that_is_killed_ends_as_if_it_was_not(stage: str, tmp_path: Path) -> None:
    overrides = ["baseline=ensemble", "members=2", *TWO, "trainer.checkpoint_every=1", "target.num_episodes=2"]
    whole = experiment.run(configured(*overrides), folder=tmp_path / "whole")

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.what == stage and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(configured(*overrides), folder=tmp_path / "killed", emit=kill)
    again = experiment.run(configured(*overrides), folder=tmp_path / "killed", resume=True)
    assert again.blocks == whole.blocks
    assert str(again.curves) == str(whole.curves)
    assert states_equal(*(checkpoint.load(tmp_path / name / BEST)["model"] for name in ("whole", "killed")))


def test_networks_that_cannot_be_narrowed_stay_as_they_are_and_that_is_said() -> None:
    narrow = ["encoder/image=conv4", "data.modalities=[rgb]", "fusion=single", "backbone=identity", "encoder.image.width=1", "members=3"]
    found = Experiment.from_config(configured("paradigm=stl", "tasks=[vehicle_count]", *narrow))
    assert found.notes == ("3 networks a task have 3 times the parameters of one: no widths make them small enough",)
    assert found.cfg.encoder.image.width == 1


def test_tasks_that_share_cannot_have_members() -> None:
    for choice in ("paradigm=mtl", "paradigm=meta"):
        with pytest.raises(ConfigError, match="`members` must be 1 where tasks share a network"):
            Experiment.from_config(configured(choice, "members=2"))
