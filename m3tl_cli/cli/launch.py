"""From a request to an exit code: check, run, and say what came of it."""

from __future__ import annotations

import functools
import math
import os
import shlex
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m3tl_cli.cli import hydra_entry, panels
from m3tl_cli.cli.batch import Batch, overseen
from m3tl_cli.cli.job import RESUME, TERMINAL, has_checkpoint, task
from m3tl_cli.cli.preflight import Checked, check
from m3tl_cli.cli.request import Request
from m3tl_cli.cli.status import FILE, Status
from m3tl_cli.config.problem import Problem
from m3tl_cli.core.errors import ConfigError, M3TLError, Stopped

if TYPE_CHECKING:
    from omegaconf import DictConfig

FAILED, USAGE = 1, 2


def launch(request: Request) -> int:
    """Do what was asked for.

    Returns:
        0; 1 if a job failed; 2 for a config or usage that cannot be; 3 for data; 128 + n after signal n.
    """
    try:
        if request.cfg or request.info:
            return _print(request)
        checked = check(request)
        if checked.problems or checked.config is None:
            return refuse(checked, request)
        return _start(request, checked.config, checked.multirun)
    except Exception as error:
        _report(request, error, "")
        return error.exit_code if isinstance(error, M3TLError) else FAILED


def refuse(checked: Checked, request: Request) -> int:
    """Show what is wrong."""
    files = hydra_entry.files(checked.config) if checked.config is not None else []
    panels.problems(checked.problems, request.overrides, files)
    return USAGE


def _print(request: Request) -> int:
    """Hydra's own `--cfg` and `--info`; what cannot be composed is said in our words."""
    if request.cfg and request.multirun:
        raise ConfigError("only one of --multirun and --cfg can be given", hint="leave -m out")
    if request.config_dir:
        hydra_entry.search(request.config_dir)  # checks the folder
    try:
        hydra_entry.main(task, request.argv())
    except SystemExit as done:
        return USAGE if done.code else 0
    except Exception:
        checked = check(request)
        if checked.problems:
            return refuse(checked, request)
        raise
    return 0


def _start(request: Request, cfg: DictConfig, multirun: bool) -> int:
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    folder = request.resumed or hydra_entry.selected(cfg, key)
    extra = [f"{key}={hydra_entry.quoted(folder)}"]
    if request.resumed:
        extra.append(f"+hydra.job.env_set.{RESUME}='1'")
    elif not multirun and (Path(folder) / FILE).exists():
        problem = Problem(key, folder, "a folder without a run in it", f"m3tl train --resume {folder}")
        return refuse(Checked(cfg, [problem]), request)
    if request.debug:
        os.environ["M3TL_DEBUG"] = "1"
    os.environ[TERMINAL] = str(os.getpid())
    if multirun:
        batch = Batch.begin(Path(folder))
        code, caught = _run(lambda: _sweep(request, batch, [*extra, batch.word]))
        return _after_sweep(request, folder, code, caught)
    code, caught = _run(lambda: _single(request, extra))
    return _after_run(request, cfg, folder, code, caught)


def _run(work: Callable[[], None]) -> tuple[int, Exception | None]:
    """Exit code of some work, and what it raised."""
    try:
        work()
    except SystemExit as end:
        return (end.code if isinstance(end.code, int) else FAILED if end.code else 0), None
    except KeyboardInterrupt:
        return 130, None
    except Exception as error:
        return (error.exit_code if isinstance(error, M3TLError) else FAILED), error
    return 0, None


def _sweep(request: Request, batch: Batch, extra: Sequence[str]) -> None:
    with overseen(batch, lambda: jobs(str(batch.folder))):
        hydra_entry.main(task, request.argv(*extra))


def _single(request: Request, extra: Sequence[str]) -> None:
    """A sweep's jobs fail through Hydra, which goes on with the others; a single one past it, or Hydra would announce the failure in
    words of its own before the panel.
    """
    failed: list[Exception] = []
    hydra_entry.main(_keeping(failed), request.argv(*extra))
    if failed:
        raise failed[0]


def _keeping(failed: list[Exception]) -> Callable[[DictConfig], float]:
    """The job, which leaves its failure in a list instead of raising it."""

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float:
        try:
            return task(cfg)
        except Exception as error:
            failed.append(error)
            return math.nan

    return job


def jobs(sweep: str) -> list[Status]:
    """Status of every job that a sweep has started."""
    found = (Status.read(path.parent) for path in sorted(Path(sweep).glob(f"*/{FILE}")))
    return [status for status in found if status is not None]


def _after_run(request: Request, cfg: DictConfig, folder: str, code: int, caught: Exception | None) -> int:
    if caught is not None:
        _report(request, caught, folder)
    elif code > 128:
        again = ["--resume", folder] if has_checkpoint(Path(folder)) else request.overrides
        panels.stopped(folder, shlex.join(["m3tl", "train", *again]))
    elif code == 0 and (Path(folder) / "results.json").is_file():
        from m3tl_cli.core.results import Results

        with hydra_entry.hydra_node(cfg):
            config, _ = hydra_entry.plain(cfg)
        typed = [*(["--config-dir", request.config_dir] if request.config_dir else []), *request.overrides]
        panels.results(Results.read(Path(folder) / "results.json"), Path(folder), config, typed)
    return code


def _after_sweep(request: Request, folder: str, code: int, caught: Exception | None) -> int:
    found = jobs(folder)
    if found:
        panels.sweep(folder, found)
    unfinished = [job for job in found if job.state != "FINISHED"]
    if code > 128:
        panels.stopped(folder, shlex.join(["m3tl", "train", "-m", "--resume", folder]))
        return code
    if caught is not None and not isinstance(caught, Stopped) and not any(job.state == "FAILED" for job in found):
        _report(request, caught, folder if found else "")  # the launcher or sweeper itself
    # A sweeper may forgive failures; the exit code does not.
    return FAILED if unfinished or caught is not None else code


def _report(request: Request, caught: Exception, folder: str) -> None:
    if request.debug:
        traceback.print_exception(caught)
    if isinstance(caught, M3TLError):
        panels.error(caught)
    else:
        panels.crash(caught, folder, "m3tl train ... --debug shows it here")


def compose_or_exit(request: Request) -> DictConfig:
    """A checked config for a verb that runs no job; a panel and the end of the program where it cannot be.

    Raises:
        SystemExit: With 2.
    """
    try:
        checked = check(request)
    except ConfigError as error:
        panels.error(error)
        raise SystemExit(error.exit_code) from None
    if checked.problems or checked.config is None:
        raise SystemExit(refuse(checked, request))
    return checked.config


def job_config(cfg: DictConfig) -> DictConfig:
    """The resolved config without Hydra's node, as the experiment takes it."""
    from omegaconf import OmegaConf

    with hydra_entry.hydra_node(cfg):
        return OmegaConf.create(hydra_entry.plain(cfg)[0])
