"""Planted truths, trained and compared by the program itself: where sharing must help, where it can do nothing, where it must hurt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from m3tl_cli import experiment
from m3tl_cli.comparison.cells import read_cells
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.tables import Comparison, SummaryRow, TaskRow
from tests.test_house import ROOT

pytestmark = pytest.mark.slow

SEEDS = range(1, 7)
COLUMNS = 8
NUM_TASKS = 4
ROWS = 400  # of each task
COMMON = [
    "data=table", "data.modalities={x: ['x?']}", "data.fractions={train: 0.5, val: 0.1, test: 0.4}", "fusion=single", "backbone=identity",
    "optimizer=adamw", "optimizer.lr=0.05", "optimizer.weight_decay=0", "scheduler=cosine", "sampler.per_task=false", "tracking=off",
    "trainer.updates=80", "trainer.validate_every=80", "trainer.checkpoint_every=80", "trainer.log_every=80", "trainer.clip=null",
    "trainer.num_pictures=0", "trainer.eval_batch_size=2000",
]  # fmt: skip
LIKE_TASKS = [
    "data.tasks={y: y}", "data.task_index=task",
    *(f"+task@task.y_{t}=regression" for t in range(NUM_TASKS)), *(f"task.y_{t}.loss=mse" for t in range(NUM_TASKS)),
]  # fmt: skip
LINEAR = ["encoder/table=identity"]
SOFT = ["sharing=soft", "sharing.strength=3", "sharing.heads=true"]
HIDDEN = ["encoder/table=mlp", "encoder.table.num_layers=1", "encoder.table.width=32", "sharing=hard"]

Targets = Callable[[np.random.Generator, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Ground:
    """Where the runs of a test stand, and the files that they read."""

    folder: Path

    def compared(self, targets: Targets, *overrides: str) -> Comparison:
        """Train stl and mtl under six seeds, each with a split of its own, and ask whether they differ by .05 of the gain."""
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = {p: compose("train", overrides=[*COMMON, f"paradigm={p}", "data.files=[?]", *overrides]) for p in ("stl", "mtl")}
        plan = plan_for(list(composed), axes={}, seeds=SEEDS, block="a", num_shots=None, margin=0.05, budget="equal_updates")
        random = np.random.default_rng(0)
        inputs = random.normal(size=(NUM_TASKS * ROWS, COLUMNS))
        written = self.folder / "rows.csv"
        columns = {f"x{i}": column for i, column in enumerate(inputs.T)} | targets(random, inputs)
        np.savetxt(written, np.stack(list(columns.values()), axis=1), delimiter=",", header=",".join(columns), comments="", fmt="%.6g")
        folders = []
        for paradigm, cfg in composed.items():
            for seed in SEEDS:
                OmegaConf.update(cfg, "data.files", [str(written)])
                OmegaConf.update(cfg, "data.seed", seed)
                OmegaConf.update(cfg, "seed", seed)
                folders.append(self.folder / f"{paradigm}-s{seed}")
                experiment.run(cfg, folder=folders[-1])
        cells, unread = read_cells(folders)
        assert unread == ()
        found = compare(cells, plan)
        assert found.flags == ()
        return found


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(experiment.page, "write", lambda folder: folder)  # plots of 36 runs
    return Ground(tmp_path)


def of(found: Comparison, arm: str) -> tuple[SummaryRow, list[TaskRow]]:
    """Its summary, and the rows of its tasks' primary metrics."""
    [row] = [r for r in found.summary if r.arm == arm]
    return row, [r for r in found.rows if r.arm == arm and r.primary]


def like_tasks(weights: Callable[[np.random.Generator], np.ndarray]) -> Targets:
    """Four linear tasks on rows of their own, with noise of a quarter of the signal's deviation."""

    def targets(random: np.random.Generator, inputs: np.ndarray) -> dict[str, np.ndarray]:
        task = np.arange(len(inputs)) % NUM_TASKS
        signal = (inputs * weights(random)[task]).sum(axis=1)
        return {"task": task, "y": signal + 0.25 * random.normal(size=len(inputs))}

    return targets


def unit(weights: np.ndarray) -> np.ndarray:
    return weights / np.linalg.norm(weights, axis=-1, keepdims=True)


def test_identical_tasks_of_few_samples_gain_from_sharing(ground: Ground) -> None:
    weights = like_tasks(lambda random: np.tile(unit(random.normal(size=COLUMNS)), (NUM_TASKS, 1)))
    found = ground.compared(weights, *LIKE_TASKS, *LINEAR, *SOFT, "data.train_rows=12", "sampler.batch_size=48")
    [verdict] = found.contrasts
    assert verdict.name == "mtl - stl"
    assert verdict.answer == "higher"
    # Twelve rows for nine parameters alone, 48 together.
    assert verdict.difference.low > 0.05
    together, rows = of(found, "mtl")
    assert together.gain.mean > 0.7, "the noise leaves three quarters to be learnt"
    assert together.hurt == ()
    assert all(row.gain_difference.mean > 0 and row.negative_transfer == 0 for row in rows)


def test_unrelated_tasks_with_capacity_and_samples_enough_neither_gain_nor_lose(ground: Ground) -> None:
    weights = like_tasks(lambda random: unit(random.normal(size=(NUM_TASKS, COLUMNS))))
    found = ground.compared(weights, *LIKE_TASKS, *HIDDEN, "sampler.batch_size=200")
    [verdict] = found.contrasts
    assert verdict.answer == "no difference"
    assert abs(verdict.difference.mean) < 0.025
    alone, together = of(found, "stl")[0], of(found, "mtl")[0]
    assert min(alone.gain.mean, together.gain.mean) > 0.5, "both learn their tasks"
    assert together.hurt == ()


def test_conflicting_tasks_through_a_shared_output_lose_all_that_each_could_learn(ground: Ground) -> None:
    signs = np.array([1, -1, 1, -1])[:, None]
    weights = like_tasks(lambda random: signs * unit(random.normal(size=COLUMNS)))
    found = ground.compared(weights, *LIKE_TASKS, *LINEAR, "sharing=pooled", "sampler.batch_size=200")
    [verdict] = found.contrasts
    assert verdict.answer == "lower"
    alone, _ = of(found, "stl")
    together, rows = of(found, "mtl")
    assert alone.gain.mean > 0.7
    assert abs(together.gain.mean) < 0.02, "the mean of y and -y is what the trivial predictor says"
    assert together.hurt == ("y_0", "y_1", "y_2", "y_3")
    assert all(row.negative_transfer > 1 for row in rows), "the error is more than twice that of each alone"
    assert alone.hurt == ()
