"""Episodes: what adapts, what of the outcome reaches phi, what is counted, and what must not leak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Name, Params, Part, TaskName, components
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.paradigm import engine as engine_module
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from tests.inner._inputs import build
from tests.paradigm._nets import NORMS, Net, an_engine, an_episode, check_slopes, maml, query_losses
from tests.toys import regression
from tests.trainer.test_shape import a_model, reptile

RATES = ["fixed", "module", "module_task", "element"]


def close(found: Mapping[Name, Tensor], expected: Mapping[Name, Tensor], rtol: float = 1e-9, atol: float = 1e-12) -> None:
    for name in {*found, *expected}:
        a, b = found.get(name), expected.get(name)
        a = torch.zeros_like(b) if a is None else a  # type: ignore[arg-type]
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def summed(rows: Mapping[TaskName, Mapping[Name, Tensor]]) -> dict[Name, Tensor]:
    total: dict[Name, Tensor] = {}
    for row in rows.values():
        for name, g in row.items():
            total[name] = total[name] + g if name in total else g
    return total


def test_phi_is_the_models_own_without_learned_rates_and_one_object_until_something_grows() -> None:
    model = a_model(("a", "b"), dtype=torch.float64)
    for inner in (None, build("maml", rates="fixed")):
        assert an_engine(model, Sum(), inner).params() is model.params()
    inner = build("maml")
    engine = an_engine(model, Sum(), inner)
    phi = engine.params()
    assert engine.params() is phi
    assert list(phi) == [*model.params(), *inner.params()]
    assert set(inner.params()) == {
        "inner.rate.backbone.shared.a", "inner.rate.backbone.shared.b", "inner.rate.head.a.a", "inner.rate.head.b.b",
    }  # fmt: skip
    assert engine.trainable == set(phi)
    model.add_task(regression("c"))
    grown = engine.params()
    assert grown is not phi
    assert all(grown[n] is phi[n] for n in phi)
    assert {"head.c.out.weight", "inner.rate.head.c.c", "inner.rate.backbone.shared.c"} <= grown.keys()


def test_a_task_reads_the_rates_of_the_modules_that_it_reads() -> None:
    engine = an_engine(a_model(("a", "b"), dtype=torch.float64), Sum(), build("maml"))
    rates = {n for n in engine.reads("a") if n.startswith("inner.")}
    assert rates == {"inner.rate.backbone.shared.a", "inner.rate.backbone.shared.b", "inner.rate.head.a.a"}


@pytest.mark.parametrize("sharing", [Hard, Separate, CrossStitch])
def test_learned_rates_link_no_tasks_that_the_model_does_not(sharing: type[Sharing]) -> None:
    model = a_model(("a", "b", "c"), sharing, torch.float64)
    engine = an_engine(model, Sum(), build("maml"))
    assert components(engine, ("a", "b", "c")) == components(model, ("a", "b", "c"))


def test_rates_of_names_that_may_not_change_are_not_trainable() -> None:
    model = a_model(("a", "b"), dtype=torch.float64)
    heads = frozenset(n for n in model.params() if n.startswith("head."))
    engine = an_engine(model, Sum(), build("maml"), trainable=heads)
    assert engine.trainable == heads | {"inner.rate.head.a.a", "inner.rate.head.b.b"}
    found = engine.gradient(engine.signal([an_episode(0)]))
    assert set(found) == engine.trainable
    engine.trainable = frozenset({"head.a.out.weight"})
    assert set(engine.gradient(engine.signal([an_episode(0)]))) == {"head.a.out.weight"}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rates", ["fixed", "module_task"])
def test_second_order_rows_are_those_of_finite_differences_on_every_norm(norm: str, rates: str) -> None:
    engine = an_engine(Net(norm).eval(), MGDA(), maml(order=2, rates=rates))
    episodes = [an_episode(0, weight=0.7)]
    check_slopes(engine, episodes, engine.signal(episodes).rows)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("per_task", [False, True])
def test_second_order_rows_hold_with_learned_rates_and_with_a_batch_per_task(rates: str, per_task: bool) -> None:
    engine = an_engine(Net("none"), MGDA(), maml(order=2, rates=rates, clip=0.5))
    episodes = [an_episode(1, per_task=per_task)]
    signal = engine.signal(episodes)
    check_slopes(engine, episodes, signal.rows)
    assert float(signal.rows["a"]["head.b.weight"].norm()) > 1e-5, "through the joint inner step, also where batches differ"
    expected_losses = query_losses(engine, episodes, engine.params())
    assert {t: float(v) for t, v in signal.losses.items()} == pytest.approx(expected_losses)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("per_task", [False, True])
def test_one_walk_of_the_sum_is_the_sum_of_the_rows(order: int, rates: str, per_task: bool) -> None:
    model, episodes = Net("layer"), [an_episode(0, per_task=per_task, weight=0.5), an_episode(1, per_task=per_task)]
    rows = an_engine(model, MGDA(), maml(order=order, rates=rates)).signal(episodes).rows
    engine = an_engine(model, Sum(), maml(order=order, rates=rates))
    close(engine.gradient(engine.signal(episodes)), summed(rows))
    weighted = an_engine(model, Static(weights={"a": 3.0, "b": 0.5}), maml(order=order, rates=rates))
    close(weighted.signal(episodes).common, summed({t: {n: f * g for n, g in rows[t].items()} for t, f in (("a", 3.0), ("b", 0.5))}))


def test_rows_are_weighted_over_the_points_that_count() -> None:
    model, episodes = Net("group"), [an_episode(0)]
    parts = [
        an_engine(model, MGDA(), maml(rates="fixed", loss_weights=weights)).signal(episodes).rows
        for weights in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [2.0, 3.0, 5.0])
    ]
    for task in ("a", "b"):
        close(parts[3][task], summed({k: {n: w * g for n, g in parts[k][task].items()} for k, w in enumerate((0.2, 0.3, 0.5))}))  # type: ignore[misc]


@pytest.mark.parametrize("balancer", [Sum, lambda: PCGrad(seed=0)])
def test_without_steps_an_episode_is_a_mini_batch_of_its_query_and_reads_the_models_own_tensors(balancer: Any) -> None:
    model = Net("layer")
    seen: list[bool] = []

    def outputs(params: Params, *rest: Any) -> Any:
        seen.append(params is model.params())
        return Net.outputs(model, params, *rest)

    model.outputs = outputs  # type: ignore[method-assign]
    episode = an_episode(0)
    bilevel = an_engine(model, balancer(), maml(num_inner_steps=0, loss_weights=None))
    plain = an_engine(model, balancer(), None)
    found = bilevel.gradient(bilevel.signal([episode]))
    close(found, plain.gradient(plain.signal([replace(episode, support=())])), rtol=0, atol=0)
    assert all(seen)


def test_reptile_sends_the_way_that_the_inner_steps_went() -> None:
    model, episode = Net("none"), an_episode(0)
    engine = an_engine(model, Sum(), reptile(2))
    signal = engine.signal([replace(episode, weight=0.5)])
    theta = engine.adapted(engine.params(), episode.support, steps=2)
    close(signal.common, {n: 0.5 * (p - theta[n]).detach() for n, p in model.params().items() if theta[n] is not p})
    assert set(signal.common) == {n for n in model.params() if n.startswith("backbone.")}
    assert set(signal.losses) == {"a", "b"}


@pytest.mark.parametrize("order", [1, 2])
def test_adapting_without_a_graph_ends_where_the_episodes_do_and_zero_steps_change_nothing(order: int) -> None:
    model = Net("layer")
    engine = an_engine(model, Sum(), maml(order=order))
    episode = an_episode(0)
    shown: dict[int, dict[Name, Tensor]] = {}
    theta = engine.adapted(engine.params(), episode.support, steps=2, on_step=lambda k, p: shown.update({k: dict(p)}))
    assert sorted(shown) == [1, 2]
    assert not any(p.requires_grad for p in shown[2].values())
    total = dict.fromkeys("ab", 0.0)
    for weight, params in ((0.5, engine.params()), (0.5, theta)):
        for t, loss in engine.losses(params, episode.query[0]).items():
            total[t] += weight * float(loss.detach())
    assert total == pytest.approx(query_losses(engine, [episode], engine.params()))
    same = engine.adapted(engine.params(), episode.support, steps=0)
    assert all(same[n] is p for n, p in engine.params().items())
    assert all(p.grad is None for p in model.params().values())


def test_adapting_needs_an_inner_loop() -> None:
    with pytest.raises(ConfigError, match="inner"):
        an_engine(Net("none"), Sum(), None).adapted({}, (), steps=1)


def test_separate_networks_descend_each_for_itself() -> None:
    """One network that diverges halves its own rate only; three in one process are three runs."""
    tasks = ("a", "b", "c")
    model = a_model(tasks, Separate, torch.float64)
    model.params()["head.b.out.weight"].data.mul_(200)
    pool_episode = an_episode(0, tasks)
    inner = maml(rates="fixed", clip=None, diverge=1.5, inner_lr=0.05, loss_weights=None)
    engine = an_engine(model, Sum(), inner)
    shown: dict[int, Params] = {}
    together = engine.adapted(engine.params(), pool_episode.support, steps=3, on_step=lambda k, p: shown.update({k: p}))
    assert inner.halvings > 0
    for task in tasks:
        alone = an_engine(model, Sum(), maml(rates="fixed", clip=None, diverge=1.5, inner_lr=0.05, loss_weights=None))
        part = Part(pool_episode.support[0].batch, (task,))
        theta = alone.adapted(alone.params(), [part], steps=3)
        for n in model.reads(task):
            assert torch.equal(together[n], theta[n])
            assert torch.equal(shown[3][n], theta[n].detach())
        if task != "b":
            assert alone.inner.halvings == 0  # type: ignore[union-attr]
    assert sorted(shown) == [1, 2, 3]


@pytest.mark.parametrize("order", [1, 2])
def test_an_episode_over_separate_networks_is_one_episode_each(order: int) -> None:
    tasks = ("a", "b")
    model, episode = a_model(tasks, Separate, torch.float64), an_episode(0, tasks)
    changes: dict[str, Any] = {"order": order, "clip": 0.3, "scope": ["backbone", "fusion", "head"]}
    for balancer in (Sum, MGDA):
        engine = an_engine(model, balancer(), maml(**changes))
        found = engine.gradient(engine.signal([episode]))
        for task in tasks:
            alone = an_engine(model, Sum(), maml(**changes))
            cut = replace(episode, support=(replace(episode.support[0], tasks=(task,)),), query=(replace(episode.query[0], tasks=(task,)),))
            expected = alone.gradient(alone.signal([cut]))
            close({n: g for n, g in found.items() if n in alone.reads(task)}, expected)


def test_running_statistics_are_used_and_never_moved_inside_episodes() -> None:
    model = Net("batch").train()
    engine = an_engine(model, Sum(), maml(order=2))
    norm = model.backbone["shared"][1]  # type: ignore[index]
    before = {n: b.clone() for n, b in model.named_buffers()}
    episode = an_episode(0)
    signal = engine.signal([episode])
    theta = engine.adapted(engine.params(), episode.support, steps=2)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert norm.training, "and the mode is as it was"
    expected = query_losses(an_engine(model.eval(), Sum(), maml(order=2)), [episode], engine.params())
    assert {t: float(v) for t, v in signal.losses.items()} == pytest.approx(expected), "normalised by the running statistics"
    one = replace(episode.query[0].batch, inputs={"table": episode.query[0].batch.inputs["table"][:1]})
    whole = model.outputs(theta, episode.query[0].batch, ("a",))["a"][:1]
    torch.testing.assert_close(model.outputs(theta, one, ("a",))["a"], whole)  # no query sample sees another


def test_a_mini_batch_still_trains_running_statistics() -> None:
    model = Net("batch").train()
    engine = an_engine(model, Sum(), maml())
    before = {n: b.clone() for n, b in model.named_buffers()}
    engine.signal([replace(an_episode(0), support=())])
    assert not any(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_a_norm_without_running_statistics_is_refused_where_episodes_adapt() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.shared\.1"):
        an_engine(Net("own"), Sum(), maml())
    an_engine(Net("own"), Sum(), None)
    an_engine(Net("own"), Sum(), maml(num_inner_steps=0, loss_weights=None))


class Scaled(HeadInit):
    """A closed form by hand: the head is the mean of the backbone's weight times `factor`."""

    needs_features = False

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Any) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


