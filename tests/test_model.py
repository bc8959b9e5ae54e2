"""The model: names, what each task reads, growth, and independence of the order in which parts are made."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.core.contracts import Task, components, shared
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from tests.toys import TABLE, a_batch, regression, states_equal
from tests.trainer.test_shape import a_model

SHARINGS: list[type[Sharing]] = [Hard, Separate, CrossStitch]
BATCH = a_batch({}, torch.randn(5, TABLE.channels, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_a_task_reads_is_what_autograd_finds(sharing: type[Sharing]) -> None:
    model = a_model(("a", "b", "c"), sharing)
    names = list(model.params())
    for task in model.tasks:
        output = model.outputs(model.params(), BATCH, (task,))[task].pow(2).sum()
        found = torch.autograd.grad(output, [model.params()[n] for n in names], allow_unused=True)
        reached = {n for n, g in zip(names, found, strict=True) if g is not None}
        # A token that stands for an absent modality is read, though no sample of this batch lacks one.
        assert reached <= model.reads(task)
        assert all("absent" in n or "missing" in n for n in model.reads(task) - reached), model.reads(task) - reached


def test_sharing_decides_components_and_the_shared_matrix() -> None:
    tasks = ("a", "b", "c")
    assert components(a_model(tasks, Separate), tasks) == [("a",), ("b",), ("c",)]
    assert components(a_model(tasks, Hard), tasks) == [tasks]
    assert shared(a_model(tasks, Separate), tasks) == frozenset()
    hard = shared(a_model(tasks, Hard), tasks)
    assert hard
    assert not any(n.startswith("head.") for n in hard)
    assert any(n.startswith("head.") for n in shared(a_model(tasks, Hard), tasks, coupled=True))
    assert any(n.startswith("sharing.alpha.0") for n in shared(a_model(tasks, CrossStitch), tasks))


def test_outputs_do_not_depend_on_the_parameters_of_others() -> None:
    model = a_model(("a", "b"), Separate)
    params = {n: torch.full_like(p, float("nan")) if ".b." in n else p for n, p in model.params().items()}
    changed = model.outputs(params | {"inner.rate": torch.ones(1)}, BATCH, ("a",))
    assert torch.equal(changed["a"], model.outputs(model.params(), BATCH, ("a",))["a"])


def test_the_start_depends_on_seed_and_name_only() -> None:
    forwards, backwards = a_model(("a", "b"), Separate), a_model(("b", "a"), Separate)
    assert states_equal(dict(sorted(forwards.params().items())), dict(sorted(backwards.params().items())))
    other = a_model(("a", "b"), Separate, seed=1)
    assert not torch.equal(other.params()["head.a.out.weight"], forwards.params()["head.a.out.weight"])


def test_making_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a_model(("a",))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_ledger_remakes_the_names_in_order(sharing: type[Sharing]) -> None:
    model = a_model(("a", "b"), sharing)
    model.add_task(regression("c"), like="b")
    copy = a_model((), sharing)
    copy.replay(model.ledger())
    assert [(n, p.shape) for n, p in copy.params().items()] == [(n, p.shape) for n, p in model.params().items()]
    assert copy.ledger() == model.ledger()


@pytest.mark.parametrize("name", ["values", "to", "two words", "a.b", ""])
def test_a_name_that_no_module_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="identifier"):
        a_model(()).add_task(Task(name, "regression", 1, False))


def test_a_second_task_of_one_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="`a` twice"):
        a_model(("a",)).add_task(regression("a"))


@pytest.mark.parametrize("sharing", [Separate, CrossStitch])
def test_a_task_like_another_starts_with_a_copy_of_its_columns(sharing: type[Sharing]) -> None:
    model = a_model(("a", "b"), sharing)
    grown = model.add_task(regression("c"), like="b")
    for name in grown:
        if name.startswith(("backbone.c.", "encoder.c.", "fusion.c.")):
            assert torch.equal(model.params()[name], model.params()[name.replace(".c.", ".b.", 1)])
    assert any(n.startswith("backbone.c.") for n in grown)


def test_what_an_absent_modality_holds_reaches_neither_outputs_nor_gradients() -> None:
    model = a_model(("a",))
    batch = a_batch({}, BATCH.inputs["table"].clone())
    batch.present["table"][2] = False  # type: ignore[index]
    expected = model.outputs(model.params(), batch, ("a",))["a"]
    batch.inputs["table"][2] = float("inf")
    found = model.outputs(model.params(), batch, ("a",))["a"]
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found.sum(), list(model.params().values()), allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_features_of_a_head_lead_to_its_output_and_reach_all_that_it_reads(sharing: type[Sharing]) -> None:
    model = a_model(("a", "b"), sharing)
    phi = model.params()
    features = model.head_features(phi | {"inner.rate": torch.ones(1)}, BATCH, "a")
    output = features @ phi["head.a.out.weight"].T + phi["head.a.out.bias"]
    torch.testing.assert_close(output, model.outputs(phi, BATCH, ("a",))["a"])
    doubled = {n: 2 * p if n.startswith("backbone.") else p for n, p in phi.items()}
    assert not torch.equal(model.head_features(doubled, BATCH, "a"), features)
    below = [p for n, p in phi.items() if n in model.reads("a") and not n.startswith("head.") and "absent" not in n]
    assert all(g is not None for g in torch.autograd.grad(features.sum(), below, allow_unused=True))
