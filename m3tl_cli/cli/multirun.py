"""A list of jobs through Hydra's launchers: in series, in parallel processes, on a cluster, as `hydra/launcher` says.

Hydra's own sweeper makes a job of every combination of values. The runs of an ablation are no such product (their length depends on the
setting, and finished ones are left out), so they are handed to the launcher as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.batch import Batch, overseen
from m3tl_cli.cli.job import RESUME, TERMINAL, task
from m3tl_cli.cli.status import Status
from m3tl_cli.core.errors import M3TLError

QUIET = {"hydra.job_logging": "CRITICAL", "hydra.hydra_logging": "WARNING"}
"""Logs, and what of them the terminal shows while many jobs run: lines of jobs side by side tell nobody whose they are. Each job's own file
has everything, and `status.json` says why a job failed.
"""


@dataclass(frozen=True)
class Ended:
    """How a multirun ended.

    Args:
        code: 0; 1 where the launcher or a job failed; 128 + n after signal n.
        error: What was raised outside a job or first inside one; None where nothing was.
    """

    code: int
    error: Exception | None = None


def launch_jobs(
    jobs: Mapping[str, Sequence[str]],
    *,
    folder: Path,
    hydra: Sequence[str] = (),
    common: Sequence[str] = (),
    config_dir: str = "",
    config_name: str = "train",
) -> Ended:
    """Run every job in a folder of its own, and leave alone what is finished there.

    Args:
        jobs: Folder name to the overrides of a job, in the order in which they start. A job whose folder holds a checkpoint goes on
            from it.
        folder: Of all of them.
        hydra: Overrides of Hydra's own node, such as `hydra/launcher=joblib`.
        common: Overrides that all jobs share; they may choose the launcher.
        config_dir: A user's own config folder.
        config_name: Root config.
    """

    def look() -> list[Status]:
        return [status for name in jobs if (status := Status.read(folder / name)) is not None]

    batch = Batch.begin(folder)
    os.environ.pop(TERMINAL, None)  # the table of all jobs has the terminal, and none of them
    try:
        with overseen(batch, look):
            results = _launched(jobs, batch, hydra, common, config_dir, config_name)
        # `return_value` would raise it, too, and print a line of Hydra's own before.
        raised = [result._return_value for result in results if isinstance(result._return_value, Exception)]
        if raised:
            raise raised[0]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        return Ended(code)
    except Exception as error:
        return Ended(error.exit_code if isinstance(error, M3TLError) else 1, error)
    return Ended(0)


def _launched(
    jobs: Mapping[str, Sequence[str]], batch: Batch, hydra: Sequence[str], common: Sequence[str], config_dir: str, config_name: str
) -> Sequence[Any]:
    """What `Hydra.multirun` does, with the jobs given instead of a sweeper."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.hydra import Hydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    loader = hydra_entry.search(config_dir)
    entered = [f"hydra.sweep.dir={hydra_entry.quoted(str(batch.folder))}", f"+hydra.job.env_set.{RESUME}='1'", batch.word]
    entered.append("hydra.mode=MULTIRUN")
    main = Hydra(task_name="train", config_loader=loader)

    def composed(*more: str) -> Any:
        overrides = [*common, *hydra, *entered, *more]
        return main.compose_config(config_name=config_name, overrides=overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=True)

    cfg = composed()
    if calm := [f"+{key}.handlers.terminal.level={level}" for key, level in QUIET.items() if _has_terminal(cfg, key)]:
        cfg = composed(*calm)
    callbacks = Callbacks(cfg)
    callbacks.on_multirun_start(config=cfg, config_name=config_name)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    launcher = Plugins.instance().instantiate_launcher(config=cfg, hydra_context=context, task_function=task)
    listed = [[*overrides, f"hydra.sweep.subdir={hydra_entry.quoted(name)}"] for name, overrides in jobs.items()]
    results = launcher.launch(listed, initial_job_idx=0)
    callbacks.on_multirun_end(config=cfg, config_name=config_name)
    return results


def _has_terminal(cfg: Any, key: str) -> bool:
    from omegaconf import OmegaConf

    return OmegaConf.select(cfg, f"{key}.handlers.terminal") is not None and OmegaConf.select(cfg, f"{key}.handlers.terminal.level") is None
