from __future__ import annotations

import torch
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.encoder.table.mlp import MLP


def encoder(num_layers: int = 2, width: int = 8) -> MLP:
    return MLP(width=width, num_layers=num_layers, modality=ModalityInfo("sensors", "table", 3))


def test_a_row_becomes_a_vector() -> None:
    for num_layers in (1, 2, 3):
        net = encoder(num_layers)
        assert net(torch.randn(5, 3)).shape == (5, 8)
        assert net.signature == Signature("vector", 8)
        assert sum(isinstance(layer, torch.nn.Linear) for layer in net.layers) == num_layers


def test_a_layer_computed_by_hand() -> None:
    net = encoder(1, width=2).double()
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0, 0, 4], [0, 1, 0, 0, 0, 0]]))
        net.layers[0].bias.zero_()
    # Row (3, 1, missing): linear gives (3 + 4, 1); normalised over the two channels (1, -1); ReLU (1, 0).
    out = net(torch.tensor([[3.0, 1.0, float("nan")]], dtype=torch.float64))
    torch.testing.assert_close(out, torch.tensor([[1.0, 0.0]], dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_a_missing_cell_is_not_a_zero() -> None:
    net = encoder()
    row, missing = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, float("nan"), 2.0]])
    assert not torch.allclose(net(row), net(missing))


def test_missing_cells_keep_gradients_finite() -> None:
    net = encoder()
    x = torch.randn(4, 3)
    x[0], x[1, 1] = float("nan"), float("nan")
    net(x).square().sum().backward()
    assert net(x).isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_second_derivatives_agree_with_finite_differences() -> None:
    net = encoder(width=4).double()
    x = torch.randn(3, 3, dtype=torch.float64)
    weight = net.layers[0].weight.detach().requires_grad_()
    assert gradgradcheck(lambda w: functional_call(net, {"layers.0.weight": w}, x), (weight,), atol=1e-4)


def test_runs_under_vmap_over_parameters() -> None:
    net, x = encoder(), torch.randn(4, 3)
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    torch.testing.assert_close(vmap(lambda p: functional_call(net, p, x))(stacked)[0], net(x))
