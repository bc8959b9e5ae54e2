"""A tiny model of linear stages, run under a sharing as the contract says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from m3tl_cli.sharing.base import Column, Sharing


class Stack(nn.Module):
    """One linear layer per input column, `num_stages` per backbone column, and one head per task."""

    def __init__(self, sharing: Sharing, tasks: Sequence[str], num_stages: int) -> None:
        super().__init__()
        self.sharing, self.num_stages = sharing, num_stages
        self.tasks: list[str] = []
        self.input, self.backbone, self.head = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for task in tasks:
            self.add(task)

    def add(self, task: str, like: str | None = None) -> None:
        first, column = self.sharing.input_column(task), self.sharing.backbone_column(task)
        if first not in self.input:
            self.input[first] = nn.Linear(3, 4)
        if column not in self.backbone:
            self.backbone[column] = nn.ModuleList(nn.Linear(4, 4) for _ in range(self.num_stages))
        self.head[task] = nn.Linear(4, 2)
        self.sharing.grow(task, like)
        self.tasks.append(task)
        self.double()

    def forward(self, x: Tensor, task: str) -> Tensor:
        needed = self.sharing.needs(task, self.tasks)
        features: Mapping[Column, Tensor] = {
            self.sharing.backbone_column(t): torch.tanh(self.input[self.sharing.input_column(t)](x)) for t in needed
        }
        for stage in range(self.num_stages):
            features = self.sharing.mix(stage, {c: torch.tanh(self.backbone[c][stage](f)) for c, f in features.items()})  # type: ignore[index]
        return self.head[task](features[self.sharing.backbone_column(task)])

    def reached(self, task: str) -> set[str]:
        """Names that autograd finds under the task's output."""
        names, params = zip(*self.named_parameters(), strict=True)
        grads = torch.autograd.grad(self(torch.randn(5, 3, dtype=torch.float64), task).square().sum(), params, allow_unused=True)
        return {n for n, g in zip(names, grads, strict=True) if g is not None}

    def declared(self, task: str) -> set[str]:
        """The same as the sharing declares it."""
        needed = self.sharing.needs(task, self.tasks)
        start = [f"head.{task}.", *(f"input.{self.sharing.input_column(t)}." for t in needed)]
        start += [f"backbone.{self.sharing.backbone_column(t)}." for t in needed]
        own = {f"sharing.{n}" for n in self.sharing.reads(task, self.tasks)}
        return {n for n, _ in self.named_parameters() if n.startswith(tuple(start)) or n in own}
