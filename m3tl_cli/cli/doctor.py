"""`m3tl doctor`: whether this machine is fit for a run, and what to do where it is not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

SHOWN = ("torch", "hydra-core", "omegaconf", "mlflow", "torchmetrics", "torchjd", "timm", "transformers", "safetensors", "numpy")
DISK = 2 * 2**30  # bytes: prepared data, checkpoints and MLflow's copies of a handful of runs
MEMORY = 2 * 2**30  # bytes: torch and its libraries take 1, a run of the default size less than 1
SLOWDOWN = 1.5  # times slower with all threads than with one: a machine whose cores are taken
PROBE = 512  # rows of the matrices that are multiplied: 10 ms with one thread


@dataclass(frozen=True)
class Finding:
    """One line.

    Args:
        state: `ok`; `warn`, a run works and is slow or loses something; `bad`, a run fails.
        todo: What to do; empty where nothing is to be done.
    """

    name: str
    state: Literal["ok", "warn", "bad"]
    found: str
    todo: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Look at Python, libraries, processors, memory, disk, folders and tracking."""
    found = list(findings())
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in found], indent=1))
    else:
        _print(found)
    raise typer.Exit(1 if any(f.state == "bad" for f in found) else 0)


def findings() -> Iterator[Finding]:
    """Every check in turn; one that breaks is itself a finding."""
    checks: tuple[Callable[[], Finding], ...] = (python, libraries, torch_runs, processors, contention, accelerator, memory, disk)
    for check in (*checks, cache, outputs, tracking):
        try:
            yield check()
        except Exception as error:
            yield Finding(check.__name__.replace("_", " "), "bad", f"{type(error).__name__}: {error}")


def python() -> Finding:
    """Version of Python."""
    found = f"{platform.python_version()} on {platform.platform()}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("python", "bad", found, "use Python 3.11, 3.12 or 3.13")
    if os.name == "nt":
        return Finding("python", "warn", found, "Windows is not tested: use WSL")
    return Finding("python", "ok", found)


def libraries() -> Finding:
    """Versions of what a run needs."""
    from importlib.metadata import PackageNotFoundError, version  # a tenth of the time that `m3tl --help` takes

    versions, absent = [], []
    for name in SHOWN:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding("libraries", "bad", f"missing: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    return Finding("libraries", "ok", ", ".join(versions))


def torch_runs() -> Finding:
    """Whether torch can be imported and computes."""
    import torch

    total = float(torch.ones(4, 4).sum())
    return Finding("torch", "ok" if total == 16.0 else "bad", f"{torch.__version__}, {torch.get_num_threads()} threads")


def processors() -> Finding:
    """Cores of this process, and how busy they are."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    found = f"{usable} cores, load {load:.1f}"
    if load > 1.5 * usable:
        return Finding("processors", "warn", found, "other programs use the processors: expect slow runs")
    return Finding("processors", "ok", found)


def contention() -> Finding:
    """Whether more threads are faster than one. On taken cores they can be a hundred times slower."""
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return Finding("threads", "ok", "1 thread")
    rows = torch.ones(PROBE, PROBE)
    try:
        many = _fastest(lambda: rows @ rows)
        torch.set_num_threads(1)
        one = _fastest(lambda: rows @ rows)
    finally:
        torch.set_num_threads(threads)
    found = f"{threads} threads {many * 1e3:.1f} ms, 1 thread {one * 1e3:.1f} ms"
    if many > SLOWDOWN * one:
        return Finding("threads", "warn", found, "the cores are taken: run with OMP_NUM_THREADS=1")
    return Finding("threads", "ok", found)


def accelerator() -> Finding:
    """GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("accelerator", "ok", f"CUDA: {', '.join(names)}")
    if torch.backends.mps.is_available():
        return Finding("accelerator", "ok", "MPS")
    return Finding("accelerator", "ok", "none; the default run takes minutes on a CPU")


def memory() -> Finding:
    """Memory that is free."""
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.available / 2**30:.1f} of {found.total / 2**30:.1f} GB free"
    if found.available < MEMORY:
        return Finding("memory", "warn", text, "close other programs, or train with a smaller budget")
    return Finding("memory", "ok", text)


def disk() -> Finding:
    """Room where runs are written."""
    free = shutil.disk_usage(_existing(Path("outputs"))).free
    text = f"{free / 2**30:.1f} GB free here"
    if free < DISK:
        return Finding("disk", "warn", text, "free some, or run in a folder on another disk")
    return Finding("disk", "ok", text)


def cache() -> Finding:
    """Folder of everything derived."""
    from m3tl_cli.core.folders import cache_folder

    folder = cache_folder()
    return _writable("cache", folder, "set M3TL_CACHE to a folder that can be written")


def outputs() -> Finding:
    """Folder of the runs."""
    return _writable("outputs", Path("outputs"), "run m3tl in a folder that can be written")


def tracking() -> Finding:
    """Tracking store of the default config."""
    uri = _tracking_uri()
    if uri.startswith(("http://", "https://")):
        import urllib.request

        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3) as answer:
                return Finding("tracking", "ok", f"{uri} answers {answer.status}")
        except OSError as error:
            return Finding("tracking", "warn", f"{uri}: {error}", "start the server; runs are kept in their folders meanwhile")
    file = Path(uri.removeprefix("sqlite:///"))
    found = _writable("tracking", file.parent, "set tracking.uri, or tracking=off")
    return Finding("tracking", found.state, uri, found.todo)


def _tracking_uri() -> str:
    from m3tl_cli.cli import hydra_entry

    cfg = hydra_entry.compose(hydra_entry.search(), "train", [])
    with hydra_entry.hydra_node(cfg):
        config, _ = hydra_entry.plain(cfg)
    return str((config.get("tracking") or {}).get("uri") or f"sqlite:///{Path('outputs').resolve() / 'mlflow.db'}")


def _writable(name: str, folder: Path, todo: str) -> Finding:
    place = _existing(folder)
    if os.access(place, os.W_OK | os.X_OK):
        return Finding(name, "ok", str(folder))
    return Finding(name, "bad", f"{place} cannot be written", todo)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(p for p in (folder, *folder.parents) if p.exists())


def _fastest(work: Callable[[], Any], num: int = 5) -> float:
    times = []
    for _ in range(num + 1):  # the first one warms the threads up
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _print(found: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    colours = {"ok": "green", "warn": "yellow", "bad": "bold red"}
    for finding in found:
        text = Text(finding.found)
        text.append(f"\n→ {finding.todo}" if finding.todo else "", "bold")
        table.add_row(Text(finding.state, colours[finding.state]), Text(finding.name, "bold"), text)
    Console(highlight=False).print(table)
