"""Device and precision."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import Literal

import torch

from m3tl_cli.core.errors import ConfigError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Runtime:
    """Where and in which precision a run computes.

    Args:
        device: `auto` (CUDA, else MPS, else CPU), `cpu`, `cuda`, `cuda:<n>` or `mps`.
        precision: 32, or `bf16` for autocast; parameters and optimiser state stay in float32.

        threads: Of torch on the CPU, for the whole process; None: as it is.

    Raises:
        ConfigError: If this machine lacks the device.
    """

    def __init__(self, *, device: str, precision: Literal[32, "bf16"], threads: int | None) -> None:
        self.device = _device(device)
        self.precision = precision
        if threads is not None:
            torch.set_num_threads(threads)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # Linux: the high-water mark starts again here, so that a sweep's runs do not share one

    def autocast(self) -> torch.autocast:
        """A context for forward passes."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def peak_memory(self) -> int:
        """Bytes at most since the start: the allocator's on a GPU; else the process's resident size, in which what earlier runs of the
        same process still hold is counted too (and, where the system is not Linux, all that they ever held)."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, others kibibytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device(asked: str) -> torch.device:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    here = ["cpu", *(["mps"] if mps else []), *(f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0))]
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = torch.device("meta")
    known = f"{device.type}:{device.index or 0}" if device.type == "cuda" else device.type
    if known not in here:
        raise ConfigError(
            f"must name a device of this machine ({', '.join(here)}); found `{asked}`",
            place="trainer.device",
            hint="trainer.device=auto",
        )
    return device
