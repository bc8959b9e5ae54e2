"""Many small runs of the real program in one process: `experiment.run` without its report, which would draw a plot a task and metric.

runs = Runs(folder)
scores = runs(("experiment=landmine", "paradigm=stl"), {"seed": 3, "data.train_rows": 20})
scores.validation["auroc"], scores.results.blocks["a"]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from scipy import stats

from m3tl_cli import experiment
from m3tl_cli.core.events import Event, Measured
from m3tl_cli.core.results import Results, mean
from m3tl_cli.data.base import Data

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Args:
        results: Its results.
        validation: Mean over tasks of every metric, at the last validation.
        data: As the run read it, prepared.
    """

    results: Results
    validation: Mapping[str, float]
    data: Data


@cache
def composed(overrides: tuple[str, ...]) -> DictConfig:
    """The config of these overrides; composing takes as long as a small run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[*overrides, "tracking=off"])


def run(overrides: Sequence[str], changes: Mapping[str, Any]) -> Run:
    """Train and test.

    Args:
        overrides: As one would type them; composed once.
        changes: Values by dotted key.
    """
    cfg = composed(tuple(overrides)).copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    told: dict[str, float] = {}
    kept: list[Data] = []

    def emit(event: Event) -> None:
        if isinstance(event, Measured):
            told.update({k: v for k, v in event.values.items() if k.startswith("val/")})

    original = experiment.Experiment.from_config

    def noted(*args: Any, **kwargs: Any) -> experiment.Experiment:
        parts = original(*args, **kwargs)
        kept.append(parts.data)
        return parts

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(experiment.page, "write", lambda folder: folder),
        patch.object(experiment.Experiment, "from_config", noted),
    ):
        results = experiment.run(cfg, folder=Path(folder) / "run", emit=emit)
    metrics = {key.rpartition("/")[2] for key in told}
    return Run(results, {m: mean(v for k, v in told.items() if k.endswith(f"/{m}")) for m in metrics}, kept[0])


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half width of the 95 % t interval over seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


class Clock:
    """Seconds of CPU and of wall time since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __str__(self) -> str:
        return f"{time.process_time() - self._cpu:.0f} s of CPU, {time.perf_counter() - self._wall:.0f} s in all"
