"""What MLflow costs the training thread: its own CPU time spent in `metrics()` while the store is written by another thread.

    .venv/bin/python scripts/tracking_cost.py             # about 30 seconds

500 steps of 50 ms, 10 values each, into a fresh sqlite store. Target: below 2 % of the main thread's time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from _timing import machine

from m3tl_cli.tracking.base import RunInfo
from m3tl_cli.tracking.mlflow import MLflow

STEPS, SECONDS = 500, 0.05


def main() -> None:
    """Print the share."""
    values = {f"train/task{i}/loss": float(i) for i in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        tracker = MLflow(uri=None, experiment=None, flush_every=2.0, timeout=30.0, outputs=Path(folder))
        tracker.start(RunInfo("cost", Path(folder), "cost", {}))
        spent = 0.0
        for step in range(STEPS):
            begun = time.thread_time()
            tracker.metrics(step, values)
            spent += time.thread_time() - begun
            time.sleep(SECONDS)
        closing = time.perf_counter()
        tracker.finish("FINISHED")
        closing = time.perf_counter() - closing
    print(machine())
    share = spent / (STEPS * SECONDS)
    print(f"{1e6 * spent / STEPS:.0f} us a call, {share:.2%} of {STEPS} steps of {1e3 * SECONDS:.0f} ms; closed in {closing:.1f} s")
    print(tracker.trouble or "nothing lost")


if __name__ == "__main__":
    main()
