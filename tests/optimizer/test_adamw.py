from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.optimizer.adamw import AdamW


def params() -> dict[str, Tensor]:
    shapes = {"z.bias": (3,), "b.weight": (2, 3), "norm.weight": (4,), "a.weight": (2, 2, 1, 1), "scale": ()}
    return {name: torch.ones(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def builder(**changed: object) -> AdamW:
    numbers = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.5, **changed}
    return AdamW(**numbers)  # type: ignore[arg-type]


def test_biases_and_normalisation_do_not_decay_and_names_keep_their_order() -> None:
    leaves = params()
    decaying, resting = builder().build(leaves).param_groups
    assert (decaying["names"], decaying["weight_decay"]) == (["b.weight", "a.weight"], 0.5)
    assert (resting["names"], resting["weight_decay"]) == (["z.bias", "norm.weight", "scale"], 0.0)
    for group in (decaying, resting):
        assert all(p is leaves[name] for p, name in zip(group["params"], group["names"], strict=True))
        assert group["lr"] == group["initial_lr"] == 0.1


def test_first_update_by_hand() -> None:
    # The first Adam direction is sign(g); a weight of 1 first decays by lr * weight_decay.
    leaves = params()
    optimizer = builder().build(leaves)
    for p in leaves.values():
        p.grad = torch.full_like(p, 4.0)
    optimizer.step()
    assert leaves["b.weight"].flatten().tolist() == pytest.approx([1 - 0.1 * 0.5 - 0.1] * 6, rel=1e-8)
    assert leaves["scale"].item() == pytest.approx(1 - 0.1, rel=1e-8)


def test_hyper_parameters_reach_torch() -> None:
    group = builder(betas=[0.8, 0.95], eps=1e-3).build(params()).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-3)


def test_only_groups_that_hold_something_are_made() -> None:
    assert [g["names"] for g in builder().build({"bias": torch.ones(2, requires_grad=True)}).param_groups] == [["bias"]]


def test_the_state_continues_bit_for_bit() -> None:
    def run(steps: int, leaves: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            for p in leaves.values():
                p.grad = p.detach().cos()
            optimizer.step()

    whole = params()
    run(6, whole, builder().build(whole))
    first = params()
    optimizer = builder().build(first)
    run(2, first, optimizer)
    second = {name: p.detach().clone().requires_grad_() for name, p in first.items()}
    resumed = builder().build(second)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[1]["names"] == ["z.bias", "norm.weight", "scale"]
    run(4, second, resumed)
    assert all(torch.equal(whole[name], second[name]) for name in whole)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one parameter"):
        builder().build({})
