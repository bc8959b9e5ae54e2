"""Cross-stitch networks."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from m3tl_cli.core.contracts import TaskName
from m3tl_cli.sharing.base import Column, Sharing


class CrossStitch(Sharing):
    """Give every task a backbone of its own, and mix the backbones linearly after each stage.

    x_i <- sum_j alpha_ij x_j, with a learned scalar per stage and pair, named `alpha.<stage>.<i>.<j>`. Encoders and fusion are shared.
    With alpha the identity these are independent backbones, exactly.

    Source: "Cross-stitch Networks for Multi-task Learning" (Misra et al., CVPR 2016), https://arxiv.org/abs/1604.03539, equation 1;
    alpha starts as in its section 5.1 (.9 for the own task, .1 for the other).
    Differs from the paper: T tasks instead of two, the others share 1 - own; one scalar for all channels.
    Differs from LibMTL (4336804), which starts all at 1.

    Growth: a new column enters old rows at 0, so that the outputs of older tasks stay equal to the bit; only among the tasks named to
    `start` does it enter at its share. A new row starts as if all had started together or, given `like`, as like's row with the two
    columns exchanged.

    Args:
        own: alpha_ii at the start; the other tasks share 1 - own. A task alone has 1.
        num_stages: Stages of the backbone.
    """

    def __init__(self, *, own: Annotated[float, Ge(0), Le(1)], num_stages: int) -> None:
        super().__init__(num_stages=num_stages)
        self.own = own
        self._together: tuple[TaskName, ...] = ()
        self.alpha = nn.ModuleDict({str(stage): nn.ModuleDict() for stage in range(num_stages)})

    def input_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"

    def backbone_column(self, task: TaskName) -> Column:
        """The task's own."""
        return task

    def start(self, tasks: Sequence[TaskName]) -> None:
        """Let these tasks share with one another from the start, whichever is grown first."""
        self._together = tuple(tasks)

    def grow(self, task: TaskName, like: TaskName | None = None) -> None:
        """Add a column to every row, and a row."""
        for rows in self._rows():
            old = list(rows)
            together = self._together if task in self._together else ()
            everyone = together or (*old, task)
            values = {j: self._share(task, j, everyone) for j in (*old, task)}
            if like is not None:
                values = {j: rows[like][j].item() for j in old}
                values[task], values[like] = values[like], 0.0
            for i in old:
                rows[i][task] = self._scalar(self._share(i, task, together))
            rows[task] = nn.ParameterDict({j: self._scalar(value) for j, value in values.items()})

    def mix(self, stage: int, features: Mapping[Column, Tensor]) -> Mapping[Column, Tensor]:
        """Weigh and add the columns that are there, oldest first.

        The sum is a loop and no matrix product: the zeros of a column that came later must not change its rounding.
        """
        rows = self._rows()[stage]
        mixed: dict[Column, Tensor] = {}
        for i in features:
            terms = [rows[i][j] * features[j] for j in rows[i].keys() if j in features]  # noqa: SIM118
            mixed[i] = sum(terms[1:], terms[0])
        return mixed

    def needs(self, task: TaskName, tasks: Sequence[TaskName]) -> tuple[TaskName, ...]:
        """All: every column flows into every other."""
        return (task, *(t for t in tasks if t != task))

    def reads(self, task: TaskName, tasks: Sequence[TaskName]) -> frozenset[str]:
        """All alpha, but in the last stage only the task's own row."""
        last = self.num_stages - 1
        return frozenset(
            f"alpha.{stage}.{i}.{j}" for stage in range(self.num_stages) for i in tasks for j in tasks if stage < last or i == task
        )

    def _share(self, i: TaskName, j: TaskName, everyone: Sequence[TaskName]) -> float:
        # alpha_ij at the start where `everyone` started together.
        if i not in everyone or j not in everyone:
            return 0.0
        if len(everyone) == 1:
            return 1.0
        return self.own if i == j else (1 - self.own) / (len(everyone) - 1)

    def _rows(self) -> list[MutableMapping[TaskName, nn.ParameterDict]]:
        return [cast(MutableMapping[TaskName, nn.ParameterDict], rows) for rows in self.alpha.values()]

    def _scalar(self, value: float) -> nn.Parameter:
        beside = next(self.parameters(), torch.empty(()))
        return nn.Parameter(torch.full((), value, dtype=beside.dtype, device=beside.device))
