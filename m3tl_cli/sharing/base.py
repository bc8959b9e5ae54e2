"""Contract of sharings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from m3tl_cli.core.contracts import Params, TaskName

Column = str
"""Key of one copy of a network: `shared`, or a task's name."""


class Sharing(nn.Module, ABC):
    """Map tasks to columns.

    The model holds one encoder per modality and one fusion for each input column, and one backbone for each backbone column.
    A subclass takes its hyper-parameters and `num_stages: int` (of the backbone) as keywords.
    """

    def __init__(self, *, num_stages: int) -> None:
        super().__init__()
        self.num_stages = num_stages

    @abstractmethod
    def input_column(self, task: TaskName) -> Column:
        """Column of the encoders and the fusion that this task's backbone column starts from."""

    @abstractmethod
    def backbone_column(self, task: TaskName) -> Column:
        """Column of the backbone that this task's head reads."""

    def head_column(self, task: TaskName) -> Column:
        """Column of the head: the task's own, but for tasks that are pooled."""
        return task

    def start(self, tasks: Sequence[TaskName]) -> None:
        """Say, before any growth, which tasks the model starts with: these may enter one another's rows at more than 0."""

    def grow(self, task: TaskName, like: TaskName | None = None) -> None:
        """Make own parameters for one more task; adds names, never reshapes one, and leaves the outputs of older tasks equal to the bit."""

    def mix(self, stage: int, features: Mapping[Column, Tensor]) -> Mapping[Column, Tensor]:  # noqa: ARG002
        """Exchange features between backbone columns after a stage; [B, D] or [B, D, H, W] each."""
        return features

    def needs(self, task: TaskName, tasks: Sequence[TaskName]) -> tuple[TaskName, ...]:  # noqa: ARG002
        """Those of `tasks` (all that the model has) whose backbone columns the task's output depends on, itself first."""
        return (task,)

    def reads(self, task: TaskName, tasks: Sequence[TaskName]) -> frozenset[str]:  # noqa: ARG002
        """Own parameter names (relative to this module) that the task's output depends on."""
        return frozenset()

    def penalty(self, params: Params) -> Tensor | None:  # noqa: ARG002
        """A term of the objective that belongs to no task and is not balanced; None where there is none.

        Args:
            params: Those that a stage trains, by the model's names.
        """
        return None
