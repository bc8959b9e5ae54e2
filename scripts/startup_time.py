"""How long the command line takes before it does anything: CPU seconds of a child process, user and system, for each kind of call.

    python scripts/startup_time.py [--num 7]

CPU time, because on a busy machine the clock measures the others. Nothing is asserted: a test holds that none of these loads torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

CALLS = {
    "python -c pass": None,
    "m3tl --help": ["--help"],
    "m3tl train --help": ["train", "--help"],
    "m3tl list": ["list"],
    "m3tl train --cfg job": ["train", "--cfg", "job"],
    "m3tl train balancing=nope": ["train", "balancing=nope"],
    "m3tl train trainer.updtes=1": ["train", "trainer.updtes=1"],
    "m3tl train seed=two": ["train", "seed=two"],
}


def cpu(command: list[str], folder: str) -> float:
    # Compiled files are kept as an ordinary installation keeps them, whatever this shell says; without them each call costs twice.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "pycache")
    before = os.times()
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds until the command line answers.")
    parser.add_argument("--num", type=int, default=7, help="how often each is called")
    num = parser.parse_args().num
    print(f"{'call':<30} {'min':>6} {'median':>7}  CPU seconds of {num}")
    with tempfile.TemporaryDirectory() as folder:
        for name, words in CALLS.items():
            command = [sys.executable, "-c", "pass"] if words is None else [sys.executable, "-m", "m3tl_cli", *words]
            cpu(command, folder)  # compiles
            times = [cpu(command, folder) for _ in range(num)]
            print(f"{name:<30} {min(times):6.3f} {statistics.median(times):7.3f}")


if __name__ == "__main__":
    main()
