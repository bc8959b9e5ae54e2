"""`m3tl_cli.train`: the program's main verb for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.job import kept_true
from m3tl_cli.cli.launch import job_config
from m3tl_cli.cli.preflight import check
from m3tl_cli.cli.request import Request
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Emit, silent
from m3tl_cli.core.results import Results


@dataclass(frozen=True)
class Run:
    """A finished run: what it measured, and where it left everything."""

    results: Results
    folder: Path


def train(overrides: Sequence[str] = (), *, config_dir: str = "", emit: Emit = silent) -> Run:
    """Train, evaluate, and write everything to a new folder under outputs/, as `m3tl train` does. Prints nothing.

    Args:
        overrides: As on the command line: `["paradigm=stl", "tasks=[depth,normals]"]`.
        config_dir: Your own config folder, beside the program's.
        emit: Told what happens.

    Raises:
        ConfigError: With everything that is wrong with the config; nothing has been created then.
        M3TLError: As its other subclasses say.
        SystemExit: With 128 + n after signal n, in the main thread; the run can be resumed.
    """
    checked = check(Request(overrides=tuple(overrides), config_dir=config_dir))
    if checked.problems or checked.config is None:
        raise ConfigError("; ".join(map(str, checked.problems)))
    if checked.multirun:
        raise ConfigError("train takes one value per key", hint="call it once for each")
    folder = Path(hydra_entry.selected(checked.config, "hydra.run.dir"))
    config = job_config(checked.config)
    from m3tl_cli import experiment

    flags = ["--config-dir", config_dir] if config_dir else []
    with kept_true(folder, list(overrides)) as record:
        results = experiment.run(config, folder=folder, emit=emit, overrides=list(overrides), flags=flags)
        record(results)
    return Run(results, folder)
