from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from m3tl_cli.sharing.cross_stitch import CrossStitch
from tests.sharing.stack import Stack


def started(tasks: str, num_stages: int = 2) -> CrossStitch:
    sharing = CrossStitch(own=0.9, num_stages=num_stages)
    sharing.start(list(tasks))
    for task in tasks:
        sharing.grow(task)
    return sharing


def matrix(sharing: CrossStitch, stage: int, tasks: str) -> torch.Tensor:
    alpha = dict(sharing.named_parameters())
    return torch.tensor([[alpha[f"alpha.{stage}.{i}.{j}"].item() for j in tasks] for i in tasks])


def stack(tasks: str, num_stages: int = 2) -> Stack:
    sharing = CrossStitch(own=0.9, num_stages=num_stages)
    sharing.start(list(tasks))
    return Stack(sharing, list(tasks), num_stages)


def test_two_columns_are_mixed_as_by_hand() -> None:
    out = started("ab").mix(1, {"a": torch.tensor([[10.0, 0.0]]), "b": torch.tensor([[0.0, 20.0]])})
    torch.testing.assert_close(dict(out), {"a": torch.tensor([[9.0, 2.0]]), "b": torch.tensor([[1.0, 18.0]])})


def test_tasks_that_start_together_share_alike() -> None:
    sharing = started("abc")
    expected = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    for stage in (0, 1):
        torch.testing.assert_close(matrix(sharing, stage, "abc"), expected)
    assert [n for n, _ in sharing.named_parameters()][:4] == ["alpha.0.a.a", "alpha.0.a.b", "alpha.0.a.c", "alpha.0.b.a"]
    assert len(list(sharing.parameters())) == 2 * 9


def test_a_task_alone_is_not_mixed() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(started("a").mix(0, {"a": x})["a"], x)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 3)])
def test_with_the_identity_columns_are_independent(shape: tuple[int, ...]) -> None:
    sharing = started("abc")
    identity = {n: torch.tensor(float(n.split(".")[-1] == n.split(".")[-2])) for n, _ in sharing.named_parameters()}
    x = {t: torch.randn(shape) for t in "abc"}
    for n, p in sharing.named_parameters():
        p.data.copy_(identity[n])
    out = sharing.mix(0, x)
    assert all(torch.equal(out[t], x[t]) for t in "abc")


def test_with_the_identity_the_whole_model_equals_separate_backbones() -> None:
    model = stack("ab")
    for n, p in model.sharing.named_parameters():
        p.data.fill_(float(n.split(".")[-1] == n.split(".")[-2]))
    x = torch.randn(5, 3, dtype=torch.float64)
    for task in "ab":
        alone = torch.tanh(model.input["shared"](x))
        for stage in model.backbone[task]:  # type: ignore[union-attr]
            alone = torch.tanh(stage(alone))
        assert torch.equal(model(x, task), model.head[task](alone))


@pytest.mark.parametrize("like", [None, "a"])
def test_growth_leaves_old_outputs_equal_to_the_bit(like: str | None) -> None:
    model = stack("ab")
    x = torch.randn(5, 3, dtype=torch.float64)
    before = {t: model(x, t) for t in "ab"}
    old = {n: (p, p.clone()) for n, p in model.named_parameters()}
    model.add("c", like)
    model.add("d")
    after = {t: model(x, t) for t in "ab"}
    assert all(torch.equal(before[t], after[t]) for t in "ab")
    now = dict(model.named_parameters())
    assert all(now[n] is p and torch.equal(p, value) for n, (p, value) in old.items())  # the optimiser still holds them


def test_a_new_row_starts_as_if_all_had_started_together() -> None:
    sharing = started("ab")
    sharing.grow("c")
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.05, 0.05, 0.9]])
    torch.testing.assert_close(matrix(sharing, 0, "abc"), expected)


def test_a_new_row_like_another_takes_its_place() -> None:
    sharing = started("ab")
    dict(sharing.named_parameters())["alpha.1.b.a"].data.fill_(0.3)
    sharing.grow("c", like="b")
    torch.testing.assert_close(matrix(sharing, 1, "abc"), torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.9, 0.0], [0.3, 0.0, 0.9]]))


def test_a_copied_column_under_a_row_like_it_gives_the_same_features() -> None:
    model = stack("ab")
    model.add("c", like="b")
    model.backbone["c"].load_state_dict(model.backbone["b"].state_dict())
    model.head["c"].load_state_dict(model.head["b"].state_dict())
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x, "c"), model(x, "b"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_stages", [1, 3])
def test_what_it_declares_is_what_autograd_finds(num_stages: int) -> None:
    model = stack("abc", num_stages)
    model.add("d")
    for task in "abcd":
        assert model.declared(task) == model.reached(task)
    assert model.sharing.needs("b", model.tasks) == ("b", "a", "c", "d")


def test_a_new_column_at_zero_can_still_be_learned() -> None:
    model = stack("ab")
    model.add("c")
    loss = model(torch.randn(5, 3, dtype=torch.float64), "a").square().sum()
    alpha = dict(model.named_parameters())["sharing.alpha.0.a.c"]
    assert alpha.item() == 0
    assert torch.autograd.grad(loss, alpha)[0].abs() > 0


def test_functional_call_replaces_alpha() -> None:
    sharing = started("ab")
    x = {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}

    class Mixer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sharing = sharing

        def forward(self) -> torch.Tensor:
            return self.sharing.mix(0, x)["a"]

    alpha = {f"sharing.{n}": torch.full_like(p, 2.0) for n, p in sharing.named_parameters()}
    assert functional_call(Mixer(), alpha, ()).tolist() == [[4, 4]]


def test_names_of_the_same_growth_load_into_each_other() -> None:
    first, second = started("ab"), started("ab")
    first.grow("c", like="a")
    second.grow("c")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.testing.assert_close(matrix(first, 0, "abc"), matrix(second, 0, "abc"))
