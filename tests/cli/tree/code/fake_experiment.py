"""An experiment that counts: it sleeps, fails, writes a checkpoint when it is stopped, and goes on from one."""

import os
import signal
import time
from pathlib import Path

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.events import Advanced, Said, StageStarted, Wrote
from m3tl_cli.core.results import Cost, Results, Score, TaskResult, write_text


def run(cfg, *, folder, emit, resume=False, overrides=(), flags=(), group="", outputs=None):
    stopped = []
    before = {s: signal.signal(s, lambda n, _: stopped.append(n)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(cfg, Path(folder), emit, resume, group, stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(cfg, folder, emit, resume, group, stopped):
    from omegaconf import OmegaConf

    if not resume:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
    last = folder / "checkpoints" / "step"
    start = int(last.read_text()) if resume else 0
    emit(Said(f"from {start} group '{group}'"))
    emit(StageStarted("train", cfg.trainer.updates, tuple(cfg.task)))
    for step in range(start, cfg.trainer.updates):
        emit(Advanced("train", step, cfg.trainer.updates, info={"loss": 1 / (step + 1)}))
        time.sleep(cfg.trainer.step_seconds)
        if stopped:
            write_text(last, str(step))
            emit(Wrote(last))
            raise SystemExit(128 + stopped[0])
        if cfg.seed == 13:
            raise ValueError("13 is unlucky")
        if cfg.seed == 14:
            raise DataError("`scenes` must hold at least 1 sample; found 0", hint="m3tl data show", place="data")
    emit(Advanced("train", cfg.trainer.updates, cfg.trainer.updates))
    scores = {"rmse": Score(0.5, 2.0, 0.0, "lower", "m")}
    block = {task: TaskResult("depth", "rmse", scores) for task in cfg.tasks or cfg.task}
    cost = Cost(1000, 1000, 1, cfg.trainer.updates, 320, 20, 20, 1.5, 0.0, 2**28, flops=60.0)
    results = Results(cfg.paradigm.name, cfg.seed, tuple(block), {"a": block}, cost)
    results.write(folder / "results.json")
    return results


def describe(cfg):
    return {
        "stages": [{"name": "train", "tasks": ["depth", "segmentation"], "updates": cfg.trainer.updates, "skipped": "", "episodes": False}],
        "modules": [
            {"module": "backbone", "parameters": 900, "tasks": ["depth", "segmentation"]},
            {"module": "heads.depth", "parameters": 100, "tasks": ["depth"]},
        ],
        "networks": 1,
        "notes": [f"pid {os.getpid()}"],
    }
