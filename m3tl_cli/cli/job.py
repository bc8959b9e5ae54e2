"""What Hydra runs: one job, from its composed config to its value."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.batch import Batch, Pulse
from m3tl_cli.cli.sink import Sink
from m3tl_cli.cli.status import Status
from m3tl_cli.config import paths
from m3tl_cli.config.validate import validate
from m3tl_cli.core.errors import ConfigError, Stopped
from m3tl_cli.core.results import Results

if TYPE_CHECKING:
    from omegaconf import DictConfig

RESUME = "M3TL_RESUME"
"""Set to 1 in the environment of a job that may enter a folder again; Hydra carries it to the workers of any launcher."""

TERMINAL = "M3TL_TERMINAL"
"""Process that has the terminal to itself and may draw a live display: the command's own, not the worker of a parallel launcher."""

log = logging.getLogger(__name__)


def task(cfg: DictConfig) -> float:
    """Run one job in its folder, and keep `status.json` true. At module level, so that launchers can pickle it by name.

    Returns:
        Mean over the tasks of the error reduction of the primary metric, on held-out samples of the source domains: what a
        sweeper maximises.

    Raises:
        M3TLError: As the experiment does; ConfigError also where a swept value does not pass the checks, or where another process
            is at work in the folder; Stopped in a worker that was told to end.
        SystemExit: With 128 + n after signal n.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    resume = os.environ.get(RESUME) == "1"
    batch = Batch.of_job(Path(hydra.sweep.dir)) if hydra.mode == RunMode.MULTIRUN else None
    if batch is not None and batch.is_over:
        raise Stopped(f"its launch was stopped or taken over; {folder} is left as it is")
    before = Status.read(folder)
    again = before is not None and batch is not None and before.batch == batch.name  # by its launcher: requeued, or tried once more
    resume = resume or again
    if before is not None and before.alive and before.pid != os.getpid() and not again:
        raise ConfigError(f"must be the folder of a run that has ended; found it running, as {before.whereabouts}", place=str(folder))
    before = before if resume else None
    if before is not None and before.state == "FINISHED" and before.value is not None:
        log.info("done already: %s", folder)
        return before.value
    # Before torch is loaded: threads that wait for one another sleep instead of spinning. On a busy 2-core machine 60 steps of the
    # default network on 2 threads took 195 s with spinning and 9 s without.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _keep_freed_memory()
    gc.enable()  # the program's start does without
    paths.add_own_code(*(s.path for s in hydra.runtime.config_sources if s.provider == "command-line"), hydra.runtime.cwd)
    with _ended_in_order(batch), kept_true(folder, list(hydra.overrides.task), before.seconds if before else 0.0, batch) as record:
        sources = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        results = _run(
            cfg,
            folder,
            resume=resume and has_checkpoint(folder),
            overrides=list(hydra.overrides.task),
            flags=[word for path in sources for word in ("--config-dir", path)],
            group=Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else "",
        )
        return record(results)


@contextmanager
def kept_true(folder: Path, overrides: list[str], seconds: float = 0.0, batch: Batch | None = None) -> Iterator[Callable[[Results], float]]:
    """Keep a run folder's `status.json` true, whatever happens inside.

    Args:
        folder: Run folder.
        overrides: What was typed.
        seconds: How long earlier parts of the run took.
        batch: That it belongs to; None outside a multirun.

    Yields:
        What takes the results and returns their objective; a run that has not called it when all is over was stopped.
    """
    status = Status.begin(overrides, seconds, batch.name if batch else "")
    status.write(folder)
    value: float | None = None

    def record(results: Results) -> float:
        nonlocal value
        value = objective(results)
        return value

    try:
        with Pulse(folder, batch):
            yield record
    except Exception as error:
        status.end("FAILED", error=_line(error)).write(folder)
        log.exception("failed: %s", _line(error))
        raise
    except BaseException as error:
        status.end("KILLED", error=_line(error)).write(folder)
        raise
    status.end("FINISHED", value=value).write(folder)


@contextmanager
def _ended_in_order(batch: Batch | None) -> Iterator[None]:
    """Let SIGTERM end a job wherever it stands: workers of some launchers would ignore it, others die of it without a word.

    A worker says that its job was stopped and lives on, so that its launcher hears of it; in the program's own process all ends. Where a
    launcher waits for a user signal, to requeue the job and end the process itself, a SIGTERM that comes with it means nothing more.

    Args:
        batch: That the job belongs to; None outside a multirun.

    Raises:
        Stopped: In a worker.
        SystemExit: Elsewhere, with 128 + n after signal n.
    """

    handed_over = False

    def end(number: int, _frame: object) -> None:
        if not handed_over:
            raise SystemExit(128 + number)

    def hand_over(number: int, frame: FrameType | None) -> None:
        nonlocal handed_over
        handed_over = True
        signal.signal(signal.SIGTERM, end)
        before[number](number, frame)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        waited = [n for n in (signal.SIGUSR1, signal.SIGUSR2) if callable(signal.getsignal(n))]
        before |= {n: signal.signal(n, hand_over) for n in waited}
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if batch is None or batch.is_own or handed_over:
            raise
        raise Stopped(_line(error)) from None
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks, which otherwise go back to the system and are faulted in again at every step: 8 % of a step."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds something to continue from."""
    return any((folder / "checkpoints").glob("*"))


def objective(results: Results) -> float:
    """Mean error reduction over the main tasks of block a, else of the first block; NaN where nothing was measured."""
    block = results.blocks.get("a") or next(iter(results.blocks.values()), {})
    main = [t for t in block.values() if t.role == "main"] or list(block.values())
    found = [t.scores[t.primary].error_reduction for t in main]
    return sum(found) / len(found) if found else math.nan


def _run(cfg: DictConfig, folder: Path, *, resume: bool, overrides: list[str], flags: list[str], group: str) -> Results:
    from omegaconf import OmegaConf

    config, broken = hydra_entry.plain(cfg)
    problems = [*broken, *validate(config)]
    if problems:
        raise ConfigError("; ".join(map(str, problems)), hint="m3tl train --help")
    stored = folder / "config.yaml"
    if resume and stored.is_file():
        old = OmegaConf.load(stored)
        if OmegaConf.to_container(old) != config:
            log.warning("the configs have changed since this run began; it goes on with its own, %s", stored)
        config = OmegaConf.to_container(old)  # type: ignore[assignment]
    with Sink.on_terminal(alone=os.environ.get(TERMINAL) == str(os.getpid())) as sink:
        from m3tl_cli import experiment  # loads torch, after everything that can be wrong with the config

        return experiment.run(
            OmegaConf.create(config), folder=folder, emit=sink, resume=resume, overrides=overrides, flags=flags, group=group
        )


def _line(error: BaseException) -> str:
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return f"stopped by {signal.Signals(error.code - 128).name}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    if isinstance(error, SystemExit):
        return "ended by its launcher"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
