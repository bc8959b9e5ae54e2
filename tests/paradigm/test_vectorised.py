"""All episodes at once give what one after the other gives, or say why they were not computed so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.balancing.uncertainty import Uncertainty
from m3tl_cli.core.events import Event, Said
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.separate import Separate
from tests.paradigm._nets import NORMS, Net, an_engine, an_episode, check_slopes, maml
from tests.paradigm.test_engine_episodes import close
from tests.trainer.test_shape import a_model

EPISODES = [an_episode(0, weight=0.5), an_episode(1), an_episode(2, weight=2.0)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rates", ["fixed", "module", "module_task", "element"])
def test_rows_and_losses_are_those_of_the_loop_on_every_norm(norm: str, order: int, rates: str) -> None:
    model = Net(norm).train()
    signals = {}
    for name in ("loop", "vmap"):
        engine = an_engine(model, MGDA(), maml(order=order, rates=rates, engine=name), emit=refuse)
        signals[name] = engine.signal(EPISODES)
    for task in ("a", "b"):
        close(signals["vmap"].rows[task], signals["loop"].rows[task], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(signals["vmap"].losses[task], signals["loop"].losses[task])
    assert signals["vmap"].rows["a"].keys() == signals["loop"].rows["a"].keys()


def refuse(event: Event) -> None:
    raise AssertionError(event)


@pytest.mark.parametrize("norm", NORMS)
def test_the_second_order_gradient_is_that_of_finite_differences_on_every_norm(norm: str) -> None:
    engine = an_engine(Net(norm).train(), Sum(), maml(order=2, engine="vmap"), emit=refuse)
    common = engine.signal(EPISODES).common
    check_slopes(an_engine(Net(norm).eval(), Sum(), maml(order=2)), EPISODES, {"": common})


@pytest.mark.parametrize("balancer", [Sum, lambda: Static(weights={"a": 3.0}), lambda: PCGrad(seed=0), lambda: Uncertainty(lr=0.1)])
@pytest.mark.parametrize("per_task", [False, True])
def test_balanced_gradients_are_those_of_the_loop(balancer: type[Balancer], per_task: bool) -> None:
    episodes = [an_episode(i, per_task=per_task) for i in range(3)]
    found = {}
    for name in ("loop", "vmap"):
        engine = an_engine(a_model(("a", "b"), CrossStitch, torch.float64), balancer(), maml(order=2, engine=name), emit=refuse)
        found[name] = engine.gradient(engine.signal(episodes))
        found[f"{name} weights"] = engine.weights
    close(found["vmap"], found["loop"], rtol=1e-9, atol=1e-11)
    close(found["vmap weights"], found["loop weights"])
    assert found["vmap"].keys() == found["loop"].keys()


def test_the_rate_of_a_task_that_is_not_there_gets_nothing() -> None:
    model = a_model(("a", "b", "c"), dtype=torch.float64)
    found = {}
    for name in ("loop", "vmap"):
        engine = an_engine(model, Sum(), maml(engine=name), emit=refuse)
        found[name] = engine.gradient(engine.signal(EPISODES))
    assert found["vmap"].keys() == found["loop"].keys()
    assert "inner.rate.backbone.shared.c" not in found["vmap"]


def test_a_descent_that_diverges_is_left_to_the_loop() -> None:
    model = Net("none")
    signals = []
    for name in ("loop", "vmap"):
        inner = maml(engine=name, rates="fixed", clip=None, inner_lr=8.0, diverge=1.5)
        engine = an_engine(model, Sum(), inner, emit=refuse)
        signals.append(engine.signal(EPISODES))
        assert inner.halvings > 0
    close(signals[1].common, signals[0].common, rtol=0, atol=0)


def reasons(engine_name: str, model: object, episodes: list, **changes: object) -> list[Said]:  # type: ignore[type-arg]
    said: list[Said] = []
    engine = an_engine(model, Sum(), maml(engine=engine_name, **changes), emit=lambda e: said.append(e) if isinstance(e, Said) else None)
    for _ in range(2):
        engine.signal(episodes)
    return said


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        ([an_episode(0)], "one episode"),
        ([an_episode(0), an_episode(1, shots=4)], "shape"),
        ([an_episode(0), an_episode(1, ("a",))], "tasks"),
    ],
)
def test_unlike_episodes_go_one_by_one_and_the_reason_is_said_once(episodes: list, words: str) -> None:  # type: ignore[type-arg]
    (said,) = reasons("vmap", Net("none"), episodes)
    assert words in said.text
    assert said.level == "warning"
    assert reasons("auto", Net("none"), episodes)[0].level == "info"


def test_other_reasons_for_the_loop() -> None:
    labels = EPISODES[1].query[0].batch.labelled
    query = replace(EPISODES[1].query[0], batch=replace(EPISODES[1].query[0].batch, labelled=labels | {"b": ~labels["b"]}))
    partly = replace(EPISODES[1], query=(query,))
    assert "label" in reasons("vmap", Net("none"), [EPISODES[0], partly])[0].text
    assert "share no parameter" in reasons("vmap", a_model(("a", "b"), Separate, torch.float64), EPISODES)[0].text

    class Wide(Net):
        def __init__(self) -> None:
            super().__init__("none")
            self._phi["head.a.wide"] = torch.zeros(50_001, dtype=torch.float64, requires_grad=True)

    assert "parameters" in reasons("auto", Wide(), EPISODES)[0].text
    map_too = {"map": torch.zeros(7, 1, 2, 2)}
    parts = [e.query[0] for e in EPISODES]
    batches = [replace(p.batch, inputs=p.batch.inputs | map_too) for p in parts]
    images = [replace(e, query=(replace(p, batch=b),)) for e, p, b in zip(EPISODES, parts, batches, strict=True)]
    assert "vector" in reasons("auto", Net("none"), images)[0].text
    assert reasons("loop", Net("none"), EPISODES) == []
    assert reasons("auto", Net("none"), EPISODES) == []
    assert reasons("vmap", Net("none"), EPISODES, num_inner_steps=0, loss_weights=None) == []


def test_a_network_that_looks_at_numbers_falls_back_to_the_loop() -> None:
    class Looking(Net):
        def forward(self, batch, tasks):  # type: ignore[no-untyped-def]
            if bool(batch.inputs["table"].sum() > 1e9):
                raise AssertionError
            return super().forward(batch, tasks)

    said: list[Event] = []
    engine = an_engine(Looking("none"), Sum(), maml(engine="vmap"), emit=said.append)
    expected = an_engine(Net("none"), Sum(), maml())
    close(engine.signal(EPISODES).common, expected.signal(EPISODES).common, rtol=0, atol=0)
    assert engine.passes == expected.passes
    engine.signal(EPISODES)
    assert len(said) == 1


def test_dropout_draws_a_mask_per_episode() -> None:
    engine = an_engine(Net("dropout").train(), Sum(), maml(engine="vmap"), emit=refuse)
    torch.manual_seed(0)
    first = engine.signal(EPISODES).common
    torch.manual_seed(0)
    close(engine.signal(EPISODES).common, first, rtol=0, atol=0)
    twin = engine.signal([replace(EPISODES[0], uid=7), EPISODES[0]])
    assert torch.isfinite(twin.losses["a"])
