"""Properties that balancers have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.testing import assert_close

from m3tl_cli.balancing.base import Balanced, Balancer


def call(balancer: Balancer, rows_TP: Tensor, losses_T: Tensor, tasks: Sequence[str]) -> Balanced:
    """Call `combine`, and hold what is true of every outcome: shapes, types, and arguments that are left alone."""
    before = rows_TP.clone(), losses_T.clone(), list(tasks)
    balanced = balancer.combine(rows_TP, losses_T, tasks)
    assert_close((rows_TP, losses_T), before[:2], rtol=0, atol=0, equal_nan=True)
    assert list(tasks) == before[2]
    assert balanced.gradient_P.shape == rows_TP.shape[1:]
    assert balanced.weights_T.shape == balanced.shown_T.shape == (len(tasks),)
    for tensor in (balanced.gradient_P, balanced.weights_T, balanced.shown_T):
        assert tensor.dtype == rows_TP.dtype
        assert not tensor.requires_grad
    return balanced


def assert_equal(one: Balanced, other: Balanced) -> None:
    """Hold that two outcomes are equal to the bit."""
    assert torch.equal(one.gradient_P, other.gradient_P)
    assert torch.equal(one.weights_T, other.weights_T)
    assert torch.equal(one.shown_T, other.shown_T)


def assert_permutes(one: Balancer, other: Balancer, rows_TP: Tensor, losses_T: Tensor, tasks: Sequence[str]) -> None:
    """Hold that reversing the tasks reverses the weights and leaves the gradient; `one` and `other` are equal and fresh."""
    forth = call(one, rows_TP, losses_T, tasks)
    back = call(other, rows_TP.flip(0), losses_T.flip(0), list(reversed(tasks)))
    assert_close(back.gradient_P, forth.gradient_P, rtol=1e-9, atol=1e-9)
    assert_close(back.weights_T.flip(0), forth.weights_T)
    assert_close(back.shown_T.flip(0), forth.shown_T)


def assert_no_conflict(gradient_P: Tensor, rows_TP: Tensor) -> None:
    """Hold that a small step against the gradient raises no task's loss."""
    lengths = rows_TP.norm(dim=1) * gradient_P.norm()
    assert bool((rows_TP @ gradient_P >= -1e-9 * lengths).all())


def assert_resumes(whole: Balancer, stopped: Balancer, fresh: Balancer, steps: Sequence[tuple[Tensor, Tensor, Sequence[str]]]) -> None:
    """Hold that stopping half way, through JSON, and going on in a fresh balancer gives the same bits.

    Args:
        whole: Goes through all steps.
        stopped: Goes through the first half, then hands over its state.
        fresh: Gets the state and goes through the rest. All three are built alike.
        steps: Rows, losses and tasks of each step.
    """
    half = len(steps) // 2
    for step in steps[:half]:
        assert_equal(call(whole, *step), call(stopped, *step))
    fresh.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for step in steps[half:]:
        torch.rand(3)  # the global generator stands elsewhere when a run resumes
        assert_equal(call(whole, *step), call(fresh, *step))
    assert whole.state_dict() == fresh.state_dict()
