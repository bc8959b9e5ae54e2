from __future__ import annotations

import pytest
import torch

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.optimizer.sgd import SGD


def test_two_updates_by_hand() -> None:
    # p = 1, g = 2: v = 2 + .5 p = 2.5, p = .75; v = .9 * 2.5 + 2 + .375 = 4.625, p = .2875.
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.5).build({"w": p})
    for expected in (0.75, 0.2875):
        p.grad = torch.full_like(p, 2.0)
        optimizer.step()
        assert p.item() == pytest.approx(expected, rel=1e-14)


def test_nesterov_looks_ahead() -> None:
    # The first update is g + momentum v = 2 + .9 * 2.
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0).build({"w": p})
    p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    assert p.item() == pytest.approx(1 - 0.38, rel=1e-14)


def test_one_group_keeps_the_order_of_the_names() -> None:
    leaves = {name: torch.ones(1, requires_grad=True) for name in ("z", "a", "m")}
    (group,) = SGD(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0).build(leaves).param_groups
    assert group["names"] == ["z", "a", "m"]
    assert all(p is leaves[name] for p, name in zip(group["params"], group["names"], strict=True))
    assert group["lr"] == group["initial_lr"] == 0.1


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match="`momentum` must be above 0"):
        SGD(lr=0.1, momentum=0.0, nesterov=True, weight_decay=0.0)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one parameter"):
        SGD(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0).build({})
