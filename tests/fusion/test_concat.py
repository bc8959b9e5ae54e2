from __future__ import annotations

import math

import torch

from m3tl_cli.core.contracts import Signature
from m3tl_cli.fusion.concat import Concat
from tests.fusion.inputs import SIGNATURES, calibration, everywhere, features


def test_two_vectors_are_mixed_as_by_hand() -> None:
    net = Concat(width=2, groups=1, spread=0.1, inputs={"a": Signature("vector", 2), "b": Signature("vector", 2)}).double()
    with torch.no_grad():
        for m in "ab":
            net.project[m][0].weight.copy_(torch.eye(2)[:, :, None, None])
            net.absent[m].copy_(torch.tensor([7.0, 9.0]))
        net.merge.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 1]])[:, :, None, None])
        net.merge.bias.copy_(torch.tensor([0.5, 0.0]))
    given = {"a": torch.tensor([[5.0, 1.0]]).double(), "b": torch.tensor([[1.0, 5.0]]).double()}  # normalised (1, -1), (-1, 1)
    one = 2 / math.sqrt(4 + 1e-5)  # eps of GroupNorm
    out = net(given, everywhere(["a", "b"], 1), {})
    torch.testing.assert_close(out, torch.tensor([[5 * one + 0.5, one]], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    out = net(given, {"a": torch.tensor([True]), "b": torch.tensor([False])}, {})
    torch.testing.assert_close(out, torch.tensor([[one + 3 * 7 + 4 * 9 + 0.5, 9]], dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_token_of_an_absent_modality_learns_only_where_it_is_absent() -> None:
    names = ["rgb", "lidar"]
    net = Concat(width=8, groups=4, spread=0.1, inputs={m: SIGNATURES[m] for m in names})
    present = {"rgb": torch.tensor([True, True]), "lidar": torch.tensor([True, False])}
    net(features(names, 2), present, calibration(2)).square().sum().backward()
    assert (net.absent["rgb"].grad == 0).all()
    assert (net.absent["lidar"].grad != 0).all()
