from __future__ import annotations

import math

import torch

from m3tl_cli.core.contracts import Signature
from m3tl_cli.fusion.gated import Gated
from tests.fusion.inputs import SIGNATURES, calibration, everywhere, features


def fusion(names: list[str], width: int = 8) -> Gated:
    return Gated(width=width, groups=4, spread=0.1, inputs={m: SIGNATURES[m] for m in names})


def test_two_vectors_are_weighed_as_by_hand() -> None:
    net = Gated(width=2, groups=1, spread=0.1, inputs={"a": Signature("vector", 2), "b": Signature("vector", 2)}).double()
    with torch.no_grad():
        for m in "ab":
            net.project[m][0].weight.copy_(torch.eye(2)[:, :, None, None])
        net.gate.weight.zero_()
        net.gate.bias.copy_(torch.tensor([math.log(3), 0.0], dtype=torch.float64))  # softmax: 3/4 and 1/4
    given = {"a": torch.tensor([[5.0, 1.0]]).double(), "b": torch.tensor([[1.0, 5.0]]).double()}  # normalised: (1, -1) and (-1, 1)
    out = net(given, everywhere(["a", "b"], 1), {})
    one = math.tanh(2 / math.sqrt(4 + 1e-5))  # eps of GroupNorm
    torch.testing.assert_close(out, torch.tensor([[0.5 * one, -0.5 * one]], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    out = net(given, {"a": torch.tensor([False]), "b": torch.tensor([True])}, {})
    torch.testing.assert_close(out, torch.tensor([[-one, one]], dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_gates_follow_what_the_modalities_hold() -> None:
    net = fusion(["rgb", "lidar"]).double()
    given = {m: x.double() for m, x in features(["rgb", "lidar"], 1).items()}
    geometry = calibration(1)
    weight = net.gate.weight.detach().clone()
    plain = net(given, everywhere(["rgb", "lidar"], 1), geometry)
    with torch.no_grad():
        net.gate.weight.copy_(10 * weight)
    assert not torch.allclose(plain, net(given, everywhere(["rgb", "lidar"], 1), geometry))


def test_one_modality_has_all_the_weight() -> None:
    net = fusion(["rgb"])
    given = features(["rgb"], 2)
    torch.testing.assert_close(net(given, everywhere(["rgb"], 2), {}), net.project["rgb"](given["rgb"]))


def test_a_sample_without_any_modality_is_a_finite_constant() -> None:
    names = ["rgb", "lidar"]
    net = fusion(names)
    none = {m: torch.zeros(2, dtype=torch.bool) for m in names}
    out = net(features(names, 2), none, calibration(2))
    assert torch.equal(out, net(features(names, 2), none, calibration(2)))
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
