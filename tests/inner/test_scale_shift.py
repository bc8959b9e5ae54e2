from __future__ import annotations

import torch

from tests.inner._inputs import build


def test_only_scales_shifts_and_heads_adapt() -> None:
    inner = build("scale_shift", inner_lr=0.1, rates="fixed", clip=None, loss_weights=None, num_inner_steps=1)
    phi = {
        "backbone.s.base_layer.weight": torch.tensor(2.0, requires_grad=True),
        "backbone.s.scale": torch.tensor(1.0, requires_grad=True),
        "backbone.s.shift": torch.tensor(0.0, requires_grad=True),
        "head.a.out.weight": torch.tensor(1.0, requires_grad=True),
    }
    names = frozenset(n for n in phi if inner.adapts(n))
    assert names == phi.keys() - {"backbone.s.base_layer.weight"}

    def loss(p: object) -> dict[str, torch.Tensor]:
        feature = p["backbone.s.base_layer.weight"] * p["backbone.s.scale"] + p["backbone.s.shift"]  # type: ignore[index]
        return {"a": (p["head.a.out.weight"] * feature - 1).square()}  # type: ignore[index]

    theta = inner.adapt(loss, phi, names, steps=1, differentiable=True)[-1].params
    # The error is 1 and doubles in the square: slopes 2 * 2 for the scale, 2 for the shift, 2 * 2 for the head.
    found = {n: round(float(t.detach()), 6) for n, t in theta.items()}
    assert found == {
        "backbone.s.base_layer.weight": 2.0, "backbone.s.scale": 0.6, "backbone.s.shift": -0.2, "head.a.out.weight": 0.6,
    }  # fmt: skip
    assert theta["backbone.s.base_layer.weight"] is phi["backbone.s.base_layer.weight"]
