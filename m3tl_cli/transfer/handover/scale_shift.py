"""Scaling and shifting of frozen layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, cast

from torch import Tensor, nn
from torch.func import functional_call

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.base import HandOver, hold_statistics, is_head, parts, refresh

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weight is [outputs, inputs, ...]."""


class ScaleShift(HandOver):
    """Freeze what is handed over, and learn a scale and a shift of every convolution and linear layer in it.

    output = (W * scale) x + (b + shift), where scale starts at 1 and shift, one per output channel, at 0: the first output is the
    source's to the bit. Heads and whatever is new are trained as usual; normalisation stays frozen, statistics too.

    A layer `<module>` becomes `<module>.base_layer`, beside `<module>.scale` and `<module>.shift`.

    Source: "Meta-Transfer Learning for Few-Shot Learning" (Sun et al., CVPR 2019), equations 3 to 5, https://arxiv.org/abs/1812.02391.
    Differs from the paper: linear layers too. What of it the inner loop adapts is the inner loop's to say.

    Args:
        scale: `slice`: one per kernel, of shape [outputs, inputs, 1, 1], as in the paper's code; of a linear layer or a 1x1 convolution
            that is a number per weight. `channel`: one per output channel.
    """

    def __init__(self, *, scale: Literal["slice", "channel"]) -> None:
        self.leading = 2 if scale == "slice" else 1

    def prepare(self, model: nn.Module, handed: Collection[Name], seed: int) -> frozenset[Name]:  # noqa: ARG002
        """Wrap the layers of the networks that are handed over.

        Raises:
            ConfigError: If they have no such layer.
        """
        hold_statistics(model, handed)
        added: set[Name] = set()
        there = False
        for root, part in parts(model, handed).items():
            for path, module in list(part.named_modules(prefix=root)):
                there = there or isinstance(module, ScaledLayer)
                if isinstance(module, LAYERS) and not path.endswith(".base_layer"):
                    owner, _, last = path.rpartition(".")
                    setattr(model.get_submodule(owner), last, ScaledLayer(module, self.leading))
                    added |= {f"{path}.scale", f"{path}.shift"}
        if not added and not there:
            raise ConfigError(
                "`handover` by scale and shift must find a convolution or a linear layer in what is handed over; found none.",
                hint="transfer/handover=fine_tune",
                place="transfer.handover",
            )
        refresh(model)
        return frozenset(added)

    def trainable(self, params: Params, fresh: frozenset[Name], step: int, steps: int) -> frozenset[Name]:  # noqa: ARG002
        """Fresh names, heads, scales and shifts."""
        return frozenset(n for n in params if n in fresh or is_head(n) or _adapts(n, params))


class ScaledLayer(nn.Module):
    """A layer with a weight [outputs, inputs, ...] whose weight is scaled and whose output is shifted.

    Args:
        base_layer: Kept as it is.
        leading: Dimensions of the weight that have scales of their own: 1 the outputs, 2 the inputs too.
    """

    def __init__(self, base_layer: nn.Module, leading: int) -> None:
        super().__init__()
        weight = _weight(base_layer).detach()
        self.base_layer = base_layer
        self.scale = nn.Parameter(weight.new_ones(*weight.shape[:leading], *[1] * (weight.dim() - leading)))
        self.shift = nn.Parameter(weight.new_zeros(len(weight)))

    @property
    def weight(self) -> Tensor:
        """The scaled weight; also for modules that read a layer's weight instead of calling it."""
        return _weight(self.base_layer) * self.scale

    @property
    def bias(self) -> Tensor:
        """The shifted bias [outputs]."""
        base = self.base_layer.bias
        return base + self.shift if isinstance(base, Tensor) else self.shift

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.base_layer.bias is not None:
            return functional_call(self.base_layer, {"weight": self.weight, "bias": self.bias}, (x,))
        output: Tensor = functional_call(self.base_layer, {"weight": self.weight}, (x,))
        return output + self.shift.view(-1, *[1] * (_weight(self.base_layer).dim() - 2))


def _weight(layer: nn.Module) -> Tensor:
    # Not get_parameter: in a functional call it is a plain tensor.
    return cast(Tensor, layer.weight)


def _adapts(name: Name, params: Params) -> bool:
    owner, _, last = name.rpartition(".")
    return last in ("scale", "shift") and f"{owner}.base_layer.weight" in params
