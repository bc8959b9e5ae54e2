"""`reuse=true`: what a run beside this one trained is taken, and nothing but the time that it took differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m3tl_cli import experiment
from m3tl_cli.core.contracts import Task
from m3tl_cli.core.events import Event, Said, StageStarted
from m3tl_cli.core.results import Results
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.loop import BEST
from m3tl_cli.trainer.siblings import FILE
from tests.test_options import EPISODES, PRETRAINING, configured
from tests.toys import states_equal

pytestmark = pytest.mark.usefixtures("own_cache", "undrawn")

ONE = ("tasks=[depth]", "reuse=true")


def run(folder: Path, *words: str, events: list[Event] | None = None) -> Results:
    return experiment.run(configured(*words), folder=folder, emit=(events if events is not None else []).append)


def took(results: Results) -> bool:
    return all(stage.cached for stage in results.stages if stage.stage in ("warm_up", "train"))


def without_time(results: Results) -> Results:
    cost = replace(results.cost, seconds=0.0, peak_memory=0, seconds_prepare=0.0)
    return replace(results, cost=cost, notes=(), stages=tuple(replace(s, cached=False, seconds=0.0) for s in results.stages))


def journal(folder: Path) -> list[tuple[int, Mapping[str, Any]]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(e["step"], {k: v for k, v in e["values"].items() if not k.startswith("speed/")}) for e in lines]


def test_a_run_with_a_taken_network_equals_one_that_trained_to_the_bit(tmp_path: Path) -> None:
    first = run(tmp_path / "a" / "stl", "paradigm=stl", *ONE)
    events: list[Event] = []
    second = run(tmp_path / "a" / "handover", "paradigm=stl_handover", *ONE, events=events)
    alone = run(tmp_path / "b" / "handover", "paradigm=stl_handover", *ONE)
    assert (took(first), took(second), took(alone)) == (False, True, False)
    assert str(without_time(second)) == str(without_time(alone))
    assert journal(tmp_path / "a" / "handover") == journal(tmp_path / "b" / "handover")
    mine, theirs = (checkpoint.load(tmp_path / where / "handover" / BEST) for where in ("a", "b"))
    assert states_equal(mine["model"], theirs["model"])
    assert mine["about"]["config"]["paradigm"]["name"] == "stl_handover", "a checkpoint speaks of its own run"
    assert any("those of stl" in note for note in second.notes)
    [told] = [e for e in events if isinstance(e, StageStarted) and e.stage == "train"]
    assert told.skipped.startswith("trained in stl")


def test_a_run_that_was_not_told_to_trains_for_itself(tmp_path: Path) -> None:
    run(tmp_path / "stl", "paradigm=stl", *ONE)
    assert not took(run(tmp_path / "again", "paradigm=stl", "tasks=[depth]"))
    assert not (tmp_path / "again" / FILE).exists(), "nor does it offer what it trained"


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of single-task training, in which others may stand."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M3TL_CACHE", str(cache))
        run(folder / "one", "paradigm=stl", *ONE)
    return folder


@pytest.mark.parametrize("other", ["arm_seed=1", "optimizer.lr=0.02", "data.missing_labels=0.5", "fusion=concat"])
def test_another_training_is_another_network(other: str, trained: Path) -> None:
    assert not took(run(trained / other.replace("=", "-"), "paradigm=stl", *ONE, other))


@pytest.mark.parametrize("other", ["target.num_shots=[2]", "inner=anil", "transfer/handover=extract", "balancing=pcgrad"])
def test_what_single_task_training_does_not_read_does_not_keep_networks_apart(other: str, trained: Path) -> None:
    assert took(run(trained / other.replace("=", "-").replace("/", "-"), "paradigm=stl_handover", *ONE, other))


def test_a_network_that_starts_from_other_tensors_is_another_though_its_config_is_the_same(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a file of weights was replaced by another of the same name."""
    plain = MultiTaskModel.start

    def changed(self: MultiTaskModel, tasks: Sequence[Task]) -> None:
        plain(self, tasks)
        with torch.no_grad():
            next(iter(self.params().values())).add_(1e-3)

    assert took(run(trained / "same", "paradigm=stl", *ONE))
    monkeypatch.setattr(MultiTaskModel, "start", changed)
    assert not took(run(trained / "replaced", "paradigm=stl", *ONE))


@pytest.mark.slow
def test_episodes_and_pretraining_are_taken_with_their_learnt_rates(tmp_path: Path) -> None:
    words = ("paradigm=m3tl", *EPISODES, *PRETRAINING, "target.inner=true", "reuse=true")
    axis = ("probe.ridge=3.0",)
    first = run(tmp_path / "a" / "first", *words)
    second, alone = run(tmp_path / "a" / "second", *words, *axis), run(tmp_path / "b" / "second", *words, *axis)
    assert (took(first), took(second), took(alone)) == (False, True, False)
    changed = replace(without_time(alone), stages=without_time(second).stages)  # pretraining was read from the cache by one of them
    assert str(without_time(second)) == str(changed)
    assert not took(run(tmp_path / "a" / "other", *words, "inner.inner_lr=0.03")), "an inner loop is part of such a training"


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_adapted_goes_on_though_the_sibling_is_gone(tmp_path: Path) -> None:
    words = ("paradigm=stl_handover", *ONE)
    alone = run(tmp_path / "b" / "handover", *words)
    run(tmp_path / "a" / "stl", "paradigm=stl", *ONE)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "evaluate":
            raise Killed

    with pytest.raises(Killed):
        experiment.run(configured(*words), folder=tmp_path / "a" / "handover", emit=kill)
    shutil.rmtree(tmp_path / "a" / "stl")
    events: list[Event] = []
    found = experiment.run(configured(*words), folder=tmp_path / "a" / "handover", emit=events.append, resume=True)
    assert not took(found)
    assert str(without_time(found)) == str(without_time(alone))
    assert journal(tmp_path / "a" / "handover") == journal(tmp_path / "b" / "handover")
    assert not any(isinstance(e, Said) and "took the network" in e.text for e in events)
