"""Contracts of transfer: `Source`, where encoders start from, and `HandOver`, what moves on into a stage and how."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m3tl_cli.core.contracts import Name, Params, Task, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.weights import Loaded, match

STATISTICS = ("running_mean", "running_var")
"""Last components of the names of buffers that a normalisation cannot do without."""


class Source(ABC):
    """Where encoders start from.

    A stage that pretrains takes `updates` optimiser steps and gives `load` what came of them; where `updates` is 0, `load` finds the
    tensors itself.

    Attributes:
        updates: Optimiser steps of the pretraining stage; 0 where encoders come from elsewhere.
    """

    updates: int = 0

    def choose(self, known: Sequence[Task]) -> tuple[TaskName, ...]:  # noqa: ARG002
        """Tasks of the pretraining stage, of those that the data knows; none where encoders come from elsewhere."""
        return ()

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What decides the tensors that encoders start from, apart from what the caller knows; JSON types."""

    def tensors(self) -> Mapping[Name, Tensor] | None:
        """Tensors named as the model's, `encoder.<column>.<modality>. ...`, of any column; None where nothing is read from outside."""
        return None

    def load(self, model: nn.Module, trained: Mapping[Name, Tensor] | None = None) -> Loaded:
        """Start every input column of the model from this source, before anything wraps its modules.

        Args:
            model: Has encoders named `encoder.<column>.<modality>. ...`.
            trained: What the pretraining stage made, named as `tensors` are; None where `updates` is 0.

        Returns:
            What was loaded (so what counts as handed over), what is new and what was dropped.

        Raises:
            ConfigError: If nothing fits the model. DataError: if a file cannot be read.
        """
        found = self.tensors() if trained is None else trained
        return load_encoders(model, found or {}, type(self).__name__)

    def key(self, about: Mapping[str, Any]) -> str:
        """Content key: equal where encoders start equal.

        Args:
            about: Whatever else decides it (data, encoders, optimiser, seed); JSON types.
        """
        text = json.dumps({"source": type(self).__name__, "identity": self.identity(), "about": about}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class HandOver(ABC):
    """Decide what of a network that already learnt something changes in a stage, and how fast.

    Names of a stage are handed over, or `fresh`: after pretraining the encoders that came pretrained are handed over and everything
    else is fresh; at the target everything is handed over but the heads of new tasks. Heads are trained in every option, handed over
    or not: a stage that adapts seen tasks without touching their heads would change nothing.

    The order of use: load, grow, `prepare` (which may add and rename), then the other three with the parameters of after. No fresh name
    is renamed, so whatever was not fresh before is handed over, adapters included. They depend on their arguments alone: a run that
    resumes has nothing to restore but the modules that `prepare` adds, which preparing again adds again.
    """

    def prepare(self, model: nn.Module, handed: Collection[Name], seed: int) -> frozenset[Name]:  # noqa: ARG002
        """Change modules, where the option needs that, and let the model read its names again (`model.refresh()`).

        Doing it twice adds nothing the second time. The outputs of the model stay equal to the bit.

        Args:
            model: Changed in place.
            handed: Names that are handed over; no other module is touched.
            seed: Of what starts at random.

        Returns:
            The names that it added, adapters; where a module was wrapped, its own tensors are now named `<module>.base_layer. ...`.

        Raises:
            ConfigError: If the option finds no module that it could work on.
        """
        return frozenset()

    @abstractmethod
    def trainable(self, params: Params, fresh: frozenset[Name], step: int, steps: int) -> frozenset[Name]:
        """Names that an update may change; never fewer at a later step.

        Args:
            params: Everything that the stage knows, in the order of the model.
            fresh: Names of `params` that are not handed over.
            step: Counted from 0.
            steps: Of the stage.
        """

    def rates(self, params: Params, fresh: frozenset[Name]) -> dict[Name, float]:  # noqa: ARG002
        """Factor of the learning rate of every name of `params`, in (0, 1]."""
        return dict.fromkeys(params, 1.0)

    def penalty(self, params: Params, start: Params) -> Tensor | None:  # noqa: ARG002
        """A term of the objective that belongs to no task and is not balanced; None where there is none.

        Args:
            params: At which it is taken.
            start: Handed-over tensors as the stage found them, detached copies; names that `params` lacks are ignored.
        """
        return None


def load_encoders(model: nn.Module, tensors: Mapping[Name, Tensor], source: str = "source") -> Loaded:
    """Copy encoder tensors into every input column of a model.

    A column takes the source's column of the same name, else `shared`, else the source's first that has the modality. A tensor whose
    shape differs is not copied.

    Args:
        model: Has modules named `encoder.<column>.<modality>`.
        tensors: Named `encoder.<any column>.<modality>. ...`; other names are dropped.
        source: For the table and for messages.

    Returns:
        The table: names of the model that were copied, names of its encoders that were not, names of the source that nothing took.

    Raises:
        ConfigError: If nothing fits, or a normalisation would be left without the statistics that its weights were trained with.
    """
    there = _by_modality(tensors)
    loaded: list[Name] = []
    new: list[Name] = []
    taken: set[Name] = set()
    refused: dict[Name, str] = {}
    for (column, modality), net in _encoders(model).items():
        columns = there.get(modality, {})
        chosen = next((c for c in (column, "shared", *columns) if c in columns), column)
        fits, table = match(columns.get(chosen, {}), net, source)
        prefix = f"encoder.{column}.{modality}."
        statistics = [n for n in table.new if n.rpartition(".")[2] in STATISTICS and _sibling(n) in fits]
        if statistics and getattr(model.get_submodule(prefix[:-1]), "loaded", None) is None:
            raise ConfigError(
                f"the source of `{prefix[:-1]}` must hold the statistics of its normalisation; found none of {statistics[0]}.",
                hint="take encoders without BatchNorm (encoder.image.norm=group for timm), or give the encoder itself the weights",
                place="transfer.source",
            )
        with torch.no_grad():
            for name, value in fits.items():
                net[name].copy_(value)
        loaded += [prefix + n for n in fits]
        new += [prefix + n for n in table.new]
        taken |= {f"encoder.{chosen}.{modality}.{n}" for n in fits}
        refused |= {f"encoder.{chosen}.{modality}.{n}": reason for n, reason in table.dropped.items()}
    dropped = {n: refused.get(n, "not used") for n in tensors if n not in taken}
    found = Loaded(source, tuple(loaded), tuple(new), dropped)
    if not loaded:
        own = ", ".join(sorted({m for _, m in _encoders(model)})) or "none"
        raise ConfigError(
            f"`transfer.source` must hold tensors that fit the encoders of the run (modalities: {own}); found {found}.",
            hint="the encoders must be those that the source was trained with: same encoder=..., width and modality",
            place="transfer.source",
        )
    return found


def is_head(name: Name) -> bool:
    """Whether a name belongs to a head."""
    return name.startswith("head.")


def parts(model: nn.Module, handed: Collection[Name]) -> dict[str, nn.Module]:
    """The largest modules below the heads that are handed over as a whole, by path.

    Whole encoders, fusions and stages of a backbone, or those of their modules of which nothing is new.

    Args:
        model: Has `encoder.<column>.<modality>`, `fusion.<column>` and `backbone.<column>.stages.<i>`, or some of them.
        handed: Names that are handed over.
    """
    kept = frozenset(handed)
    found: dict[str, nn.Module] = {}

    def descend(path: str, module: nn.Module) -> None:
        names = [f"{path}.{n}" for n, _ in module.named_parameters()]
        if names and kept.issuperset(names):
            found[path] = module
        elif names:
            for name, child in module.named_children():
                descend(f"{path}.{name}", child)

    for family in ("encoder", "fusion", "backbone"):
        if hasattr(model, family):
            descend(family, model.get_submodule(family))
    return found


def hold_statistics(model: nn.Module, handed: Collection[Name]) -> None:
    """Keep every normalisation of the handed-over networks on the statistics that it has, whatever mode the model is put in."""
    for part in parts(model, handed).values():
        for module in part.modules():
            if any(n in STATISTICS for n, _ in module.named_buffers(recurse=False)):
                hold(module)


def hold(module: nn.Module) -> None:
    """Keep a module, without those inside it, in evaluation mode from its next call on, through `train()`, copies and functional calls."""
    if _evaluate not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_evaluate)


def refresh(model: nn.Module) -> None:
    """Let a model that keeps a list of its names read them again."""
    again = getattr(model, "refresh", None)
    if callable(again):
        again()


def _evaluate(module: nn.Module, inputs: object) -> None:  # noqa: ARG001 (torch gives the inputs)
    module.training = False


def _sibling(name: Name) -> Name:
    owner = name.rpartition(".")[0]
    return f"{owner}.weight" if owner else "weight"


def _by_modality(tensors: Mapping[Name, Tensor]) -> dict[str, dict[str, dict[Name, Tensor]]]:
    """Tensors of encoders by modality, column and name inside the encoder."""
    found: dict[str, dict[str, dict[Name, Tensor]]] = {}
    for name, value in tensors.items():
        family, *rest = name.split(".", 3)
        if family == "encoder" and len(rest) == 3:
            column, modality, inside = rest
            found.setdefault(modality, {}).setdefault(column, {})[inside] = value
    return found


def _encoders(model: nn.Module) -> dict[tuple[str, str], dict[Name, Tensor]]:
    """The model's own tensors, sharing memory, by column and modality."""
    found = _by_modality(model.state_dict())
    return {(column, modality): net for modality, columns in found.items() for column, net in columns.items()}
