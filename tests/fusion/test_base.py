"""What holds for every fusion."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import Signature
from m3tl_cli.fusion.base import Fusion
from m3tl_cli.fusion.concat import Concat
from m3tl_cli.fusion.gated import Gated
from tests.fusion.inputs import SIGNATURES, calibration, everywhere, features

FUSIONS = [Concat, Gated]
SUBSETS = [list(c) for n in (1, 2, 3, 4) for c in itertools.combinations(SIGNATURES, n)]
every_fusion = pytest.mark.parametrize("kind", FUSIONS, ids=lambda kind: kind.__name__)


def make(kind: type[Fusion], names: list[str], width: int = 8) -> Fusion:
    return kind(width=width, groups=4, spread=0.1, inputs={m: SIGNATURES[m] for m in names})  # type: ignore[call-arg]


@every_fusion
@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_any_modalities_give_what_the_signature_names(kind: type[Fusion], names: list[str]) -> None:
    net = make(kind, names)
    out = net(features(names, 2), everywhere(names, 2), calibration(2))
    if names == ["table"]:
        assert net.signature == Signature("vector", 8)
        assert out.shape == (2, 8)
    else:
        assert net.signature == Signature("map", 8, (4, 5) if names in (["thermal"], ["table", "thermal"]) else net.signature.grid)
        assert out.shape == (2, 8, *net.signature.grid)
    assert out.isfinite().all()


@every_fusion
def test_the_finest_map_sets_the_grid(kind: type[Fusion]) -> None:
    assert make(kind, ["thermal", "rgb"]).signature.grid == (8, 10)
    assert make(kind, ["lidar", "thermal"]).signature.grid == (4, 5)
    assert make(kind, ["table", "lidar"]).signature.grid == (8, 10)


@every_fusion
@pytest.mark.parametrize("absent", list(SIGNATURES))
@pytest.mark.parametrize("trash", [float("nan"), float("inf"), 1e30])
def test_what_an_absent_modality_holds_reaches_neither_output_nor_gradients(kind: type[Fusion], absent: str, trash: float) -> None:
    names = list(SIGNATURES)
    net, given, geometry = make(kind, names), features(names, 3), calibration(3)
    present = everywhere(names, 3)
    present[absent] = torch.tensor([True, False, False])
    outs: list[Tensor] = []
    grads: list[list[Tensor | None]] = []
    for broken in (False, True):
        x = {m: t.clone() for m, t in given.items()}
        g = {k: t.clone() for k, t in geometry.items()}
        if broken:
            x[absent][1:] = trash
            for key in g:
                if key.startswith(f"{absent}.") and g[key].is_floating_point():
                    g[key][1:] = trash
        x[absent].requires_grad_()
        out = net(x, present, g)
        net.zero_grad()
        out.square().sum().backward()
        outs.append(out)
        grads.append([x[absent].grad, *(p.grad for p in net.parameters())])
    assert torch.equal(*outs)
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert b is not None
        assert b.isfinite().all()
        assert torch.equal(a, b)
    assert (grads[1][0][1:] == 0).all()  # type: ignore[index]
    assert (grads[1][0][0] != 0).any()  # type: ignore[index]


@every_fusion
def test_every_modality_matters_where_it_is_present(kind: type[Fusion]) -> None:
    names = list(SIGNATURES)
    net, given, geometry = make(kind, names), features(names, 2), calibration(2)
    geometry["lidar.valid"][:] = True
    out = net(given, everywhere(names, 2), geometry)
    for m in names:
        other = net({**given, m: torch.randn_like(given[m])}, everywhere(names, 2), geometry)
        assert (out - other).abs().max() > 1e-3


@every_fusion
def test_samples_do_not_see_each_other(kind: type[Fusion]) -> None:
    names = list(SIGNATURES)
    net = make(kind, names).double()
    given = {m: x.double() for m, x in features(names, 3).items()}
    geometry = calibration(3)
    present = {m: torch.tensor([True, m != "rgb", m != "lidar"]) for m in names}
    out = net(given, present, geometry)
    alone = net(*({k: t[1:2] for k, t in group.items()} for group in (given, present, geometry)))
    torch.testing.assert_close(out[1:2], alone, rtol=1e-10, atol=1e-10)


@every_fusion
def test_inputs_are_left_alone(kind: type[Fusion]) -> None:
    names = list(SIGNATURES)
    groups = features(names, 2), everywhere(names, 2), calibration(2)
    before = [{k: t.clone() for k, t in group.items()} for group in groups]
    make(kind, names)(*groups)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(groups, before, strict=True) for k in a)


@every_fusion
def test_second_derivatives_agree_with_finite_differences(kind: type[Fusion]) -> None:
    inputs = {"rgb": Signature("map", 2, (2, 3)), "lidar": Signature("tokens", 2, (2, 3)), "thermal": Signature("map", 1, (1, 2))}
    net = kind(width=2, groups=1, spread=0.3, inputs=inputs).double()  # type: ignore[call-arg]
    rgb, tokens, thermal = torch.randn(2, 2, 2, 3), torch.randn(2, 4, 2), torch.randn(2, 1, 1, 2)
    present = {"rgb": torch.tensor([True, True]), "lidar": torch.tensor([True, False]), "thermal": torch.tensor([True, True])}
    geometry = calibration(2, 4)
    leaves = tuple(x.double().requires_grad_() for x in (rgb, tokens, thermal, next(net.project["rgb"].parameters()).detach()))  # type: ignore[index, operator]

    def run(rgb: Tensor, tokens: Tensor, thermal: Tensor, weight: Tensor) -> Tensor:
        return functional_call(
            net, {"project.rgb.0.weight": weight}, ({"rgb": rgb, "lidar": tokens, "thermal": thermal}, present, geometry)
        )

    assert gradgradcheck(run, leaves, atol=1e-4)


@every_fusion
def test_runs_under_vmap_over_parameters_and_features(kind: type[Fusion]) -> None:
    names = list(SIGNATURES)
    net, given, geometry = make(kind, names), features(names, 2), calibration(2)
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    twice = {m: torch.stack([x, -x]) for m, x in given.items()}
    out = vmap(lambda p, x: functional_call(net, p, (x, everywhere(names, 2), geometry)))(stacked, twice)
    torch.testing.assert_close(out[0], net(given, everywhere(names, 2), geometry))
    second = functional_call(
        net, {n: p[1] for n, p in stacked.items()}, ({m: -x for m, x in given.items()}, everywhere(names, 2), geometry)
    )
    torch.testing.assert_close(out[1], second)


@every_fusion
def test_runs_in_bfloat16(kind: type[Fusion]) -> None:
    names = list(SIGNATURES)
    net, given, geometry = make(kind, names), features(names, 2), calibration(2)
    exact = net(given, everywhere(names, 2), geometry)
    with torch.autocast("cpu", torch.bfloat16):
        out = net({m: x.bfloat16() for m, x in given.items()}, everywhere(names, 2), geometry)
    assert (out.float() - exact).abs().mean() < 0.03 * exact.abs().mean()  # 8 bits: single cells may be off by more