def by_backbone(
    model: Any,
    params: Params,
    kinds: Any,
    head_init: Any,
    parts: Sequence[Part],
    fresh: frozenset[TaskName],
    donors: Sequence[TaskName] = (),
) -> dict[Name, Tensor]:
    made = {f"head.{t}.weight": 0.3 * params["backbone.shared.0.weight"].sum(1)[None] for t in fresh}
    return {**params, **made}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("balancer", [Sum, MGDA])
def test_the_gradient_flows_through_a_head_that_is_built_inside_the_episode(
    order: int, steps: int, balancer: type[Balancer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "start_heads", by_backbone)
    model, weights = Net("none"), [0.0] * steps + [1.0]
    episode = replace(an_episode(0), fresh=frozenset({"a"}))
    inner = maml(order=order, num_inner_steps=steps, loss_weights=weights, rates="fixed")
    engine = an_engine(model, balancer(), inner, head_init=Scaled())
    signal = engine.signal([episode])
    found = signal.common or summed(signal.rows)
    assert float(found.get("head.a.weight", torch.zeros(1)).norm()) == 0, "what the closed form replaced has no part in the loss"

    def value(phi: Params) -> float:
        made = by_backbone(model, phi, None, None, (), episode.fresh)
        return sum(query_losses(engine, [episode], made).values())

    if order == 1 and steps:  # inner gradients are constants: the same steps from a start that moved
        start = by_backbone(model, {n: p.detach() for n, p in model.params().items()}, None, None, (), episode.fresh)
        theta = engine.adapted(start, episode.support, steps=steps)
        way = {n: theta[n] - start[n] for n in start}

        def value(phi: Params) -> float:
            made = by_backbone(model, phi, None, None, (), episode.fresh)
            with torch.no_grad():
                losses = engine.losses({n: made[n] + way[n] for n in made}, episode.query[0])
            return float(sum(losses.values()))

    for name, param in model.params().items():
        for i in range(param.numel()):
            ends = []
            for shift in (1e-5, -1e-5):
                moved = {n: p.detach().clone() for n, p in model.params().items()}
                moved[name].view(-1)[i] += shift
                ends.append(value(moved))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(found.get(name, torch.zeros_like(param)).reshape(-1)[i]) == pytest.approx(slope, abs=1e-7)


def test_reptile_leaves_a_head_that_the_episode_built_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "start_heads", by_backbone)
    inner = build("reptile", inner_lr=0.1)
    engine = an_engine(Net("none"), Sum(), inner, head_init=Scaled())
    found = engine.signal([replace(an_episode(0), fresh=frozenset({"a"}))]).common
    assert "head.b.weight" in found
    assert "backbone.shared.0.weight" in found
    assert "head.a.weight" not in found, "phi holds no start of it that could move"


