from __future__ import annotations

import torch
from torch.nn import functional as F

from m3tl_cli.head_init.zero_out import ZeroOut
from tests.head_init._support import normal, of_classes, of_numbers


def test_it_predicts_the_prior_whatever_the_input() -> None:
    support = of_numbers(normal(6, 3), normal(6, 2))
    weight, bias = ZeroOut().out(normal(2, 3), normal(2), support)
    assert bias is not None
    torch.testing.assert_close(normal(5, 3, seed=1) @ weight.T + bias, support.prior_O.expand(5, 2))


def test_a_layer_without_bias_keeps_none() -> None:
    weight, bias = ZeroOut().out(normal(2, 3), None, of_numbers(normal(6, 3), normal(6, 2)))
    assert bias is None
    assert not weight.any()


def test_the_first_step_is_one_towards_class_means() -> None:
    # Equally many of each class, so that the counted prior is the exact frequency.
    z, classes = normal(12, 5), torch.arange(12) % 3
    weight, bias = ZeroOut().out(normal(3, 5), normal(3), of_classes(z, classes[:, None], 3))
    assert bias is not None
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(z @ weight.T + bias, classes), weight)
    means = torch.stack([z[classes == c].mean(0) for c in range(3)])
    torch.testing.assert_close(-0.1 * gradient, 0.1 / 3 * (means - z.mean(0)))
