"""Balancers built from their option files, and matrices [T, P] in float64 on which every one of them is tried."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from m3tl_cli.balancing.base import Balancer

CONF = Path(__file__).resolve().parents[2] / "conf" / "balancing"
STEMS = sorted(path.stem for path in CONF.glob("*.yaml"))
KINDS = ["plain", "agreeing", "opposed", "spread"]
ROWS = ["gradnorm", "mgda", "nash_mtl", "pcgrad"]


def build(stem: str, **changes: Any) -> Balancer:
    """Make a balancer with the numbers of its option file, changed by `changes`."""
    node = yaml.safe_load((CONF / f"{stem}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    kind = getattr(import_module(module), name)
    if "seed" in inspect.signature(kind).parameters:
        node["seed"] = 0
    balancer = kind(**{**node, **changes})
    assert isinstance(balancer, Balancer)
    return balancer


def names(num_tasks: int) -> list[str]:
    """Names of T tasks."""
    return [f"t{i}" for i in range(num_tasks)]


def ready(stem: str, num_tasks: int, **changes: Any) -> Balancer:
    """Make a balancer that is reset for T tasks."""
    balancer = build(stem, **changes)
    balancer.reset(names(num_tasks))
    return balancer


def rows(num_tasks: int, kind: str = "plain", seed: int = 0) -> Tensor:
    """Random gradients [T, 20].

    Args:
        num_tasks: T.
        kind: plain: independent; agreeing: with a common part; opposed: with little room, P = T; spread: norms from 1 to 100.
        seed: Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    columns = num_tasks if kind == "opposed" else 20
    matrix = torch.randn(num_tasks, columns, dtype=torch.float64, generator=generator)
    if kind == "agreeing":
        matrix += 2 * torch.randn(1, columns, dtype=torch.float64, generator=generator)
    if kind == "spread":
        matrix *= torch.logspace(0, 2, num_tasks, dtype=torch.float64)[:, None]
    return matrix


def losses(num_tasks: int) -> Tensor:
    """Losses 1, 2, ... T."""
    return torch.arange(1, num_tasks + 1, dtype=torch.float64)
