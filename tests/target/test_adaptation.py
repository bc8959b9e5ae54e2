"""One adaptation: it starts where it should, changes what it may, and scores at the steps that were asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Episode, Task
from m3tl_cli.core.draws import draw_episode
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.zero_out import ZeroOut
from m3tl_cli.inner.maml import MAML
from m3tl_cli.optimizer.sgd import SGD
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.target.adaptation import Adapter, Start, Trial, handed_over
from m3tl_cli.task.base import TaskKind
from m3tl_cli.task.regression import Regression
from m3tl_cli.trainer.runtime import Runtime
from m3tl_cli.transfer.handover.extract import Extract
from tests.inner._inputs import build as build_inner
from tests.toys import TablePool, regression, states_equal
from tests.trainer.test_shape import a_model

TASKS = ("a", "b")
POOL, QUERY = TablePool((*TASKS, "new"), size=40), TablePool((*TASKS, "new"), size=30, seed=1)


def kind(task: Task) -> TaskKind:
    return Regression(task=task, loss="mse", delta=1.0)


def inner() -> MAML:
    made = build_inner("maml")
    assert isinstance(made, MAML)
    return made


def adapter(**changes: Any) -> Adapter:
    numbers: dict[str, Any] = {
        "kind": kind, "balancer": Sum, "runtime": Runtime(device="cpu", precision=32, threads=1), "steps": (0, 1, 5), "batch_size": 8,
        "clip": None, "seed": 0,
    }  # fmt: skip
    return Adapter(**(numbers | changes))


def trial(lr: float = 0.05) -> Trial:
    return Trial("SGD", SGD(lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0))


def a_start(names: tuple[str, ...] = TASKS, sharing: type[Sharing] = Hard, **changes: Any) -> Start:
    model = changes.pop("model", None) or a_model(names, sharing)
    numbers: dict[str, Any] = {
        "block": "b", "model": model, "tasks": tuple(regression(t) for t in names), "fresh": frozenset(),
        "handed": frozenset(model.params()),
        "inner": inner(), "handover": Extract(), "head_init": ZeroOut(),
    }  # fmt: skip
    return Start(**(numbers | changes))


def episode(tasks: tuple[str, ...] = TASKS, shots: int = 20) -> Episode:
    wanted = [regression(t) for t in tasks]
    return draw_episode(
        POOL, QUERY, domain=None, tasks=wanted, num_shots=shots, num_query=30, per_class=False, seed_parts=("test",), uid=1
    )  # fmt: skip


def test_steps_follow_from_the_start_alone_and_what_was_there_comes_back() -> None:
    start, adapt = a_start(), adapter()
    first = adapt.adapt(start, episode(), trial())
    assert list(first) == [0, 1, 5]
    assert not states_equal(start.model.params(), start.phi)
    assert adapt.adapt(start, episode(), trial()) == first
    assert adapt.adapt(start, episode(), trial(), last=1) == {s: first[s] for s in (0, 1)}
    start.put_back()
    assert states_equal({n: p.detach() for n, p in start.model.params().items()}, start.phi)
    assert (adapt.spent.updates, adapt.spent.samples) == (5 + 5 + 1, (5 + 5 + 1) * 8)


def test_step_0_is_the_model_as_it_is() -> None:
    start = a_start()
    drawn = episode()
    batch = drawn.query[0].batch
    expected = (start.model.outputs(start.phi, batch, ("a",))["a"] - batch.targets["a"]).abs().mean().item()
    assert adapter(steps=(0,)).adapt(start, drawn, trial())[0]["a"]["mae"] == pytest.approx(expected, rel=1e-5)


def test_what_is_extracted_does_not_move() -> None:
    start = a_start()
    adapter().adapt(start, episode(), trial())
    for name, value in start.model.params().items():
        assert torch.equal(value, start.phi[name]) != name.startswith("head."), name


def test_networks_of_their_own_adapt_as_if_alone() -> None:
    both, alone = a_start(sharing=Separate), a_start(("a",), Separate)
    for how in (trial(), Trial("inner loop", None)):
        together = adapter(clip=0.1).adapt(both, episode(), how)
        assert {s: v["a"] for s, v in together.items()} == {
            s: v["a"] for s, v in adapter(clip=0.1).adapt(alone, episode(("a",)), how).items()
        }


def test_a_fresh_head_starts_from_the_support_in_its_units() -> None:
    model = a_model(TASKS)
    model.add_task(regression("new"), "a")
    start = a_start(model=model, block="c", tasks=(regression("new"),), fresh=frozenset({"new"}), handed=frozenset())
    drawn = episode(("new",))
    known = drawn.support[0].batch.targets["new"]
    expected = (drawn.query[0].batch.targets["new"] - known.mean()).abs().mean().item()
    found = adapter().adapt(start, drawn, trial())
    assert found[0]["new"]["mae"] == pytest.approx(expected, rel=1e-4), "all weights 0: the support's mean"
    assert found[5]["new"]["mae"] < found[0]["new"]["mae"]


@pytest.mark.parametrize("sharing", [Hard, Separate])
@pytest.mark.parametrize("how", [trial(), Trial("inner loop", None)], ids=["optimiser", "inner loop"])
def test_operations_of_steps_and_of_built_heads_are_counted_and_scoring_is_not(how: Trial, sharing: type[Sharing]) -> None:
    model = a_model(TASKS, sharing)
    model.add_task(regression("new"), "a")
    new = (*TASKS, "new")
    start = a_start(
        model=model, block="c", tasks=tuple(regression(t) for t in new), fresh=frozenset({"new"}), handed=frozenset(),
        head_init=ClosedForm(ridge=0.1, classification="ridge", scale=1.0), inner=build_inner("maml", diverge=1e6),
    )  # fmt: skip
    adapt, drawn = adapter(), [episode(new, shots=n) for n in (20, 12, 20, 12, 5, 20)]
    with torch.no_grad(), FlopCounterMode(display=False) as scoring:
        model.outputs(model.params(), drawn[0].query[0].batch, new)
    for e in drawn:
        before = adapt.spent
        with FlopCounterMode(display=False) as whole:
            points = adapt.adapt(start, e, how)
        spent = adapt.spent - before
        assert spent.flops > 0
        assert spent.flops == whole.get_total_flops() - len(points) * scoring.get_total_flops()


def test_kept_tasks_are_scored_before_and_after() -> None:
    model = a_model(TASKS)
    model.add_task(regression("new"), "a")
    kept = tuple(regression(t) for t in TASKS)
    start = a_start(model=model, block="c", tasks=(regression("new"),), fresh=frozenset({"new"}), handed=frozenset(), kept=kept)
    drawn = episode((*TASKS, "new"))
    found = adapter().adapt(start, drawn, trial(), watch=5)
    assert set(found[0]) == set(found[5]) == {"a", "b", "new"}
    assert set(found[1]) == {"new"}
    assert found[5]["a"] != found[0]["a"], "the trunk moved"
    assert adapter().adapt(start, episode(("new",)), trial())[5]["new"] == found[5]["new"], "nothing was learnt from their labels"


def test_a_descent_that_leaves_the_numbers_keeps_its_last_scores() -> None:
    start = a_start(handed=frozenset())
    found = adapter(steps=(0, 1, 200)).adapt(start, episode(), trial(lr=1e6))
    assert list(found) == [0, 1, 200]
    assert all(math.isfinite(v) or v != v for metrics in found[200].values() for v in metrics.values())


def test_freedom_is_everything_where_nothing_was_handed_over() -> None:
    model = a_model(TASKS)
    names = frozenset(model.params())
    free = handed_over(Extract(), model, names, frozenset(), 10)
    assert free.names == names
    assert free.penalty is None
    encoders = frozenset(n for n in names if n.startswith("encoder."))
    held = handed_over(Extract(), model, names, encoders, 10)
    assert held.names == names - encoders
    assert held.at(0) == held.names


def test_a_descent_that_was_taken_back_scores_as_if_it_had_not_begun() -> None:
    start = a_start(handed=frozenset(), inner=build_inner("maml", inner_lr=1e9, clip=None, max_halvings=0))
    found = adapter(steps=(0, 1, 2)).adapt(start, episode(), Trial("inner loop", None))
    assert found[1] == found[2] == found[0]
    assert start.unchanged


def test_kept_tasks_are_scored_where_a_descent_ended_early() -> None:
    model = a_model(TASKS)
    model.add_task(regression("new"), "a")
    kept = tuple(regression(t) for t in TASKS)
    start = a_start(model=model, block="c", tasks=(regression("new"),), fresh=frozenset({"new"}), handed=frozenset(), kept=kept)
    found = adapter(steps=(0, 200)).adapt(start, episode((*TASKS, "new")), trial(lr=1e6), watch=200)
    assert set(found[200]) == {"a", "b", "new"}
