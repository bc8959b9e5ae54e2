from __future__ import annotations

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import Signature, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.heads.vector.linear import Linear

TASK = Task("light", "multiclass", 3, False)
MAP, VECTOR = Signature("map", 4, (5, 6)), Signature("vector", 4)


@pytest.mark.parametrize("hidden", [[], [7], [7, 5]])
@pytest.mark.parametrize("inputs", [MAP, VECTOR], ids=["map", "vector"])
def test_one_output_vector_per_sample(hidden: list[int], inputs: Signature) -> None:
    head = Linear(hidden=hidden, task=TASK, inputs=inputs)
    assert head(torch.randn(2, 4, *(inputs.grid if inputs.kind == "map" else ()))).shape == (2, 3)
    assert isinstance(head.out, torch.nn.Linear)
    assert sum(isinstance(m, torch.nn.Linear) for m in head.modules()) == len(hidden) + 1


def test_a_map_is_pooled_to_mean_and_maximum() -> None:
    head = Linear(hidden=[], task=Task("count", "regression", 2, False), inputs=Signature("map", 1, (2, 2)))
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(2))
        head.out.bias.copy_(torch.tensor([10.0, 20.0]))
    assert head(torch.tensor([[[[0.0, 4.0], [8.0, 0.0]]]])).tolist() == [[13, 28]]


def test_a_vector_without_hidden_layers_is_one_product() -> None:
    head, x = Linear(hidden=[], task=TASK, inputs=VECTOR), torch.randn(3, 4)
    torch.testing.assert_close(head(x), x @ head.out.weight.T + head.out.bias)


def test_functional_call_with_its_own_parameters_is_the_module() -> None:
    head, x = Linear(hidden=[6], task=TASK, inputs=MAP), torch.randn(3, 4, 5, 6)
    assert torch.equal(head(x), functional_call(head, dict(head.named_parameters()), x))


def test_vmap_over_parameters_is_a_loop_over_heads() -> None:
    heads = [Linear(hidden=[6], task=TASK, inputs=MAP) for _ in range(3)]
    x = torch.randn(2, 4, 5, 6)
    stacked = {n: torch.stack([dict(h.named_parameters())[n].detach() for h in heads]) for n, _ in heads[0].named_parameters()}
    out = vmap(lambda p: functional_call(heads[0], p, x))(stacked)
    torch.testing.assert_close(out, torch.stack([h(x) for h in heads]))


def test_second_derivatives_agree_with_finite_differences() -> None:
    head = Linear(hidden=[3], task=TASK, inputs=Signature("map", 2, (2, 2))).double()
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = head.hidden[0].weight.detach().requires_grad_()
    assert gradgradcheck(lambda x, w: functional_call(head, {"hidden.0.weight": w}, x).square(), (x, weight))


def test_an_empty_hidden_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="`hidden` must be a list of widths"):
        Linear(hidden=[8, 0], task=TASK, inputs=VECTOR)


@pytest.mark.parametrize("inputs", [MAP, VECTOR], ids=["map", "vector"])
def test_the_output_is_the_last_layer_of_the_features(inputs: Signature) -> None:
    head = Linear(hidden=[7], task=TASK, inputs=inputs)
    x = torch.randn(2, 4, *(inputs.grid if inputs.kind == "map" else ()))
    assert head.features(x).shape == (2, 7)
    torch.testing.assert_close(head.rows(head(x)), head.out(head.features(x)))
    assert head.rows(head(x)).shape == (2, 3)
