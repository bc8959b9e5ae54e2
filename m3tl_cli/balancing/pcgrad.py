"""Gradient surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3tl_cli.balancing.base import GramianBalancer
from m3tl_cli.core.contracts import TaskName, stable_seed


class PCGrad(GramianBalancer):
    """Project each task's gradient onto the normal plane of every gradient that it conflicts with, then add them up.

    For each task i, over the others j in a random order: where g_i . g_j < 0, g_i <- g_i - (g_i . g_j / ||g_j||^2) g_j, with g_j the
    unprojected gradient. With two tasks the order does not matter and the sum conflicts with neither.

    Source: "Gradient Surgery for Multi-Task Learning" (Yu, Kumar, Gupta, Levine, Hausman, Finn; NeurIPS 2020),
    https://arxiv.org/abs/2001.06782, Algorithm 1. The weights are TorchJD's `PCGradWeighting`.

    Differs from the paper: nothing. Differs from TorchJD: the order is drawn from (seed, number of steps so far), so that a resumed
    run continues exactly and torch's global generator is left alone; the [T, T] matrix is worked on in float64 on the CPU.

    Cost: the [T, T] inner products (T^2 P multiplications), one synchronisation, and T^2 projections of T numbers.

    Args:
        seed: Of the run; the orders in which tasks meet follow from it.
    """

    def __init__(self, *, seed: int) -> None:
        # Here, not at the top: torchjd.aggregation imports cvxpy, 1.7 s of CPU time.
        from torchjd.aggregation import PCGradWeighting

        self._weighting = PCGradWeighting()
        self._seed = seed
        self._steps = 0

    def reset(self, tasks: Sequence[TaskName]) -> None:  # noqa: ARG002
        """Start the sequence of orders anew."""
        self._steps = 0

    def gramian_weights(self, gramian_TT: Tensor, tasks: Sequence[TaskName]) -> Tensor:  # noqa: ARG002
        """How often each gradient is in the sum of the projected ones, [T]; 1 or more."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would also seed the generators of other devices, which nobody restores.
            torch.default_generator.manual_seed(stable_seed("pcgrad", self._seed, self._steps))
            weights_T = self._weighting(gramian_TT.detach().cpu().double())
        self._steps += 1
        return weights_T.to(gramian_TT.dtype).to(gramian_TT.device)

    def state_dict(self) -> dict[str, Any]:
        """The number of orders drawn."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self._steps = int(state["steps"])
