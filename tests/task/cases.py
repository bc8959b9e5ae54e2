"""One small task of every kind with outputs and targets in float64, some of them without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Task, generator
from m3tl_cli.task.base import TaskKind
from m3tl_cli.task.binary import Binary
from m3tl_cli.task.binary_map import BinaryMap
from m3tl_cli.task.depth import Depth
from m3tl_cli.task.multiclass import Multiclass
from m3tl_cli.task.normals import Normals
from m3tl_cli.task.regression import Regression
from m3tl_cli.task.regression_map import RegressionMap
from m3tl_cli.task.segmentation import Segmentation

SIZE = (3, 4)
COUNT = Task("count", "multiclass", num_outputs=4, dense=False, classes=("none", "one", "two", "many"))
MINE = Task("mine", "binary", num_outputs=1, dense=False, classes=("no", "yes"))
DISTANCE = Task("distance", "regression", num_outputs=2, dense=False, unit="m", mean=(20.0, -3.0), std=(8.0, 0.5))
SURFACES = Task("surfaces", "segmentation", num_outputs=3, dense=True, size=SIZE, classes=("sky", "road", "vehicles"))
DEPTH = Task("depth", "depth", num_outputs=1, dense=True, size=SIZE, unit="m", mean=(20.0,), std=(18.0,))
OUTLINES = Task("outlines", "binary_map", num_outputs=1, dense=True, size=SIZE)
HEIGHT = Task("height", "regression_map", num_outputs=1, dense=True, size=SIZE, unit="m", mean=(3.0,), std=(5.0,))
NORMALS = Task("normals", "normals", num_outputs=3, dense=True, size=SIZE)


@dataclass(frozen=True)
class Case:
    """A kind and data for it; `constant` is the metric for which its trivial predictor is the best constant."""

    kind: TaskKind
    output: Tensor
    target: Tensor
    labelled: Tensor
    constant: str


def make(name: str, num_samples: int = 6) -> Case:
    """The case called `name`; one of `NAMES`. The first sample is labelled, the second is not."""
    random = generator("cases", name)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    labelled = torch.rand(num_samples, generator=random) < 0.7
    labelled[0], labelled[1] = True, False
    holes = torch.rand((num_samples, *SIZE), generator=random) < 0.2
    holes[0, 0, 0] = False
    if name == "multiclass":
        kind: TaskKind = Multiclass(task=COUNT, label_smoothing=0.1)
        target = torch.randint(4, (num_samples,), generator=random)
        target[1] = 1_000_000  # whatever stands where nothing is labelled is never read
        return Case(kind, normal(num_samples, 4), target, labelled, "accuracy")
    if name == "segmentation":
        kind = Segmentation(task=SURFACES, label_smoothing=0.1)
        target = torch.randint(3, (num_samples, *SIZE), generator=random).masked_fill(holes, -1)
        return Case(kind, normal(num_samples, 3, *SIZE), target, labelled, "pixel_accuracy")
    if name == "binary":
        kind = Binary(task=MINE, pos_weight=3.0)
        target = torch.randint(2, (num_samples,), generator=random)
        target[0], target[1] = 1, 1_000_000
        return Case(kind, normal(num_samples, 1), target, labelled, "auroc")
    if name == "binary_map":
        kind = BinaryMap(task=OUTLINES, pos_weight=3.0, threshold=0.4)
        target = torch.zeros(num_samples, *SIZE, dtype=torch.int64)
        # Positions with as many labels each and no two shares alike: only then is the order of the shares the best order.
        rows = labelled.nonzero()[:, 0]
        for place in range(SIZE[0] * SIZE[1]):
            target.flatten(1)[rows[torch.randperm(len(rows), generator=random)[: 2 * place + 1]], place] = 1
        lacking = rows[1 : 1 + SIZE[0] * SIZE[1]]
        target.flatten(1)[lacking, torch.arange(len(lacking))] = -1
        target[1] = 1_000_000
        return Case(kind, normal(num_samples, 1, *SIZE), target, labelled, "average_precision")
    if name.startswith("regression_map"):
        kind = RegressionMap(task=HEIGHT, loss=name.removeprefix("regression_map_"), delta=0.7)  # type: ignore[arg-type]
        target = (5 * normal(num_samples, *SIZE) + 3).masked_fill(holes, float("nan"))
        target[1] = float("nan")
        return Case(kind, normal(num_samples, 1, *SIZE), target, labelled, "mae")
    if name.startswith("regression"):
        kind = Regression(task=DISTANCE, loss=name.removeprefix("regression_"), delta=0.7)  # type: ignore[arg-type]
        target = normal(num_samples, 2) * torch.tensor(DISTANCE.std) + torch.tensor(DISTANCE.mean)
        target[1] = float("nan")
        target[0, 1] = float("nan")
        return Case(kind, normal(num_samples, 2), target, labelled, "mae")
    if name.startswith("depth"):
        kind = Depth(task=DEPTH, loss=name.removeprefix("depth_"))  # type: ignore[arg-type]
        target = (normal(num_samples, *SIZE) + 3).exp().masked_fill(holes, float("nan"))
        target[0, 0, 1], target[0, 0, 2] = 0.0, float("inf")
        return Case(kind, normal(num_samples, 1, *SIZE), target, labelled, "abs_rel")
    kind = Normals(task=NORMALS)
    target = torch.nn.functional.normalize(normal(num_samples, 3, *SIZE) - torch.tensor([0.0, 1.5, 0.5])[:, None, None], dim=1)
    target = target.masked_fill(holes[:, None], float("nan"))
    target[0, :, 0, 1] = 0.0
    return Case(kind, normal(num_samples, 3, *SIZE), target, labelled, "mean_angle")


NAMES = (
    *("multiclass", "segmentation", "normals", "binary", "binary_map"),
    *("regression_map_mse", "regression_map_l1", "regression_map_huber"),
    *("regression_mse", "regression_l1", "regression_huber", "depth_log_l1", "depth_log_mse", "depth_l1"),
)
