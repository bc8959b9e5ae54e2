from __future__ import annotations

import torch

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.encoder.table.identity import Identity

NAN = float("nan")


def test_columns_come_out_as_they_are_and_a_missing_cell_as_its_columns_mean() -> None:
    net = Identity(modality=ModalityInfo("sensors", "table", 3))
    assert net.signature == Signature("vector", 3)
    assert not list(net.parameters())
    assert torch.equal(net(torch.tensor([[1.0, NAN, -2.0], [NAN, NAN, 3.0]])), torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 3.0]]))


def test_missing_cells_keep_gradients_finite_and_zero() -> None:
    x = torch.tensor([[1.0, NAN]], requires_grad=True)
    (found,) = torch.autograd.grad(Identity(modality=ModalityInfo("s", "table", 2))(x).sum(), x)
    assert found.tolist() == [[1.0, 0.0]]
