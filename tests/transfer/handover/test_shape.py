"""What every hand-over promises, whatever its option."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch

from m3tl_cli.core.contracts import Task
from m3tl_cli.transfer.base import HandOver
from m3tl_cli.transfer.handover.extract import Extract
from m3tl_cli.transfer.handover.fine_tune import FineTune
from m3tl_cli.transfer.handover.lora import LoRA
from m3tl_cli.transfer.handover.scale_shift import ScaleShift
from tests.toys import states_equal
from tests.transfer.networks import TASKS, a_batch, a_model, changed, fresh_heads, outputs, state, train

OPTIONS: list[HandOver] = [
    Extract(),
    FineTune(decay=0.5, unfreeze_every=0.1, l2_sp=0.1),
    ScaleShift(scale="channel"),
    ScaleShift(scale="slice"),
    LoRA(r=2, alpha=4.0),
]
FREEZING = [o for o in OPTIONS if not isinstance(o, FineTune)]
pytestmark = pytest.mark.parametrize("option", OPTIONS, ids=lambda o: type(o).__name__)


def test_the_first_output_is_the_sources_to_the_bit(option: HandOver) -> None:
    for dtype in (torch.float32, torch.float64):
        model = a_model().to(dtype)
        model.refresh()
        batch = a_batch(dtype=dtype)
        before = outputs(model, batch)
        names = set(model.params())
        added = option.prepare(model, names, 3)
        assert added == {n for n in model.params() if n not in names and ".base_layer." not in n}
        assert all(torch.equal(o, before[t]) for t, o in outputs(model, batch).items())
        assert all(p.requires_grad and p.dtype == dtype for p in model.params().values())
        functional = model.outputs({n: p.detach().clone() for n, p in model.params().items()}, batch, tuple(model.tasks))
        assert all(torch.equal(o, before[t]) for t, o in functional.items())


def test_preparing_twice_adds_nothing(option: HandOver) -> None:
    model = a_model()
    option.prepare(model, set(model.params()), 3)
    names, values = list(model.params()), state(model)
    assert option.prepare(model, set(names), 4) == frozenset()
    assert list(model.params()) == names
    assert all(torch.equal(values[n], v) for n, v in model.state_dict().items())


def test_preparing_again_in_another_process_makes_the_same_names_and_numbers(option: HandOver) -> None:
    first, second = a_model(), a_model()
    torch.manual_seed(5)
    option.prepare(first, set(first.params()), 3)
    torch.manual_seed(6)
    expected = torch.get_rng_state()
    option.prepare(second, set(second.params()), 3)
    assert torch.equal(torch.get_rng_state(), expected), "the global generator is nobody's to move"
    assert list(first.params()) == list(second.params())
    assert all(torch.equal(p, second.params()[n]) for n, p in first.params().items())


def test_what_is_fresh_is_trained_and_its_names_stay(option: HandOver) -> None:
    model = a_model()
    fresh = frozenset(n for n in model.params() if not n.startswith("encoder."))
    added = option.prepare(model, set(model.params()) - fresh, 0)
    assert fresh <= set(model.params())
    assert all(n.startswith("encoder.") for n in added)
    assert fresh <= option.trainable(model.params(), fresh, 0, 20)


def test_heads_are_trained_and_frozen_sets_are_nested(option: HandOver) -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option.prepare(model, set(model.params()) - fresh, 0)
    sets = [option.trainable(model.params(), fresh, step, 20) for step in range(20)]
    assert fresh_heads(model, "count", "depth") <= sets[0]
    assert all(a <= b for a, b in pairwise(sets))
    assert all(s <= set(model.params()) for s in sets)


def test_training_moves_what_is_trainable_and_not_a_bit_of_anything_else(option: HandOver) -> None:
    for normed in (False, True):
        model = a_model(normed=normed)
        fresh = fresh_heads(model, "count")
        before = state(model)
        option.prepare(model, set(model.params()) - fresh, 0)
        prepared = state(model)
        train(model, option, fresh, steps=12)
        free = option.trainable(model.params(), fresh, 11, 12)
        moved = {n for n, v in prepared.items() if not torch.equal(v, model.state_dict()[n])}
        parameters = {n for n in moved if n in model.params()}
        assert parameters <= free
        assert free - parameters <= {n for n in free if "absent" in n}, "a token for what is absent has no gradient here"
        if option in FREEZING:
            assert {n.split(".")[0] for n in changed(before, model)} == {"head"}, "statistics of normalisation too"


def test_a_copy_and_a_copy_of_its_state_behave_alike(option: HandOver) -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option.prepare(model, set(model.params()) - fresh, 0)
    train(model, option, fresh, steps=11)
    twin = copy.deepcopy(model)
    twin.refresh()
    again = a_model()
    option.prepare(again, set(again.params()) - fresh, 9)
    again.load_state_dict(model.state_dict())
    for other in (twin, again):
        other.eval()
        assert all(torch.equal(o, outputs(model.eval(), a_batch())[t]) for t, o in outputs(other, a_batch()).items())
    held = state(model)
    train(twin, option, fresh, steps=11)
    assert states_equal(held, state(model)), "the copy has tensors of its own"


def test_gradients_reach_the_trainable_names_through_a_functional_call(option: HandOver) -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option.prepare(model, set(model.params()) - fresh, 0)
    free = option.trainable(model.params(), fresh, 19, 20)
    theta = {n: p.detach().clone().requires_grad_(n in free) for n, p in model.params().items()}
    loss = model.outputs(theta, a_batch(), ("count",))["count"].square().mean()
    wrt = [n for n in theta if n in free]
    first = torch.autograd.grad(loss, [theta[n] for n in wrt], allow_unused=True, create_graph=True)
    reached = {n for n, g in zip(wrt, first, strict=True) if g is not None}
    assert {n for n in wrt if not n.startswith("head.depth.") and "absent" not in n} <= reached
    # One inner step by hand, then a gradient through it.
    stepped = theta | {n: theta[n] - 0.1 * g for n, g in zip(wrt, first, strict=True) if g is not None}
    outer = model.outputs(stepped, a_batch(1), ("count",))["count"].square().mean()
    second = torch.autograd.grad(outer, [theta[n] for n in sorted(reached)], allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in second)


def test_rates_are_factors_of_every_name(option: HandOver) -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option.prepare(model, set(model.params()) - fresh, 0)
    rates = option.rates(model.params(), fresh)
    assert list(rates) == list(model.params())
    assert all(0 < r <= 1 for r in rates.values())
    assert all(rates[n] == 1 for n in fresh_heads(model, "count", "depth"))


def test_a_task_can_be_added_before_what_was_learnt_is_prepared(option: HandOver) -> None:
    model = a_model()
    fresh = model.add_task(Task("new", "regression", 1, False), like=TASKS[0].name)
    option.prepare(model, set(model.params()) - fresh, 0)
    assert fresh <= option.trainable(model.params(), fresh, 0, 20)
    assert outputs(model, a_batch())["new"].shape == (6, 1)
