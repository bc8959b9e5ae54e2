"""What the whole loop costs over a bare one: sampler, store, engine, per-component clipping, checks, metrics, progress, MLflow.

    .venv/bin/python scripts/loop_overhead.py             # about 3 minutes on one quiet thread

Both train the default model on the default scenes (five tasks, one shared batch of 16, AdamW, clip 5) from the same start. The bare
loop has its batches in memory, adds the losses, goes backward, clips, steps. Validation and checkpoints are left out of both: they are
work that a bare loop would have to do as well. Target: at most 1.05 in CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _timing import compare
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.nn.utils import clip_grad_norm_

from m3tl_cli.assembly import Experiment, make
from m3tl_cli.cli.sink import Sink
from m3tl_cli.core.events import Event, Measured
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.sampler.base import Sampler
from m3tl_cli.tracking.base import RunInfo, Tracker
from m3tl_cli.trainer.journal import Journal


def whole(cfg: DictConfig, updates: int, folder: Path) -> Callable[[], None]:
    """Updates through the program's own loop, with its journal, MLflow and progress."""
    parts = Experiment.from_config(cfg, lambda data: data.prepare())
    trainable = frozenset(parts.model.params())
    engine = Engine(
        model=parts.model, kinds=parts.kinds, balancer=parts.balancer, trainable=trainable, autocast=parts.loop.runtime.autocast
    )
    sampler = make(cfg.sampler, Sampler, pool=parts.data.pool("train"), tasks=tuple(parts.tasks.values()), seed=cfg.seed)
    stage = replace(parts.stages["train"], updates=updates)
    tracker = make(cfg.tracking, Tracker, outputs=folder)
    tracker.start(RunInfo("overhead", folder, "overhead", {}))
    journal, sink = Journal(folder), Sink.on_terminal(alone=True).__enter__()

    def tell(event: Event) -> None:
        if isinstance(event, Measured):
            journal.write(event.step, event.values)
            tracker.metrics(event.step, event.values)
        sink(event)

    def train() -> None:
        parts.loop.fit(
            stage, kinds=parts.kinds, engine=engine, balancer=parts.balancer, sampler=sampler,
            optimizer=parts.optimizer, scheduler=parts.scheduler, validation=None, folder=folder, seed=1, emit=tell,
        )  # fmt: skip

    return train


def bare(cfg: DictConfig, updates: int) -> Callable[[], None]:
    """The loop that one writes by hand."""
    parts = Experiment.from_config(cfg, lambda data: data.prepare())
    sampler = make(cfg.sampler, Sampler, pool=parts.data.pool("train"), tasks=tuple(parts.tasks.values()), seed=cfg.seed)
    batches = [sampler.draw(step)[0].query[0].batch for step in range(updates)]
    tasks, kinds, model = tuple(parts.tasks), parts.kinds, parts.model
    params = list(model.parameters())

    def train() -> None:
        optimizer = torch.optim.AdamW(params, lr=1e-3)
        for batch in batches:
            optimizer.zero_grad()
            outputs = model(batch, tasks)
            loss = sum(kinds[t].loss(outputs[t], batch.targets[t], batch.labelled[t]) for t in tasks)
            loss.backward()
            clip_grad_norm_(params, 5.0)
            optimizer.step()
            loss.item()

    return train


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50, help="updates in one repetition")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"trainer.updates={asked.updates}", "trainer.checkpoint_every=1000000"])
    with tempfile.TemporaryDirectory() as folder:
        compare({"bare loop": bare(cfg, asked.updates), "m3tl": whole(cfg, asked.updates, Path(folder))}, repetitions=asked.repetitions)


if __name__ == "__main__":
    main()
