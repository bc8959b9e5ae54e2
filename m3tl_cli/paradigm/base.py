"""Switches, and the stages that they make. The switches are read here, once; nothing after sees them."""

from __future__ import annotations

from dataclasses import dataclass

from m3tl_cli.core.contracts import TaskName


@dataclass(frozen=True)
class Stage:
    """One stretch of a run.

    Args:
        name: For the log and the report.
        tasks: Tasks that are trained or evaluated.
        updates: Optimiser steps; 0 for a stage that only evaluates.
        skipped: Why it does not take place; empty where it does.
    """

    name: str
    tasks: tuple[TaskName, ...]
    updates: int
    skipped: str = ""


@dataclass(frozen=True)
class Paradigm:
    """A setting of the switches of the cube.

    Args:
        name: For tables and folders; nothing decides by it.
        joint: One network with shared and task-specific modules and task balancing; off: a network per task, each loss by itself.
    """

    name: str
    joint: bool

    def fixed_parts(self) -> dict[str, dict[str, str]]:
        """Config nodes of the groups whose choice the switches make, whatever the config names there."""
        if self.joint:
            return {}
        return {
            "sharing": {"_target_": "m3tl_cli.sharing.separate.Separate"},
            "balancing": {"_target_": "m3tl_cli.balancing.sum.Sum"},
        }

    def notes(self) -> tuple[str, ...]:
        """What a reader of the config should know."""
        if self.joint:
            return ()
        return ("joint is off: a network per task, each loss by itself; `sharing` and `balancing` of the config are not used",)

    def stages(self, tasks: tuple[TaskName, ...], updates: int) -> tuple[Stage, ...]:
        """Stages in order."""
        return (Stage("train", tasks, updates), Stage("evaluate", tasks, 0))
