"""Find the run or sweep that `--resume` or `adapt` means."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from m3tl_cli.cli.job import has_checkpoint
from m3tl_cli.cli.request import Request
from m3tl_cli.cli.sink import duration
from m3tl_cli.cli.status import FILE, SILENCE, Status
from m3tl_cli.core.errors import ConfigError

LATEST = "latest"
BEST = "checkpoints/best.safetensors"
OUTPUTS = Path("outputs")


def resumed(request: Request, asked: str) -> Request:
    """The request that enters a run's or sweep's folder again, as it was typed.

    Args:
        request: From the command line.
        asked: A folder, or `latest`.

    Raises:
        ConfigError: If there is nothing to resume, and why.
    """
    if request.multirun:
        return _resumed_sweep(request, asked)
    if request.overrides:
        raise ConfigError(
            f"nothing may be changed in a run that is resumed; found {shlex.join(request.overrides)}",
            hint="leave the overrides out: it goes on with its own",
            place="--resume",
        )
    folder = _latest_run() if asked == LATEST else _checked_run(Path(asked))
    return replace(_as_it_was(request, folder / ".hydra"), resumed=str(folder))


def started_from(run: str, overrides: tuple[str, ...], *, debug: bool) -> Request:
    """The request of a new run that takes what a finished one learnt, as it was typed but for `overrides`.

    Args:
        run: Its folder.
        overrides: Win over the run's own; `tasks` of them names the tasks to add.
        debug: Show tracebacks.

    Raises:
        ConfigError: If the folder holds no finished run.
    """
    folder = Path(run)
    status = Status.read(folder)
    if status is None or status.state != "FINISHED" or not (folder / BEST).is_file():
        found = "no run there" if status is None else f"one that is {status.state.lower()}" if status.state != "FINISHED" else f"no {BEST}"
        raise ConfigError(f"must be the folder of a finished run; found {found} in {folder}", hint="ls outputs/*/", place="RUN")
    was = _as_it_was(Request(debug=debug), folder / ".hydra")
    given = tuple(f"new_{o}" if o.startswith("tasks=") else o for o in overrides)
    keys = {o.partition("=")[0].lstrip("+~") for o in given}
    kept = tuple(o for o in was.overrides if o.partition("=")[0].lstrip("+~") not in keys)
    named = () if "name" in keys else ("name=adapt",)
    return replace(
        was, overrides=(*(o for o in kept if not o.startswith("name=") or not named), *named, *given, f"start={folder.resolve()}")
    )


def _as_it_was(request: Request, saved: Path) -> Request:
    """Overrides, root config and own config folder of a run, read from what Hydra kept of it."""
    from omegaconf import OmegaConf

    try:
        overrides = [str(o) for o in OmegaConf.load(saved / "overrides.yaml")]
        hydra = OmegaConf.load(saved / "hydra.yaml").hydra
    except OSError as error:
        raise ConfigError(f"must hold what was typed; found no {error.filename}", place=str(saved.parent)) from None
    own = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    return replace(
        request,
        overrides=tuple(overrides),
        config_dir=request.config_dir or (own[0] if own else ""),
        config_name=hydra.job.config_name or request.config_name,
    )


def _resumed_sweep(request: Request, asked: str) -> Request:
    folder = Path(asked)
    if asked == LATEST:
        found = sorted(OUTPUTS.glob("*/*-sweep"), key=lambda p: p.name)
        if not found:
            raise ConfigError("there must be a sweep to resume; found none under outputs/", hint="m3tl train -m seed=1,2", place="--resume")
        folder = found[-1]
    if not (folder / "multirun.yaml").is_file():
        raise ConfigError(f"must be the folder of a sweep; found no multirun.yaml in {folder}", place="--resume")
    refuse_running(folder, {path.parent.name: Status.read(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))})
    if not request.overrides:
        from omegaconf import OmegaConf

        hydra = OmegaConf.load(folder / "multirun.yaml").hydra
        own = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        extra = [str(o) for o in hydra.overrides.hydra if not str(o).startswith(("hydra.mode", "hydra.sweep.dir", "+hydra.job.env_set"))]
        request = replace(
            request,
            overrides=(*map(str, hydra.overrides.task), *extra),
            config_dir=request.config_dir or (own[0] if own else ""),
            config_name=hydra.job.config_name or request.config_name,
        )
    return replace(request, resumed=str(folder))


def refuse_running(folder: Path, jobs: Mapping[str, Status | None]) -> None:
    """Let no job that may still run be started once more; say which of them are taken for dead though nobody can tell.

    Args:
        folder: Of a multirun.
        jobs: Status by folder name.

    Raises:
        ConfigError: If one of them is alive.
    """
    for name, status in jobs.items():
        if status is not None and status.alive:
            hint = f"if it was killed there: in {duration(SILENCE - status.silent)} it is taken for dead" if status.elsewhere else ""
            raise ConfigError(f"{folder} is still running: {name}, as {status.whereabouts}", hint=hint, place="--resume")
    for name, status in jobs.items():
        if status is not None and status.state == "RUNNING" and status.elsewhere:
            sys.stderr.write(f"{name}: {status.whereabouts}, is taken for dead\n")


def _checked_run(folder: Path) -> Path:
    status = Status.read(folder)
    if status is None:
        raise ConfigError(f"must be the folder of a run; found no {FILE} in {folder}", hint="m3tl train --resume", place="--resume")
    why = _why_not(folder, status)
    if why:
        raise ConfigError(f"{folder} {why}", place="--resume")
    return folder


def _why_not(folder: Path, status: Status) -> str:
    if status.state == "FINISHED":
        return "is finished; there is nothing left to do in it"
    if status.alive:
        return f"is still running, as {status.whereabouts}"
    if not has_checkpoint(folder):
        return f"has no checkpoint yet; start again with: {shlex.join(['m3tl', 'train', *status.overrides])}"
    return ""


def _latest_run() -> Path:
    """The run that began last among those that can go on. A run's folder is named after its time; a sweep's jobs are not runs."""
    seen = []
    for folder in sorted((p.parent for p in OUTPUTS.glob(f"*/*/{FILE}")), key=lambda p: p.name, reverse=True):
        status = Status.read(folder)
        if status is None:
            continue
        why = _why_not(folder, status)
        if not why:
            return folder
        seen.append(f"{folder} {why}")
    found = f"the latest: {seen[0]}" if seen else "no run under outputs/"
    raise ConfigError(f"there must be an unfinished run to resume; found {found}", hint="m3tl train", place="--resume")
