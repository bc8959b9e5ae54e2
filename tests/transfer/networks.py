"""A small model of an image and a table, with every kind of layer that transfer meets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m3tl_cli.backbone.resnet import ResNet
from m3tl_cli.core.contracts import Batch, ModalityInfo, Name, Signature, Task, TaskName
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.encoder.image.conv import Conv
from m3tl_cli.encoder.table.mlp import MLP
from m3tl_cli.fusion.concat import Concat
from m3tl_cli.heads.dense.fcn import FCN
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.transfer.base import HandOver

RGB = ModalityInfo("rgb", "image", 3, (16, 16))
TABLE = ModalityInfo("table", "table", 5)
TASKS = (Task("depth", "depth", 1, True, (8, 8)), Task("count", "regression", 2, False))


class Normed(Encoder):
    """A convolution with BatchNorm and dropout, what a frozen network must not be moved by."""

    def __init__(self, *, modality: ModalityInfo) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(modality.channels, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.signature = Signature("map", 8, (modality.size[0] // 4, modality.size[1] // 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def a_model(
    tasks: Sequence[Task] = TASKS, sharing: Callable[..., Sharing] = Hard, *, normed: bool = False, seed: int = 0, width: int = 8
) -> MultiTaskModel:
    model = MultiTaskModel(
        encoders={
            "rgb": (lambda: Normed(modality=RGB)) if normed else (lambda: Conv(width=width, stride=4, groups=4, modality=RGB)),
            "table": lambda: MLP(width=8, num_layers=2, modality=TABLE),
        },
        fusion=lambda inputs: Concat(width=8, groups=4, spread=0.1, inputs=inputs),
        backbone=lambda inputs: ResNet(width=8, num_stages=2, blocks_per_stage=1, groups=4, inputs=inputs),
        sharing=lambda num_stages: sharing(num_stages=num_stages),
        head=lambda task, inputs: (
            FCN(width=8, kernel=3, groups=4, task=task, inputs=inputs) if task.dense else Linear(hidden=[], task=task, inputs=inputs)
        ),
        seed=seed,
    )
    model.start(tasks)
    return model


def a_batch(seed: int = 0, size: int = 6, dtype: torch.dtype = torch.float32) -> Batch:
    random = torch.Generator().manual_seed(seed)
    everywhere = torch.ones(size, dtype=torch.bool)
    rows = torch.arange(size)
    inputs = {"rgb": torch.rand(size, 3, 16, 16, generator=random), "table": torch.randn(size, 5, generator=random)}
    inputs = {m: x.to(dtype) for m, x in inputs.items()}
    return Batch(inputs, {}, dict.fromkeys(inputs, everywhere), {}, {}, {}, rows, torch.zeros_like(rows))


def outputs(model: MultiTaskModel, batch: Batch) -> dict[TaskName, Tensor]:
    return {t: o.detach() for t, o in model.outputs(model.params(), batch, tuple(model.tasks)).items()}


def state(model: nn.Module) -> dict[Name, Tensor]:
    """Parameters and buffers, copied."""
    return {n: v.detach().clone() for n, v in model.state_dict().items()}


def fresh_heads(model: MultiTaskModel, *tasks: TaskName) -> frozenset[Name]:
    return frozenset(n for n in model.params() if n.startswith(tuple(f"head.{t}." for t in tasks)))


def train(model: MultiTaskModel, handover: HandOver, fresh: frozenset[Name], steps: int = 4, lr: float = 0.05) -> None:
    """Real optimiser steps, as a stage takes them."""
    params = model.params()
    start = {n: p.detach().clone() for n, p in params.items() if n not in fresh}
    rates = handover.rates(params, fresh)
    names = handover.trainable(params, fresh, steps - 1, steps)
    optimizer = torch.optim.SGD(
        [{"params": [params[n]], "lr": lr * rates[n]} for n in params if n in names], momentum=0.9, weight_decay=0.1
    )
    for step in range(steps):
        model.train()
        free = handover.trainable(params, fresh, step, steps)
        objective = torch.stack([o.square().mean() for o in model.outputs(params, a_batch(step), tuple(model.tasks)).values()]).sum()
        penalty = handover.penalty(params, start)
        wrt = [n for n in params if n in free]
        found = torch.autograd.grad(objective if penalty is None else objective + penalty, [params[n] for n in wrt], allow_unused=True)
        for param in params.values():
            param.grad = None
        for name, gradient in zip(wrt, found, strict=True):
            params[name].grad = gradient
        optimizer.step()


def changed(before: Mapping[Name, Tensor], model: nn.Module) -> set[Name]:
    """Names whose tensors differ by a bit, adapters aside."""
    after: dict[str, Any] = model.state_dict()
    there = {n.replace(".base_layer.", "."): v for n, v in after.items()}
    return {n for n, v in before.items() if not torch.equal(v, there[n])}
