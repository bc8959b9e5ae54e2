"""Low-rank adaptation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from m3tl_cli.core.contracts import Name, Params, stable_seed
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.base import HandOver, hold_statistics, is_head, parts, refresh

ADAPTER = "default"  # the name that peft gives an adapter


class LoRA(HandOver):
    """Freeze what is handed over, and learn a low-rank change of every linear layer and 2-d convolution in it.

    W becomes W + (alpha / r) B A, where A starts at random and B at 0: the first output is the source's to the bit. Heads and whatever is
    new are trained as usual; normalisation stays frozen, statistics too. The layers are peft's: a layer `<module>` becomes
    `<module>.base_layer`, beside `<module>.lora_A.default` and `<module>.lora_B.default`.

    Left out: convolutions with groups, layers that are nn.Linear or nn.Conv2d by inheritance only, and those inside torch's multi-head
    attention, which reads their weights without calling them.

    Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., ICLR 2022), https://arxiv.org/abs/2106.09685.
    Differs from the paper: every layer instead of the projections of attention; no dropout.

    Args:
        r: Rank.
        alpha: Scale of the change, over `r`.
    """

    def __init__(self, *, r: Annotated[int, Ge(1)], alpha: Annotated[float, Gt(0)]) -> None:
        self.r, self.alpha = r, alpha

    def prepare(self, model: nn.Module, handed: Collection[Name], seed: int) -> frozenset[Name]:
        """Put adapters beside the layers of the networks that are handed over.

        Raises:
            ConfigError: If they have no such layer.
        """
        hold_statistics(model, handed)
        added: set[Name] = set()
        there = False
        for root, part in parts(model, handed).items():
            for path, module in _layers(part, root).items():
                if isinstance(module, LoraLayer):
                    there = True
                    continue
                owner, _, last = path.rpartition(".")
                wrapped = self._wrapped(module, stable_seed(seed, "lora", path))
                setattr(model.get_submodule(owner), last, wrapped)
                added |= {f"{path}.{n}" for n, _ in wrapped.named_parameters() if n.startswith("lora_")}
        if not added and not there:
            raise ConfigError(
                "`handover` by LoRA must find a linear layer or a 2-d convolution without groups in what is handed over; found none.",
                hint="transfer/handover=fine_tune",
                place="transfer.handover",
            )
        refresh(model)
        return frozenset(added)

    def trainable(self, params: Params, fresh: frozenset[Name], step: int, steps: int) -> frozenset[Name]:  # noqa: ARG002
        """Fresh names, heads and the adapters' matrices."""
        return frozenset(n for n in params if n in fresh or is_head(n) or ".lora_A." in n or ".lora_B." in n)

    def _wrapped(self, layer: nn.Module, seed: int) -> nn.Module:
        needed = [p.requires_grad for p in layer.parameters()]
        # Alone in a holder, because peft freezes everything else in the model that it is given, heads too.
        holder = nn.ModuleDict({"layer": layer})
        config = LoraConfig(r=self.r, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=["layer"])  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, holder, ADAPTER)
        wrapped = holder["layer"]
        if isinstance(layer, nn.Conv2d):
            # peft 0.21 copies kernel, stride and padding of the layer, and forgets the rest of its geometry.
            down = wrapped.get_submodule(f"lora_A.{ADAPTER}")
            for name in ("dilation", "padding_mode", "_reversed_padding_repeated_twice"):
                setattr(down, name, getattr(layer, name))
        for param, need in zip(layer.parameters(), needed, strict=True):
            param.requires_grad_(need)
        return wrapped


def _layers(part: nn.Module, root: str) -> dict[str, nn.Module]:
    """Layers that can be adapted, and those that are, by path."""
    found: dict[str, nn.Module] = {}
    closed: tuple[str, ...] = ()
    for path, module in part.named_modules(prefix=root):
        if closed and path.startswith(closed):
            continue
        if isinstance(module, nn.MultiheadAttention | LoraLayer):
            closed += (f"{path}.",)
        # A subclass may compute something else than its matrix times its input.
        plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
        if plain or isinstance(module, LoraLayer):
            found[path] = module
    return found
