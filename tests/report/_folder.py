"""Run folders as an experiment leaves them, made up: five tasks on scenes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from m3tl_cli.core.results import Cost, Results, Score, TaskResult

SIZE = 64

TASKS: dict[str, TaskResult] = {
    "segmentation": TaskResult(
        "segmentation",
        "miou",
        {"miou": Score(0.612, 0.118, 1.0, "higher"), "pixel_accuracy": Score(0.871, 0.472, 1.0, "higher")},
    ),
    "depth": TaskResult(
        "depth",
        "rmse",
        {
            "rmse": Score(2.914, 7.402, 0.0, "lower", "m"),
            "abs_rel": Score(0.1273, 0.5121, 0.0, "lower"),
            "delta_1": Score(0.8402, 0.3127, 1.0, "higher"),
        },
    ),
    "normals": TaskResult(
        "normals", "mean", {"mean": Score(17.31, 38.95, 0.0, "lower", "deg"), "median": Score(9.2, 31.0, 0.0, "lower", "deg")}
    ),
    "time_of_day": TaskResult(
        "classification",
        "f1_macro",
        {"f1_macro": Score(0.9412, 0.1667, 1.0, "higher"), "accuracy": Score(0.9467, 0.3333, 1.0, "higher")},
    ),
    "camera_height": TaskResult(
        "regression", "mae", {"mae": Score(0.262, 0.248, 0.0, "lower", "m"), "r2": Score(-0.08, 0.0, 1.0, "higher")}
    ),
}

COST = Cost(
    parameters=1_284_391,
    trainable=1_284_391,
    networks=1,
    updates=1000,
    samples=16_000,
    forward=1000,
    backward=1000,
    seconds=134.2,
    seconds_prepare=0.0,
    peak_memory=912_000_000,
)


def results() -> Results:
    """Four tasks of five beat the trivial predictor."""
    return Results(
        paradigm="mtl",
        seed=1,
        tasks=tuple(TASKS),
        blocks={"a": TASKS},
        cost=COST,
        notes=("normals: 2 of 400 test samples have no label",),
    )


def metric_lines(updates: int = 1000) -> list[dict[str, Any]]:
    """Logged every 10 steps, validated every 100."""
    random = np.random.default_rng(0)
    lines = []
    for step in range(10, updates + 1, 10):
        warm = min(1.0, step / 100) * 0.5 * (1 + math.cos(math.pi * step / 1000))
        values: dict[str, float] = {"optimizer/lr": 3e-3 * warm, "train/grad_norm/all": 2.0 * math.exp(-step / 400) + 0.2 * random.random()}
        for i, task in enumerate(TASKS):
            values[f"train/{task}/loss"] = (1 + i) * (0.25 + math.exp(-step / 250)) * (1 + 0.12 * random.standard_normal())
            values[f"balancing/{task}/weight"] = 0.2 + 0.05 * math.sin(i + step / 200)
        if step % 100 == 0:
            for task, result in TASKS.items():
                for metric, score in result.scores.items():
                    share = math.exp(-step / 300)
                    values[f"val/{task}/{metric}"] = score.value + (score.trivial - score.value) * share * (
                        1 + 0.1 * random.standard_normal()
                    )
        values["speed/samples_per_second"] = 118.0 + random.random()
        lines.append({"step": step, "time": 1.79e9 + step / 8, "values": values})
    return lines


def samples(num: int = 4) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, np.dtype[np.uint8]]]]:
    """`samples.json` and the pictures that it names."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    columns, rows, pictures = ["rgb", "lidar"], [], {}
    columns += [f"{task}: {what}" for task in TASKS for what in ("label", "prediction")]
    for i in range(num):
        cells: dict[str, dict[str, str]] = {}
        for j, column in enumerate(columns):
            if column.startswith(("time_of_day", "camera_height")):
                cells[column] = {"text": "dusk" if column.startswith("time") else "1.52 m"}
                continue
            wave = np.stack([np.sin(3 * x + i + j), np.cos(4 * y - i), (x - 0.5) ** 2 + (y - 0.5) ** 2 > 0.1], -1)
            key = f"{i}.{j}"
            pictures[key] = np.clip(120 + 90 * wave + 10 * random.standard_normal((SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            cells[column] = {"picture": key}
        rows.append({"caption": f"test sample {17 * i + 3}", "cells": cells})
    return {"columns": columns, "rows": rows}, pictures


def make(folder: Path) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    overrides = ["balancing=uw", "trainer.updates=1000", "tasks=[segmentation,depth,normals,time_of_day,camera_height]"]
    (folder / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    config = "seed: 1\nname: train\ndata:\n  _target_: m3tl_cli.data.scenes.Scenes\n  size: 64\ntrainer:\n  updates: 1000\n"
    (folder / "config.yaml").write_text(config)
    environment = {
        "command": ["m3tl", "train", *overrides],
        "git": {"commit": "2a81c073ff105cad9b05aec6625712e59aead11c", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.15.0", "m3tl-cli": "0.1.0"},
        "hardware": {"cpu": "AMD EPYC 9B14", "cores": 2, "gpus": []},
        "platform": "Linux-6.1-x86_64",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "status.json").write_text(json.dumps({"state": "FINISHED", "pid": 1, "host": "h", "process_start": 0.0, "seconds": 141.7}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metric_lines()))
    results().write(folder / "results.json")
    words, pictures = samples()
    (folder / "samples.json").write_text(json.dumps(words))
    np.savez(folder / "samples.npz", **pictures)
    (folder / "checkpoints" / "last").mkdir(parents=True)
    (folder / "train.log").write_text("done\n")
    return folder
