"""Time several callables against one another on a machine that others use too.

The repetitions are interleaved and shuffled, so that a busy minute hits all of them alike; medians are compared, and the ratio of CPU
time to that of the first callable is the number to quote: seconds depend on the machine and its load, ratios hardly do. CPU time is
that of the whole process, all threads; on a GPU only the wall time says something, and the callable must synchronise.

    from _timing import compare
    compare({"sum": lambda: step(Sum()), "pcgrad": lambda: step(PCGrad(seed=0))}, repetitions=9)

prints

    Linux x86_64, 2 cores, 1 threads, load 1.3, torch 2.15.0, python 3.11.9; median of 9
                 CPU ms    ratio      spread     wall ms
    sum           12.10     1.00   0.97-1.04       12.12
    pcgrad        20.30     1.68   1.61-1.75       20.34
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """What one callable took.

    Args:
        cpu: Median CPU time of the process, in seconds.
        wall: Median wall time, in seconds.
        ratio: `cpu` over that of the first callable.
        spread: First and third quartile of the CPU time, over the median of the first callable.
    """

    cpu: float
    wall: float
    ratio: float
    spread: tuple[float, float]


def measure(callables: Mapping[str, Callable[[], object]], repetitions: int = 9, warmup: int = 1, seed: int = 0) -> dict[str, Timing]:
    """Run each callable `warmup` and then `repetitions` times, two or more, in shuffled rounds of one each."""
    if repetitions < 2 or not callables:
        raise ValueError(f"`repetitions` must be 2 or more, of one callable at least; found {repetitions} of {len(callables)}.")
    for call in callables.values():
        for _ in range(warmup):
            call()
    cpu: dict[str, list[float]] = {name: [] for name in callables}
    wall: dict[str, list[float]] = {name: [] for name in callables}
    order, shuffle = list(callables), random.Random(seed).shuffle
    for _ in range(repetitions):
        shuffle(order)
        for name in order:
            start_wall, start_cpu = time.perf_counter(), time.process_time()
            callables[name]()
            cpu[name].append(time.process_time() - start_cpu)
            wall[name].append(time.perf_counter() - start_wall)
    unit = statistics.median(cpu[next(iter(callables))])
    timings = {}
    for name in callables:
        median = statistics.median(cpu[name])
        lower, _, upper = statistics.quantiles(cpu[name], n=4, method="inclusive")
        timings[name] = Timing(median, statistics.median(wall[name]), median / unit, (lower / unit, upper / unit))
    return timings


def machine() -> str:
    """Machine, threads, load and versions, in one line."""
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{where}{load}, torch {torch.__version__}, python {platform.python_version()}"


def compare(callables: Mapping[str, Callable[[], object]], repetitions: int = 9, warmup: int = 1, seed: int = 0) -> dict[str, Timing]:
    """Measure, print the table, and return the figures."""
    timings = measure(callables, repetitions, warmup, seed)
    width = max(map(len, timings))
    print(f"{machine()}; median of {repetitions}")
    print(f"{'':{width}} {'CPU ms':>11} {'ratio':>8} {'spread':>11} {'wall ms':>11}")
    for name, timing in timings.items():
        spread = f"{timing.spread[0]:.2f}-{timing.spread[1]:.2f}"
        print(f"{name:{width}} {1e3 * timing.cpu:11.3f} {timing.ratio:8.2f} {spread:>11} {1e3 * timing.wall:11.3f}")
    return timings
