"""What a run ran on and with: versions, hardware, git, command. Read by the report and by `m3tl doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import psutil

PACKAGES = (
    "m3tl-cli",
    "torch",
    "hydra-core",
    "omegaconf",
    "timm",
    "transformers",
    "mlflow",
    "torchmetrics",
    "torchjd",
    "numpy",
    "rich",
    "typer",
)


def versions() -> dict[str, str]:
    """Installed version per package; "absent" where there is none. Imports none of them."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def git_state() -> dict[str, Any]:
    """Commit of the working directory's repository and whether it has changes; empty outside one."""

    def ask(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(ask("status", "--porcelain"))} if commit else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}


def environment(command: Sequence[str]) -> dict[str, Any]:
    """Where and with what a run happens; JSON types only.

    Args:
        command: Words that start the same run again.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "command": list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_state(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "host": platform.node(),
    }
