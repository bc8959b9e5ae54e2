"""Switches, and the stages that they make. The switches are read here, once; nothing after sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import DataError


@dataclass(frozen=True)
class Stage:
    """One stretch of a run.

    Args:
        name: For the log and the report.
        tasks: Tasks that are trained or evaluated.
        updates: Optimiser steps; 0 for a stage that only evaluates.
        skipped: Why it does not take place; empty where it does.
        episodes: Whether it draws episodes of support and query, and adapts within each; else plain mini-batches.
    """

    name: str
    tasks: tuple[TaskName, ...]
    updates: int
    skipped: str = ""
    episodes: bool = False


@dataclass(frozen=True)
class Lengths:
    """Optimiser steps of each stage.

    Args:
        pretrain: Of the encoders; 0 where they come from a file.
        warm_up: Plain joint steps before episodes.
        train: Of the source stage, warm-up included.
        adapt: Most steps of one adaptation at the target.
    """

    pretrain: int
    warm_up: int
    train: int
    adapt: int


@dataclass(frozen=True)
class Paradigm:
    """A setting of the switches of the cube.

    Args:
        name: For tables and folders; nothing decides by it.
        pretrain: Encoders come pretrained, from the `transfer.source`; off: they start at random.
        joint: Without `bilevel` one network with shared and task-specific modules and task balancing, with it episodes of two tasks or
            more; off: a network per task, each loss by itself, and with `bilevel` episodes of one task.
        bilevel: An inner loop on support and an outer loop on query, over episodes; off: one optimisation over mini-batches.
        handover: The target starts from what was learnt on the source; off: from the encoders alone.
    """

    name: str
    pretrain: bool
    joint: bool
    bilevel: bool
    handover: bool

    @property
    def single(self) -> bool:
        """Whether every episode holds exactly one task."""
        return not self.joint

    @property
    def separate(self) -> bool:
        """Whether every task has a network of its own."""
        return not self.joint and not self.bilevel

    def fixed_parts(self) -> dict[str, dict[str, str]]:
        """Config nodes of the groups whose choice the switches make, whatever the config names there."""
        if self.joint:
            return {}
        balancing = {"balancing": {"_target_": "m3tl_cli.balancing.sum.Sum"}}
        return balancing | ({"sharing": {"_target_": "m3tl_cli.sharing.separate.Separate"}} if self.separate else {})

    def idle(self) -> tuple[str, ...]:
        """Dotted keys of the config that the source stage does not read, whatever they say: the switches leave them out."""
        without_pretraining = () if self.pretrain else ("transfer",)
        without_episodes = () if self.bilevel else ("episodes", "inner", "head_init", "trainer.warm_up")
        return ("paradigm.name", "paradigm.handover", *self.fixed_parts(), *without_pretraining, *without_episodes)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the config should know."""
        if self.separate:
            return ("joint is off: a network per task, each loss by itself; `sharing` and `balancing` of the config are not used",)
        if self.single:
            return ("joint is off: every episode holds one task, on one network; `balancing` of the config is not used",)
        return ()

    def stages(
        self, seen: Sequence[TaskName], new: Sequence[TaskName], blocks: Mapping[Any, Sequence[str]], lengths: Lengths
    ) -> tuple[Stage, ...]:
        """Stages in order; those that do not take place say why.

        Args:
            seen: Tasks of the source.
            new: Tasks that only the target labels.
            blocks: Domains of the data's blocks; empty where it has none.
            lengths: Optimiser steps.

        Raises:
            DataError: If a switch needs what the data lacks.
        """
        if self.pretrain and lengths.pretrain and not blocks.get("pretrain"):
            raise DataError(
                f"paradigm `{self.name}` pretrains its encoders here and needs domains to do so; the data has none.",
                hint="name some (data.pretrain_domains), or take encoders from elsewhere: transfer/source=weights or checkpoint",
                place="data",
            )
        if self.handover and not blocks.get("target"):
            raise DataError(
                f"paradigm `{self.name}` hands what it learns over to a target; the data has no target domains.",
                hint="name some (data.target_domains), or use paradigm=stl or mtl, which need none",
                place="data",
            )
        warm_up = lengths.warm_up if self.bilevel else 0
        no_pretraining = "" if self.pretrain and lengths.pretrain else "encoders come from a file" if self.pretrain else "pretrain is off"
        tasks = tuple(seen)
        return (
            Stage("pretrain", (), lengths.pretrain, skipped=no_pretraining),
            Stage("warm_up", tasks, warm_up, skipped="" if warm_up else "no joint steps before episodes"),
            Stage("train", tasks, lengths.train - warm_up, episodes=self.bilevel),
            Stage("adapt", (*seen, *new), lengths.adapt, skipped="" if blocks.get("target") else "the data has no target domains"),
            Stage("evaluate", tasks, 0),
        )
