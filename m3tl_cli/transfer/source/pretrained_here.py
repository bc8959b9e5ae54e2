"""Encoders that this program pretrains itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge

from m3tl_cli.core.contracts import Task, TaskName
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.transfer.base import Source


class PretrainedHere(Source):
    """Train encoders on the data's pretraining block first, and throw the rest of that network away.

    This class carries the numbers; the pretraining stage trains, and keeps the result under `key`.

    Args:
        tasks: Tasks to pretrain on, together; None: the first that the data labels in its pretraining block.
        updates: Optimiser steps.
    """

    def __init__(self, *, tasks: list[str] | None, updates: Annotated[int, Ge(1)]) -> None:
        self.tasks = None if tasks is None else tuple(tasks)
        self.updates = updates

    def choose(self, known: Sequence[Task]) -> tuple[TaskName, ...]:
        """Tasks to pretrain on.

        Args:
            known: Tasks of the data, in its order.

        Raises:
            DataError: If the data labels none in its pretraining block.
            ConfigError: If a task that was asked for has no labels there, or none was asked for.
        """
        labelled = tuple(t.name for t in known if "pretrain" in t.at)
        if not labelled:
            raise DataError(
                "pretraining must have a task that the data labels in its pretraining block; found none.",
                hint="take encoders from elsewhere: transfer/source=weights, checkpoint or own",
                place="data",
            )
        if self.tasks is None:
            return labelled[:1]
        unknown = [name for name in self.tasks if name not in labelled]
        if unknown or not self.tasks:
            raise ConfigError(
                f"`tasks` must be null or tasks that the data labels in its pretraining block ({', '.join(labelled)}); "
                f"found {', '.join(unknown) or 'none'}.",
                hint=f"transfer.source.tasks=[{labelled[0]}]",
                place="transfer.source.tasks",
            )
        return self.tasks

    def identity(self) -> Mapping[str, Any]:
        """Tasks and updates; data, encoders, optimiser and seed are the caller's to name."""
        return {"tasks": None if self.tasks is None else list(self.tasks), "updates": self.updates}
