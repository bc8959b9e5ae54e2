from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.transfer.source.pretrained_here import PretrainedHere
from tests.transfer.networks import a_model, state

SHAPES = Task("shapes", "multiclass", 3, False, at=("pretrain",))
DEPTH = Task("depth", "depth", 1, True, (8, 8), at=("pretrain", "source"))
COUNT = Task("count", "regression", 1, False)


def test_the_first_task_of_the_pretraining_block_is_taken_unless_others_are_named() -> None:
    assert PretrainedHere(tasks=None, updates=3).choose([COUNT, SHAPES, DEPTH]) == ("shapes",)
    assert PretrainedHere(tasks=["depth", "shapes"], updates=3).choose([SHAPES, DEPTH]) == ("depth", "shapes")


@pytest.mark.parametrize(("tasks", "found"), [(["count"], "count"), (["depth", "size"], "size"), ([], "none")])
def test_a_task_without_labels_there_is_refused(tasks: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=f"labels in its pretraining block \\(shapes, depth\\); found {found}"):
        PretrainedHere(tasks=tasks, updates=3).choose([COUNT, SHAPES, DEPTH])


def test_data_that_labels_nothing_there_are_refused() -> None:
    with pytest.raises(DataError, match=r"found none"):
        PretrainedHere(tasks=None, updates=3).choose([COUNT, replace(DEPTH, at=("source",))])


def test_the_key_follows_tasks_updates_and_what_the_caller_names() -> None:
    about = {"seed": 1, "data": {"size": 32}}
    key = PretrainedHere(tasks=None, updates=3).key(about)
    assert key == PretrainedHere(tasks=None, updates=3).key({"data": {"size": 32}, "seed": 1})
    others = [
        PretrainedHere(tasks=["shapes"], updates=3).key(about),
        PretrainedHere(tasks=None, updates=4).key(about),
        PretrainedHere(tasks=None, updates=3).key(about | {"seed": 2}),
    ]
    assert len({key, *others}) == 4


def test_it_reads_nothing_and_loads_what_was_trained() -> None:
    source = PretrainedHere(tasks=None, updates=3)
    assert (source.updates, source.tensors()) == (3, None)
    model = a_model(seed=2)
    trained = {n: v for n, v in state(a_model(seed=1)).items() if n.startswith("encoder.")}
    assert set(source.load(model, trained).loaded) == set(trained)
    assert all(torch.equal(model.state_dict()[n], v) for n, v in trained.items())
