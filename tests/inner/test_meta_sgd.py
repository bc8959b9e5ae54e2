from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Params
from tests.inner._inputs import build, weighted

CURVATURES = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


def loss_to(centre: Tensor) -> object:
    def loss(params: Params) -> dict[str, Tensor]:
        return {"a": (CURVATURES * (params["backbone.s.theta"] - centre).square() / 2).sum()}

    return loss


@pytest.mark.parametrize("order", [1, 2])
def test_it_learns_one_over_the_curvature_of_every_coordinate(order: int) -> None:
    inner = build("meta_sgd", inner_lr=0.1, order=order, num_inner_steps=1, loss_weights=None, clip=None)
    phi = {"backbone.s.theta": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
    inner.start(phi, {"a": frozenset(phi)})
    rho = inner.params()["inner.rate.backbone.s.theta"]
    assert rho.shape == (3,)
    optimizer = torch.optim.Adam([rho], lr=0.05)
    for centre in torch.randn(600, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        at = phi | inner.params()
        loss = loss_to(centre)
        reached = inner.adapt(loss, at, frozenset(phi), steps=1, differentiable=True)  # type: ignore[arg-type]
        rho.grad = inner.outer(at, reached, weighted(loss, reached), list(at), keep=False)["inner.rate.backbone.s.theta"]  # type: ignore[arg-type]
        optimizer.step()
    torch.testing.assert_close(0.1 * rho.detach().exp(), 1 / CURVATURES, rtol=1e-3, atol=0)


def test_rates_start_at_the_inner_rate_and_cannot_turn_negative() -> None:
    inner = build("meta_sgd", inner_lr=0.1)
    inner.start({"head.a.w": torch.zeros(2)}, {"a": frozenset({"head.a.w"})})
    assert inner.measured()["inner/rate/head.a.w"] == pytest.approx(0.1)
    with torch.no_grad():
        inner.params()["inner.rate.head.a.w"] -= 100
    assert 0 <= inner.measured()["inner/rate/head.a.w"] < 1e-30