def test_fresh_heads_without_a_head_initialisation_are_refused() -> None:
    engine = an_engine(Net("none"), Sum(), maml())
    with pytest.raises(ConfigError, match="head_init"):
        engine.signal([replace(an_episode(0), fresh=frozenset({"a"}))])


def test_an_episode_whose_support_is_unlabelled_is_judged_where_it_starts() -> None:
    episode = an_episode(0)
    batch = episode.support[0].batch
    unlabelled = replace(batch, labelled={t: torch.zeros_like(v) for t, v in batch.labelled.items()})
    engine = an_engine(Net("none"), Sum(), maml(rates="fixed"))
    plain = an_engine(Net("none"), Sum(), None)
    found = engine.signal([replace(episode, support=(replace(episode.support[0], batch=unlabelled),))])
    close(found.common, plain.signal([replace(episode, support=())]).common)


def test_the_cosine_of_the_orders_is_one_without_steps_and_less_with_them() -> None:
    model, episodes = Net("layer"), [an_episode(0), an_episode(1)]
    assert an_engine(model, Sum(), maml(num_inner_steps=0, loss_weights=None)).order_cosine(episodes) == pytest.approx(1.0)
    engine = an_engine(model, Sum(), maml(order=1, rates="fixed", loss_weights=None))
    found = engine.order_cosine(episodes)
    first, second = (
        torch.cat(
            [
                g.reshape(-1)
                for g in an_engine(model, Sum(), maml(order=o, rates="fixed", loss_weights=None)).signal(episodes).common.values()
            ]
        )
        for o in (1, 2)
    )
    assert found == pytest.approx(float(nn.functional.cosine_similarity(first, second, dim=0)))
    assert 0 < found < 0.9999
    assert not engine.coupled, "the inner loop is as it was"
    assert math.isnan(an_engine(model, Sum(), reptile(1)).order_cosine(episodes))
    assert math.isnan(an_engine(model, Sum(), None).order_cosine(episodes))


@pytest.mark.parametrize(
    ("order", "rates", "weights", "balancer", "forward", "backward"),
    [
        (1, "fixed", None, Sum, 3, 3),  # 2 inner steps, and the query
        (1, "fixed", [0.5, 0.0, 0.5], Sum, 4, 4),  # the query twice
        (1, "module_task", None, Sum, 3, 5),  # inner steps walk back once a task
        (1, "fixed", None, MGDA, 3, 4),  # the query walks back once a task
        (2, "fixed", None, Sum, 3, 5),  # the outer gradient walks back through both steps as well
        (2, "fixed", None, MGDA, 3, 8),
    ],
)
@pytest.mark.parametrize("engine_name", ["loop", "vmap"])
def test_passes_are_counted(
    order: int, rates: str, weights: list[float] | None, balancer: type[Balancer], forward: int, backward: int, engine_name: str
) -> None:
    engine = an_engine(Net("none"), balancer(), maml(order=order, rates=rates, loss_weights=weights, engine=engine_name))
    engine.signal([an_episode(0), an_episode(1)])
    assert (engine.passes.forward, engine.passes.backward) == (2 * forward, 2 * backward)
