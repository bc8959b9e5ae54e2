"""Everything that is wrong with a config is found, and nothing that is right."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.config.problem import Problem
from m3tl_cli.config.validate import keys, shown, validate

PARTS = "m3tl_test_parts.parts"
CODE = Path(__file__).resolve().parents[1] / "cli" / "tree" / "code"
PLAIN = {"_target_": f"{PARTS}.Plain"}
GOOD: dict[str, Any] = {
    "seed": 1,
    "arm_seed": 0,
    "name": "train",
    "tasks": None,
    "new_tasks": None,
    "members": 1,
    "with_target": False,
    "start": None,
    "reuse": False,
    "compared_as": "setting",
    "baselines": [],
    "estimator": None,
    "data": {"_target_": f"{PARTS}.Toy", "num": 10},
    "task": {"depth": {"_target_": f"{PARTS}.Kind"}, "segmentation": {"_target_": f"{PARTS}.Kind"}},
    "encoder": {"image": {"_target_": f"{PARTS}.Conv", "width": 32, "kind": "plain"}},
    "fusion": PLAIN,
    "backbone": PLAIN,
    "sharing": PLAIN,
    "heads": {"vector": PLAIN},
    "balancing": {"_target_": f"{PARTS}.PCGrad", "shuffle": True},
    "paradigm": {"name": "mtl", "pretrain": False, "joint": True, "bilevel": False, "handover": False},
    "sampler": {"_target_": f"{PARTS}.Sampler", "batch_size": 16},
    "episodes": PLAIN,
    "inner": PLAIN,
    "head_init": PLAIN,
    "probe": PLAIN,
    "transfer": {"source": PLAIN, "handover": PLAIN, "source_task": "auto"},
    "optimizer": {"_target_": f"{PARTS}.AdamW", "lr": 3e-3, "betas": [0.9, 0.999]},
    "scheduler": PLAIN,
    "trainer": {"_target_": f"{PARTS}.Loop", "device": "auto", "updates": 20, "clip": 5.0, "patience": None, "step_seconds": 0},
    "target": PLAIN,
    "tracking": PLAIN,
}


@pytest.fixture(autouse=True)
def _own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CODE)


def check(**changes: Any) -> list[Problem]:
    """Validate with changes at dotted keys; `__` stands for a dot, `...` removes a key."""
    config = deepcopy(GOOD)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return validate(config)


def test_a_sound_config_has_no_problem() -> None:
    assert check() == []


def test_an_integer_will_do_for_a_number_and_null_where_it_may() -> None:
    assert check(optimizer__lr=1, optimizer__betas=[0, 0.5], trainer__clip=None, trainer__patience=3) == []


@pytest.mark.parametrize(
    ("changes", "place", "expected"),
    [
        ({"seed": "two"}, "seed", "an integer >= 0"),
        ({"seed": -1}, "seed", "an integer >= 0"),
        ({"seed": True}, "seed", "an integer >= 0"),
        ({"seed": 1.5}, "seed", "an integer >= 0"),
        ({"name": "a/b"}, "name", "folder"),
        ({"name": "../x"}, "name", "folder"),
        ({"tasks": "depth"}, "tasks", "a list of strings or null"),
        ({"tasks": [1]}, "tasks[0]", "a string"),
        ({"tasks": []}, "tasks", "depth, segmentation"),
        ({"tasks": ["depth", "depth"]}, "tasks", "once"),
        ({"trainer__clip": 0}, "trainer.clip", "a number > 0"),
        ({"trainer__clip": "abc"}, "trainer.clip", "a number > 0 or null"),
        ({"trainer__device": 3}, "trainer.device", "a string"),
        ({"optimizer__betas": [0.9, 1.0]}, "optimizer.betas[1]", "a number >= 0 and < 1"),
        ({"optimizer__betas": [0.9]}, "optimizer.betas", "a list of 2"),
        ({"optimizer__betas": 0.9}, "optimizer.betas", "a list of 2"),
        ({"paradigm__joint": "yes"}, "paradigm.joint", "true or false"),
        ({"balancing__shuffle": 1}, "balancing.shuffle", "true or false"),
        ({"encoder__image__kind": "plan"}, "encoder.image.kind", "plain or dilated"),
        ({"optimizer__lr": float("nan")}, "optimizer.lr", "a number > 0"),
        ({"data": 5}, "data", "an option"),
        ({"encoder": PLAIN["_target_"]}, "encoder", "a mapping"),
        ({"trainer__updates": ...}, "trainer.updates", "an integer >= 0"),
        ({"trainer__updates": "???"}, "trainer.updates", "an integer >= 0"),
        ({"heads": ...}, "heads", "an option"),
        ({"heads": "???"}, "heads", "an option"),
        ({"paradigm": ...}, "paradigm", "a value"),
        ({"trainer__extra": {"a": "???"}}, "trainer.extra.a", "a value"),
        ({"data__num": 0}, "data.num", "an integer >= 1"),
    ],
)
def test_one_wrong_value_is_one_problem_at_its_place(changes: dict[str, Any], place: str, expected: str) -> None:
    (problem,) = check(**changes)
    assert problem.place == place
    assert expected in problem.expected


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"tasks": ["depth", "sgmentation"]}, "did you mean segmentation?"),
        ({"trainer__updtes": 5}, "did you mean trainer.updates?"),
        ({"trainer__lr": 5}, "did you mean optimizer.lr?"),
        ({"sed": 5}, "did you mean seed?"),
        ({"encoder__image__kind": "plan"}, "did you mean plain?"),
        ({"data___target_": f"{PARTS}.Toi"}, "did you mean Toy?"),
        ({"trainer__device": 3}, "write trainer.device='\"3\"'"),
        ({"heads": ...}, "m3tl list heads"),
    ],
)
def test_the_nearest_right_thing_is_named(changes: dict[str, Any], hint: str) -> None:
    (problem,) = check(**changes)
    assert problem.hint == hint


@pytest.mark.parametrize("key", ["sampler__seed", "sampler__pool", "encoder__image__modality", "balancing__seed"])
def test_what_the_program_fills_in_may_not_stand_in_a_config(key: str) -> None:
    (problem,) = check(**{key: 1})
    assert "fills this in" in problem.expected


def test_all_problems_are_found_at_once() -> None:
    found = check(seed="two", trainer__updates=-1, trainer__updtes=3, optimizer__betas=[2, -1], tasks=["x"], sed=1)
    assert {p.place for p in found} == {
        "seed",
        "sed",
        "trainer.updates",
        "trainer.updtes",
        "optimizer.betas[0]",
        "optimizer.betas[1]",
        "tasks",
    }


def test_a_target_that_cannot_be_read_is_not_checked_but_what_is_missing_inside_is() -> None:
    (problem,) = check(tracking={"_target_": "torch.nn.Linear", "anything": {"deep": "???"}})
    assert problem.place == "tracking.anything.deep"


def test_values_are_shown_as_yaml_has_them() -> None:
    assert [shown(v) for v in (None, True, "a", 1.5, [1, "b"])] == ["null", "true", "'a'", "1.5", "[1, 'b']"]
    assert len(shown("x" * 500)) == 60


def test_keys_are_dotted_and_leave_out_what_only_hydra_reads() -> None:
    assert keys({"a": {"_target_": "x", "b": 1}, "c": 2}) == ["a", "a.b", "c"]


def test_members_are_networks_of_one_task() -> None:
    assert [p.place for p in check(members=3)] == ["members"]
    separate = {"name": "ensemble", "pretrain": False, "joint": False, "bilevel": False, "handover": False}
    assert check(members=3, paradigm=separate) == []
    assert [p.place for p in check(members=3, paradigm=separate | {"bilevel": True})] == ["members"]
    assert [p.place for p in check(members=0, paradigm=separate)] == ["members"]
