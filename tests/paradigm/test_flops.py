"""Operations: known answers on linear networks, and what is remembered adds up to what counting every step gives."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Episode, Part
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.inner.base import InnerSGD
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.flops import FlopTable, Passes, Repeated
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.task.regression import Regression
from tests.inner._inputs import build
from tests.paradigm._nets import Net, an_engine, an_episode, maml
from tests.toys import TABLE
from tests.trainer.test_shape import a_model, reptile

IN, WIDTH = TABLE.channels, 8  # of the trunk of `Net`, a linear layer; a head is another, of one output


def forward(size: int, tasks: int = 2) -> int:
    """Of `Net` on `size` samples, by hand: a multiplication and an addition per sample and weight."""
    return 2 * size * IN * WIDTH + tasks * 2 * size * WIDTH


def backward(size: int, tasks: int = 2, trunk: bool = True) -> int:
    """The same: a gradient for the weights, and one for the input of every layer but the first."""
    return tasks * (2 + (2 if trunk else 0)) * size * WIDTH + (2 * size * IN * WIDTH if trunk else 0)


def plain(size: int, *, per_task: bool = False) -> Episode:
    """A mini-batch of `size` samples, shared by the tasks or one each."""
    episode = an_episode(size, per_task=per_task)
    query = tuple(Part(p.batch.take(torch.arange(size) % len(p.batch)), p.tasks) for p in episode.query)
    return replace(episode, support=(), query=query)


def counted(engine: Engine, draws: Sequence[Sequence[Episode]]) -> list[int]:
    """Operations of each of several signals, every one counted whole."""
    found = []
    for episodes in draws:
        with FlopCounterMode(display=False) as mode:
            engine.signal(episodes)
        found.append(mode.get_total_flops())
    return found


def test_a_mini_batch_costs_a_forward_and_a_backward_of_its_samples() -> None:
    engine = an_engine(Net("none"), Sum(), None)
    engine.signal([plain(5)])
    assert engine.passes == Passes(1, 1, forward(5) + backward(5))
    engine.signal([plain(5)])
    assert engine.passes == Passes(2, 2, 2 * (forward(5) + backward(5))), "looked up"
    engine.signal([plain(3)])
    assert engine.passes.flops == 2 * (forward(5) + backward(5)) + forward(3) + backward(3), "three samples are not five"


def test_a_batch_per_task_passes_the_trunk_once_a_task() -> None:
    engine = an_engine(Net("none"), Sum(), None)
    engine.signal([plain(5, per_task=True)])
    assert engine.passes.flops == 2 * (forward(5, tasks=1) + backward(5, tasks=1))


def test_rows_walk_a_shared_trunk_once_a_task() -> None:
    engine = an_engine(Net("none"), MGDA(), None)
    engine.signal([plain(5)])
    assert engine.passes.flops == forward(5) + 2 * backward(5, tasks=1)


def test_what_is_not_trained_is_not_walked_back_to() -> None:
    model = Net("none")
    engine = an_engine(model, Sum(), None)
    engine.signal([plain(5)])
    before = engine.passes.flops
    engine.trainable = frozenset(n for n in model.params() if n.startswith("head."))
    engine.signal([plain(5)])
    assert engine.passes.flops - before == forward(5) + backward(5, trunk=False), "the trunk's gradient is not asked for any more"


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_first_order_meta_learning_costs_a_pass_there_and_back_per_inner_step_and_one_on_query(steps: int) -> None:
    inner = maml(order=1, rates="fixed", num_inner_steps=steps, loss_weights=None, scope=["backbone", "head"])
    engine = an_engine(Net("none"), Sum(), inner)
    engine.signal([an_episode(0), an_episode(1)])  # 5 samples of support and 7 of query
    assert engine.passes.flops == 2 * (steps * (forward(5) + backward(5)) + forward(7) + backward(7))


def test_second_order_costs_more_than_first_and_a_look_at_the_network_costs_a_forward() -> None:
    first, second = (an_engine(Net("none"), Sum(), maml(order=o, rates="fixed", loss_weights=None)) for o in (1, 2))
    for engine in (first, second):
        engine.signal([an_episode(0)])
    assert second.passes.flops > 1.3 * first.passes.flops
    assert second.passes.backward > first.passes.backward
    with torch.no_grad():
        before = second.passes.flops
        second.losses(second.params(), an_episode(0).query[0])
    assert second.passes.flops - before == forward(7)


DRAWS = [
    [an_episode(0), an_episode(1, weight=0.5)],
    [an_episode(2, shots=4), an_episode(3, per_task=True)],
    [an_episode(4), an_episode(5)],
    [an_episode(6, per_task=True), an_episode(7, shots=4), plain(5)],
    [an_episode(8, tasks=("a",)), an_episode(9, tasks=("b",), shots=4)],
    [an_episode(10, shots=4), an_episode(11, per_task=True)],
]


@pytest.mark.parametrize("rates", ["module_task", pytest.param("fixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("balancer", [Sum, MGDA])
@pytest.mark.parametrize("order", [1, 2])
def test_what_is_remembered_adds_up_to_counting_every_step(order: int, balancer: type[Balancer], rates: str) -> None:
    inner = maml(order=order, rates=rates, num_inner_steps=3, loss_weights=[0.5, 0.0, 0.2, 0.3])
    engine = an_engine(Net("layer"), balancer(), inner)
    assert sum(counted(engine, DRAWS)) == engine.passes.flops


@pytest.mark.parametrize("norm", ["attention", "batch"])
def test_attention_in_second_order_adds_up_too(norm: str) -> None:
    engine = an_engine(Net(norm).eval(), Sum(), maml(order=2))
    assert sum(counted(engine, DRAWS[:3] + DRAWS[:3])) == engine.passes.flops


@pytest.mark.parametrize("sharing", [Separate, CrossStitch])
@pytest.mark.parametrize("inner", ["maml", "anil", "reptile", ""])
def test_other_inner_loops_and_networks_add_up_too(inner: str, sharing: type[Sharing]) -> None:
    loops = {"maml": maml, "anil": lambda: build("anil", inner_lr=0.1, engine="loop"), "reptile": lambda: reptile(2)}
    engine = an_engine(a_model(("a", "b"), sharing, torch.float64), Sum(), loops[inner]() if inner else None)
    draws = DRAWS if inner else [[plain(5)], [plain(3), plain(5, per_task=True)], [plain(5)], [plain(5, per_task=True)]]
    assert sum(counted(engine, draws)) == engine.passes.flops


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("sharing", [Separate, CrossStitch])
@pytest.mark.parametrize("lr", [5.0, pytest.param(100.0, marks=pytest.mark.slow)])
def test_descents_that_are_taken_back_count_what_they_did(lr: float, sharing: type[Sharing], order: int) -> None:
    inner = maml(order=order, rates="fixed", inner_lr=lr, diverge=1.01, max_halvings=2, num_inner_steps=3, loss_weights=None, clip=None)
    engine = an_engine(a_model(("a", "b"), sharing, torch.float64), Sum(), inner)
    each = counted(engine, [[an_episode(i), an_episode(i + 1)] for i in range(4)])
    assert sum(each) == engine.passes.flops
    assert inner.halvings > 0
    before = engine.passes.flops
    drawn = [an_episode(i).support for i in range(3)]
    with FlopCounterMode(display=False) as mode:
        for support in drawn:
            engine.adapted(engine.params(), support, steps=3)
    assert mode.get_total_flops() == engine.passes.flops - before, "with one more look at the end"


def test_all_at_once_adds_up_but_for_the_sum_over_episodes() -> None:
    engine = an_engine(Net("none"), MGDA(), maml(order=2, engine="vmap"))
    draws = [[an_episode(i, shots=s), an_episode(i + 1, shots=s)] for i, s in enumerate((5, 4, 5, 5, 4))]
    phi = sum(p.numel() for p in engine.params().values())
    # The one product that stands for a sum, which episode by episode is none: two episodes, two rows.
    assert sum(counted(engine, draws)) - engine.passes.flops == len(draws) * 2 * 2 * 2 * phi


def test_a_network_that_looks_at_numbers_is_counted_as_it_is_computed_then() -> None:
    class Looking(Net):
        def forward(self, batch: Any, tasks: Any) -> Any:
            assert float(batch.inputs["table"].abs().sum()) > 0
            return super().forward(batch, tasks)

    engine = an_engine(Looking("none"), Sum(), maml(engine="vmap"))
    usual = an_engine(Net("none"), Sum(), maml(engine="loop"))
    for one in (engine, usual):
        one.signal([an_episode(0), an_episode(1)])
    assert engine.passes == usual.passes


@pytest.mark.parametrize("steps", [0, 2])
def test_built_heads_are_counted_whichever_labels_are_known(steps: int) -> None:
    model = a_model(("a", "b"), dtype=torch.float64)
    inner = maml(rates="fixed", num_inner_steps=steps, loss_weights=None)
    head_init = ClosedForm(ridge=0.1, classification="ridge", scale=1.0)
    engine = an_engine(model, Sum(), inner, head_init=head_init)
    engine.kinds = {t: Regression(task=task, loss="mse", delta=1.0) for t, task in model.tasks.items()}

    def drawn(uid: int, unknown: int) -> Episode:
        episode = replace(an_episode(uid, shots=12), fresh=frozenset({"a"}))
        known = torch.arange(12) >= unknown
        batch = episode.support[0].batch
        return replace(episode, support=(Part(replace(batch, labelled={**batch.labelled, "a": known}), ("a", "b")),))

    each = counted(engine, [[drawn(i, unknown)] for i, unknown in enumerate((0, 0, 4, 2, 0, 4))])
    assert sum(each) == engine.passes.flops
    assert each[0] == each[1] == each[4]
    assert each[2] == each[5] < each[3] < each[0], "fewer rows, a smaller system"


class Blind(FlopTable):
    """Counts nothing."""

    @contextmanager
    def block(self, key: Hashable | None, passes: Passes) -> Iterator[None]:
        yield

    @contextmanager
    def repeated(self, key: Hashable, passes: Passes) -> Iterator[Repeated]:
        yield Repeated(0.0, float, list)


@pytest.mark.parametrize("norm", ["layer", "attention", "dropout"])
@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("order", [1, 2])
def test_counting_changes_no_number(order: int, how: str, norm: str) -> None:
    found = []
    for flops in (FlopTable(), Blind()):
        torch.manual_seed(3)
        inner = maml(order=order, engine=how)
        engine = an_engine(Net(norm), MGDA(), inner, flops=flops)
        drawn = [engine.signal([an_episode(i), an_episode(i + 1)]) for i in range(2)]
        found.append([signal.rows for signal in drawn])
        assert isinstance(inner, InnerSGD)
        assert inner.halvings == 0
    for own, blind in zip(*found, strict=True):
        assert own.keys() == blind.keys()
        for task in own:
            assert own[task].keys() == blind[task].keys()
            assert all(torch.equal(own[task][n], blind[task][n]) for n in own[task])


def test_engines_of_one_network_share_what_they_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    flops, model = FlopTable(), Net("none")
    an_engine(model, Sum(), None, flops=flops).signal([plain(5)])
    monkeypatch.setattr("m3tl_cli.paradigm.flops._Counter", None)  # nothing is counted a second time
    again = an_engine(model, Sum(), None, flops=flops)
    again.signal([plain(5)])
    assert again.passes.flops == forward(5) + backward(5)


def test_a_network_that_has_grown_is_counted_anew() -> None:
    model = a_model(("a",), CrossStitch, torch.float64)
    engine = an_engine(model, Sum(), None)
    alone = replace(plain(5), query=(Part(plain(5).query[0].batch, ("a",)),))
    small = counted(engine, [[alone]])
    model.add_task(replace(model.tasks["a"], name="b"))
    engine.kinds = {**engine.kinds, "b": engine.kinds["a"]}
    large = counted(engine, [[alone], [alone]])
    assert sum(small + large) == engine.passes.flops


def test_work_that_fails_adds_nothing_and_the_next_is_counted() -> None:
    flops, passes, x = FlopTable(), Passes(), torch.ones(3, 4)

    def fail() -> None:
        with flops.block("product", passes):
            _ = x @ x.T
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert passes.flops == 0
    with flops.block("product", passes):
        _ = x @ x.T
    assert passes.flops == 2 * 3 * 4 * 3


def test_work_that_repeats_is_counted_by_its_times_and_what_is_inside_by_itself() -> None:
    flops, passes, x = FlopTable(), Passes(), torch.ones(3, 4)
    one, inside = 2 * 3 * 4 * 3, 2 * 4 * 3 * 4
    for times in (0, 2, 5, 0):
        before = passes.flops
        with flops.repeated("steps", passes) as repeated:
            for done in range(times):
                _ = x @ x.T
                with flops.block("inside", passes):
                    _ = x.T @ x
                repeated.done(done + 1)
        assert passes.flops - before == times * (one + inside)
