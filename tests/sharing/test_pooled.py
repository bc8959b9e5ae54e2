from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from m3tl_cli.backbone.identity import Identity as NoBackbone
from m3tl_cli.core.contracts import Task, components
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.table.identity import Identity
from m3tl_cli.fusion.single import Single
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.pooled import Pooled
from tests.toys import TABLE, a_batch, regression, states_equal

BATCH = a_batch({}, torch.randn(5, TABLE.channels, generator=torch.Generator().manual_seed(1)))


def model(tasks: Sequence[Task], start: bool = True) -> MultiTaskModel:
    made = MultiTaskModel(
        encoders={"table": lambda: Identity(modality=TABLE)},
        fusion=lambda inputs: Single(inputs=inputs),
        backbone=lambda inputs: NoBackbone(inputs=inputs),
        head=lambda task, inputs: Linear(hidden=[], task=task, inputs=inputs),
        sharing=lambda num_stages: Pooled(num_stages=num_stages),
        seed=0,
    )
    if start:
        made.start(tasks)
    return made


def test_all_tasks_read_one_network_and_one_head() -> None:
    pooled = model([regression(t) for t in "abc"])
    assert set(pooled.params()) == {"head.shared.out.weight", "head.shared.out.bias"}
    assert {pooled.reads(t) for t in "abc"} == {frozenset(pooled.params())}
    assert components(pooled, tuple("abc")) == [("a", "b", "c")]
    outputs = pooled.outputs(pooled.params(), BATCH, ("a", "b", "c"))
    assert torch.equal(outputs["a"], outputs["b"])
    assert torch.equal(outputs["a"], outputs["c"])


def test_a_ledger_makes_the_same_model_again() -> None:
    first = model([regression(t) for t in "ab"])
    again = model([], start=False)
    again.replay(first.ledger())
    assert states_equal(first.params(), again.params())


def test_tasks_that_are_not_alike_cannot_share_a_head() -> None:
    with pytest.raises(ConfigError, match=r"alike.*`a` and `b`"):
        model([regression("a"), replace(regression("b"), unit="m")])
    model([regression("a"), replace(regression("b"), at=("target",), role="auxiliary")])


def test_a_task_that_comes_later_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at the start; found `late`"):
        model([regression("a")]).add_task(regression("late"))


def test_other_sharings_give_every_task_a_head_of_its_own() -> None:
    assert Hard(num_stages=1).head_column("a") == "a"
