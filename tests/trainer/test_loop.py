"""The loop: T networks in one process are T runs, components stop alone, nothing is lost, nothing is silently wrong."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import TrainingError
from m3tl_cli.core.events import Event, Measured, Said
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.adamw import AdamW
from m3tl_cli.paradigm.base import Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.sampler.minibatch import MiniBatch
from m3tl_cli.scheduler.constant import Constant
from m3tl_cli.selftest import Quadratic
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.evaluation import evaluate, evaluate_constant, trivial_outputs
from m3tl_cli.trainer.loop import BEST, LAST, Counters, Validation
from tests.toys import TablePool, regression, states_equal
from tests.trainer.test_shape import a_loop, a_model

ALL = ("a", "b", "c")


def fit(
    model: MultiTaskModel,
    tasks: tuple[TaskName, ...],
    folder: Path,
    *,
    updates: int = 30,
    events: list[Event] | None = None,
    pool: TablePool | None = None,
    resume: bool = False,
    lr: float = 3e-2,
    **changes: object,
) -> Counters:
    pool = pool or TablePool(ALL, size=96)
    kinds = {t: Quadratic(task=regression(t)) for t in tasks}
    balancer = Sum()
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset().union(*(model.reads(t) for t in tasks)))
    sampler = MiniBatch(batch_size=8, per_task=False, modality_dropout=0.0, pool=pool, tasks=tuple(regression(t) for t in tasks), seed=0)
    loop = a_loop(updates, clip=0.5, validate_every=5, log_every=1, checkpoint_every=10, **changes)
    held_out = TablePool(ALL, size=64, seed=1)
    validation = Validation(
        evaluate_constant(kinds, trivial_outputs(kinds, pool, 64), held_out, 64),
        lambda asked, advance: evaluate(model, asked, held_out, loop.runtime, 64, advanced=advance),
    )
    return loop.fit(
        Stage("train", tasks, updates), kinds=kinds, engine=engine, balancer=balancer, sampler=sampler,
        optimizer=AdamW(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), scheduler=Constant(warmup=0.1),
        validation=validation, folder=folder, seed=0,
        emit=(events if events is not None else []).append, resume=resume, about={"ledger": model.ledger()},
    )  # fmt: skip


def measured(events: Sequence[Event], key: str) -> dict[int, float]:
    return {e.step: e.values[key] for e in events if isinstance(e, Measured) and key in e.values}


@pytest.mark.parametrize("patience", [None, 1])
def test_separate_networks_in_one_process_equal_separate_runs(patience: int | None, tmp_path: Path) -> None:
    """To the bit, through clipping, warm-up, early stopping and the choice of the best parameters."""
    pool = TablePool(ALL, size=96)
    pool.labelled["b"][::3] = False
    together, events = a_model(ALL, Separate), []
    fit(together, ALL, tmp_path / "together", pool=pool, patience=patience, events=events)
    for task in ALL:
        alone, own = a_model((task,), Separate), []
        fit(alone, (task,), tmp_path / task, pool=pool, patience=patience, events=own)
        assert states_equal(alone.params(), {n: together.params()[n] for n in alone.params()})
        for key in (f"train/{task}/loss", f"val/{task}/mse", f"train/grad_norm/{task}"):
            assert measured(own, key), key
            assert measured(own, key) == measured(events, key), key


def test_a_component_that_stops_early_leaves_the_others_training(tmp_path: Path) -> None:
    events: list[Event] = []
    pool = TablePool(ALL, size=96)
    pool.targets["b"] = torch.randn(96, 1)  # nothing to learn: validation only gets worse
    fit(a_model(("a", "b"), Separate), ("a", "b"), tmp_path, pool=pool, patience=2, updates=60, lr=3e-3, events=events)
    stopped = [e.text for e in events if isinstance(e, Said) and "stopped early" in e.text]
    assert any(text.startswith("b:") for text in stopped)
    assert max(measured(events, "train/b/loss")) < max(measured(events, "train/a/loss"))


def test_the_best_parameters_are_what_remains(tmp_path: Path) -> None:
    events: list[Event] = []
    model = a_model(("a",), Hard)
    fit(model, ("a",), tmp_path, updates=40, lr=0.3, events=events)
    history = measured(events, "val/a/mse")
    held_out = TablePool(ALL, size=64, seed=1)
    batch = held_out.read(torch.arange(64))
    final = (model.outputs(model.params(), batch, ("a",))["a"] - batch.targets["a"]).pow(2).mean().item()
    assert final == pytest.approx(min(history.values()), rel=1e-5)
    assert states_equal(checkpoint.load(tmp_path / BEST)["model"], {n: p.detach() for n, p in model.params().items()})


def test_no_gradient_norm_exceeds_the_clip_after_clipping(tmp_path: Path) -> None:
    model = a_model(ALL)
    events: list[Event] = []
    fit(model, ALL, tmp_path, updates=3, events=events)
    raw = measured(events, "train/grad_norm/a+b+c")
    norm = torch.stack([p.grad.norm() for p in model.params().values() if p.grad is not None]).norm().item()
    assert norm == pytest.approx(min(raw[3], 0.5), rel=1e-5)


def test_accumulated_draws_equal_their_mean_gradient(tmp_path: Path) -> None:
    pool = TablePool(ALL, size=16)
    one, two = a_model(ALL), a_model(ALL)
    kinds = {t: Quadratic(task=regression(t)) for t in ALL}
    engine = Engine(model=one, kinds=kinds, balancer=Sum(), trainable=frozenset(one.params()))
    whole = MiniBatch(batch_size=16, per_task=False, modality_dropout=0.0, pool=pool, tasks=tuple(regression(t) for t in ALL), seed=0)
    gradient = engine.gradient(engine.signal(whole.draw(0)))
    fit(two, ALL, tmp_path, pool=pool, updates=1, accumulate=2)
    expected = torch.stack([g.norm() for g in gradient.values()]).norm()
    scale = min(1.0, 0.5 / expected.item())
    for name, found in gradient.items():
        torch.testing.assert_close(two.params()[name].grad, found * scale, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_with_task_and_step(tmp_path: Path) -> None:
    pool = TablePool(ALL, size=16)
    pool.targets["b"][:] = float("inf")
    with pytest.raises(TrainingError, match=r"task `b` must be finite; found inf at update 1"):
        fit(a_model(ALL), ALL, tmp_path, pool=pool)


SCRIPT = """
import sys, time
from pathlib import Path
from m3tl_cli.core.events import Advanced
from tests.trainer.test_loop import ALL, fit
from tests.trainer.test_shape import a_model
folder, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
class Slow(list):
    def append(self, event):
        if isinstance(event, Advanced) and event.what == "train":
            print(event.done, flush=True)
            time.sleep(float(sys.argv[3]))
fit(a_model(ALL), ALL, folder, updates=40, events=Slow(), resume=resume)
"""


def start(folder: Path, mode: str, pause: float) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), mode, str(pause)], cwd=root, stdout=subprocess.PIPE, text=True)


def run_until(process: subprocess.Popen[str], update: int) -> None:
    assert process.stdout
    for line in process.stdout:
        if int(line) >= update:
            return


@pytest.mark.parametrize("number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))])
def test_a_run_that_is_killed_resumes_to_the_same_bits(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path, "new", 0.02) as broken:
        run_until(broken, 23)
        broken.send_signal(number)
        code = broken.wait(30)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    done = checkpoint.updates(tmp_path / LAST)
    assert done == 20 if number == signal.SIGKILL else done >= 23

    model = a_model(ALL)
    counters = fit(model, ALL, tmp_path, updates=40, resume=True)
    unbroken = a_model(ALL)
    expected = fit(unbroken, ALL, tmp_path / "unbroken", updates=40)
    assert states_equal(model.params(), unbroken.params())
    assert (counters.updates, counters.samples) == (expected.updates, expected.samples)
    first, second = (checkpoint.load(folder / LAST) for folder in (tmp_path, tmp_path / "unbroken"))
    for key in ("model", "optimizer", "selection", "passes"):
        assert states_equal(first[key], second[key]), key


def test_operations_survive_a_resume_and_are_unknown_after_a_checkpoint_that_lacks_them(tmp_path: Path) -> None:
    fit(a_model(ALL), ALL, tmp_path, updates=10)
    state = checkpoint.load(tmp_path / LAST)
    forward, backward, flops = state["passes"]
    assert (forward, backward) == (10, 10)
    assert flops > 0
    fit(a_model(ALL), ALL, tmp_path, updates=20, resume=True)
    assert checkpoint.load(tmp_path / LAST)["passes"] == [20, 20, 2 * flops]
    checkpoint.save(tmp_path / LAST, {**state, "passes": [forward, backward]})
    fit(a_model(ALL), ALL, tmp_path, updates=20, resume=True)
    again = checkpoint.load(tmp_path / LAST)["passes"]
    assert again[:2] == [20, 20]
    assert math.isnan(again[2])


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with start(tmp_path, "new", 600.0) as process:  # it would sleep for minutes before it looked at the first one
        run_until(process, 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert not (tmp_path / LAST).exists()
