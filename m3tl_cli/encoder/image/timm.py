"""Image encoders of the library timm."""

from __future__ import annotations

import difflib
import inspect
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from annotated_types import Ge, Gt
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from timm.layers.norm_act import GroupNormAct
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from m3tl_cli.core.contracts import ModalityInfo, Name, Signature
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.weights import SUFFIXES, Loaded, match, read
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder

OWN = ("checkpoint_path", "features_only", "in_chans", "num_classes", "out_indices", "pretrained", "pretrained_cfg_overlay")
"""Keywords of timm.create_model that the encoder itself gives."""

TIMEOUT = 5.0  # seconds in which a hub that can be reached answers


class Timm(Encoder):
    """Turn an image into a feature map, or a pooled vector, of any model of timm.

    BatchNorm never uses the statistics of a batch. With `norm: group` there is none: a GroupNorm with the same weights and biases
    stands in its place, so that an episode of five images, a second derivative and `vmap` all see the same function. With
    `norm: model` it stays, and runs on the statistics that came with the weights, also while training: they are not parameters,
    so they would leak from task to task in an inner loop and be lost when a run resumes. Its scale and shift are trained as usual.
    Without weights those statistics are mean 0 and variance 1: take `norm: group` to train from a random start.

    Attention is computed by plain products: the fused kernels have no second derivative.

    Source: "PyTorch Image Models" (Wightman, 2019), https://github.com/huggingface/pytorch-image-models; "Group Normalization" (Wu and
    He, ECCV 2018), https://arxiv.org/abs/1803.08494.
    Differs from timm: `norm`, as above; layers behind the stage of a map are left out.

    Args:
        model: Name in timm, with or without the tag of its weights.
        output: `map` [B, D, h, w] of `stage`, before the model's last norm; or `vector` [B, D], pooled as the model pools.
        stage: Which of the model's levels a map is taken from: 0 the first, -1 the deepest. A vector does not read it.
        width: D, by a 1x1 projection; None: as the model gives.
        weights: None: random; `hub`: of the model's tag, from the local cache or the hub; else a file (safetensors; or .pt, .pth, .th,
            .bin, of which nothing but tensors is unpickled) or a folder that holds one. Names may carry the prefix `module.`.
        input_size: Pixels of the shorter side, to which an image is resized, bilinearly, keeping its shape; None: as it is.
        mean: Taken from the pixels, in [0, 1], per channel or one for all; `model`: as the model's own config says. Where the image
            has not three channels, `model` is the average over the three.
        std: What the pixels are then divided by, the same way.
        norm: `group`: every BatchNorm becomes a GroupNorm; `model`: left as it is, with frozen statistics.
        groups: Most groups of a GroupNorm; taken is the greatest common divisor with the channels.
        options: Further keywords of `timm.create_model`.
        modality: Gives the colour channels and the size in pixels. A model made for one size of image is made for this one.

    Attributes:
        loaded: What became of the tensors of the weights; None without weights.

    Raises:
        ConfigError: If timm does not know the model, the model cannot take these options or this image, the weights are not at hand, or
            `norm: group` would throw away the statistics that the weights were trained with.
        DataError: If the weights cannot be read, or belong to another model: less than half of the network's numbers are in them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: str,
        output: Literal["map", "vector"],
        stage: int,
        width: Annotated[int, Ge(1), Width()] | None,
        weights: str | None,
        input_size: Annotated[int, Ge(1)] | None,
        mean: Literal["model"] | list[float],
        std: Literal["model"] | list[Annotated[float, Gt(0)]],
        norm: Literal["model", "group"],
        groups: Annotated[int, Ge(1)],
        options: dict[str, Any],
        modality: ModalityInfo,
    ) -> None:
        super().__init__()
        self._model, self._place = model, f"encoder.{modality.kind}"
        self._stage: int | None = None
        self._input_size = input_size
        self._channels = modality.channels
        rows, columns = self._resized(modality.size[0], modality.size[1])
        self.net = self._create(options, (rows, columns))
        if output == "map":
            self._stage = self._cut(stage)
        if norm == "group":
            _replace_batch_norm(self.net, groups)
        for module in self.net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        self.register_buffer("mean", self._per_channel("mean", mean, modality.channels), persistent=False)
        self.register_buffer("std", self._per_channel("std", std, modality.channels), persistent=False)
        self.loaded = self._load(weights, norm) if weights is not None else None
        self.notes = (f"{model}: {self.loaded} (from {self.loaded.source})",) if self.loaded else ()
        self._frozen = [m for m in self.net.modules() if any(n.startswith("running_") for n, _ in m.named_buffers(recurse=False))]
        self.project: nn.Module = nn.Identity()
        feature = self._probe((modality.size[0], modality.size[1]))
        if width is not None:
            self.project = nn.Conv2d(feature.shape[1], width, 1) if output == "map" else nn.Linear(feature.shape[1], width)
        self.signature = Signature(output, width or feature.shape[1], (feature.shape[2], feature.shape[3]) if output == "map" else (1, 1))

    def train(self, mode: bool = True) -> Timm:
        """Switch dropout and the like; whatever keeps running statistics stays in evaluation mode, see the class."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Encode an image [B, C, H, W] in [0, 1] to a map [B, D, h, w] or a vector [B, D], as the signature says."""
        size = self._resized(x.shape[-2], x.shape[-1])
        if size != tuple(x.shape[-2:]):
            x = F.interpolate(x, size, mode="bilinear", antialias=size[0] < x.shape[-2])
        x = (x - self.mean) / self.std
        if self._stage is None:
            return self.project(self.net(x))
        return self.project(self.net.forward_intermediates(x, indices=[self._stage], output_fmt="NCHW", intermediates_only=True)[0])

    def _resized(self, rows: int, columns: int) -> tuple[int, int]:
        if self._input_size is None:
            return rows, columns
        scale = self._input_size / min(rows, columns)
        return round(rows * scale), round(columns * scale)

    def _create(self, options: Mapping[str, Any], size: tuple[int, int]) -> Any:
        if not timm.is_model(self._model):
            near = difflib.get_close_matches(self._model, timm.list_models(), n=3)
            hint = f"nearest: {', '.join(near)}" if near else "python -c 'import timm; print(timm.list_models())' lists them"
            raise ConfigError(f"`model` must be a name that timm knows; found `{self._model}`.", hint=hint, place=f"{self._place}.model")
        if own := [name for name in OWN if name in options]:
            raise ConfigError(
                f"`options` must be keywords of timm.create_model that the encoder does not give itself; found `{own[0]}`.",
                hint=f"take {self._place}.options.{own[0]} out",
                place=f"{self._place}.options",
            )
        try:
            config = timm.get_pretrained_cfg(self._model.split(".")[0])
            # Such a model is made for one size of image; of the others few know the keyword.
            fitted = {"img_size": size} if config is not None and config.fixed_input_size else {}
            return timm.create_model(self._model, num_classes=0, in_chans=self._channels, **fitted | dict(options))
        except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
            raise ConfigError(
                f"`{self._model}` must be a model that timm can make with options {dict(options)}; found: {error}",
                place=f"{self._place}.options" if options else f"{self._place}.model",
            ) from error

    def _cut(self, stage: int) -> int:
        """Leave out what lies behind a stage; the stage counted from the front."""
        levels = len(self.net.feature_info or ())
        try:
            # Without the model's last norm and its head. The answer counts from the front, as layers behind it are gone.
            return int(self.net.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)[0])
        except (AssertionError, IndexError, ValueError) as error:
            raise ConfigError(
                f"`stage` must be in [-{levels}, {levels}), the levels of `{self._model}`; found {stage}.",
                hint=f"{self._place}.stage=-1",
                place=f"{self._place}.stage",
            ) from error
        except (AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"`output` must be vector for `{self._model}`, of which timm gives no maps; found map.",
                hint=f"{self._place}.output=vector",
                place=f"{self._place}.output",
            ) from error

    def _per_channel(self, name: str, values: Literal["model"] | list[float], channels: int) -> Tensor:
        if values == "model":
            found = torch.tensor(self.net.pretrained_cfg[name])
            found = found if len(found) == channels else found.mean(0, keepdim=True)
        else:
            found = torch.tensor([float(value) for value in values])
        if len(found) not in (1, channels):
            raise ConfigError(
                f"`{name}` must be `model` or a list of 1 or {channels} numbers; found {len(found)}.",
                hint=f"{self._place}.{name}=model",
                place=f"{self._place}.{name}",
            )
        return found.view(-1, 1, 1)

    def _probe(self, size: tuple[int, int]) -> Tensor:
        """What the network makes of one black image."""
        rows, columns = self._resized(*size)
        self.eval()
        try:
            with torch.no_grad():
                feature = self(torch.zeros(1, self._channels, *size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"`input_size` must give images that `{self._model}` can take; found {rows} x {columns} pixels: {error}",
                hint=f"{self._place}.input_size={self.net.pretrained_cfg['input_size'][-1]}",
                place=f"{self._place}.input_size",
            ) from error
        self.train()
        return feature

    def _load(self, weights: str, norm: str) -> Loaded:
        path = self._hub() if weights == "hub" else self._file(Path(weights).expanduser())
        there = read(path, "weights")
        net = self.net.state_dict()
        if any(n not in there or there[n].shape != v.shape for n, v in net.items()):
            there = self._converted(there)
        fits, found = match(there, net, str(path))
        numbers = sum(v.numel() for v in net.values())
        if 2 * sum(v.numel() for v in fits.values()) < numbers:
            raise DataError(
                f"`weights` must be of the model `{self._model}`: at least half of its {numbers:,} numbers; found {found}.",
                hint=f"{self._place}.model=... names the model that they were trained with",
                place=str(path),
            )
        if norm == "group" and any(n.endswith("running_mean") for n in found.dropped):
            raise ConfigError(
                "`norm` must be model for weights that were trained with BatchNorm; found group, which throws their statistics away.",
                hint=f"{self._place}.norm=model",
                place=f"{self._place}.norm",
            )
        self.net.load_state_dict(fits, strict=False)
        return found

    def _converted(self, there: dict[Name, Tensor]) -> dict[Name, Tensor]:
        """Older names to those of today, another image size, another number of colours."""
        convert = getattr(inspect.getmodule(type(self.net)), "checkpoint_filter_fn", None)
        if convert is not None:
            try:
                there = dict(convert(dict(there), self.net))
            except (AttributeError, KeyError, RuntimeError):
                return there  # not of this model; what does not fit is told from the names
        first = self.net.pretrained_cfg.get("first_conv")
        for name in [f"{n}.weight" for n in ([first] if isinstance(first, str) else first or ())]:
            if name in there and there[name].dim() == 4 and there[name].shape[1] == 3 != self._channels:
                there[name] = adapt_input_conv(self._channels, there[name])
        return there

    def _file(self, path: Path) -> Path:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
            inside = [p for p in inside if p.name == "model.safetensors"] or inside
            if len(inside) == 1:
                return inside[0]
            problem = f"the folder has {len(inside)} of them: {', '.join(p.name for p in inside)}" if inside else "a folder without one"
        elif path.suffix not in SUFFIXES:
            problem = f"`{path}`"
        elif not path.is_file():
            problem = f"no file `{path.absolute()}`"
        else:
            return path
        raise ConfigError(
            f"`weights` must be null, hub, or a file ending in {', '.join(SUFFIXES)}, or a folder with one; found {problem}.",
            hint=f"{self._place}.weights=/path/model.safetensors, or null for a random start",
            place=f"{self._place}.weights",
        )

    def _hub(self) -> Path:
        config = self.net.pretrained_cfg
        repository, name = config.get("hf_hub_id"), config.get("hf_hub_filename") or "model.safetensors"
        hint = f"{self._place}.weights=/path/model.safetensors, or null for a random start"
        place = f"{self._place}.weights"
        if not repository:
            raise ConfigError(f"`weights` must be null or a file for `{self._model}`; found hub, which has none.", hint=hint, place=place)
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except LocalEntryNotFoundError:
            looked = f"{name} of {repository} in the cache {constants.HF_HUB_CACHE}"
        if constants.is_offline_mode():
            problem = "HF_HUB_OFFLINE forbids the network"
        elif trouble := _unreachable(constants.ENDPOINT):
            problem = f"{constants.ENDPOINT} cannot be reached ({trouble})"
        else:
            try:
                return Path(hf_hub_download(repository, name))
            except (OSError, HfHubHTTPError) as error:
                problem = f"{constants.ENDPOINT} says: {error}"
        raise ConfigError(f"`weights` must be at hand; found no {looked}, and {problem}.", hint=hint, place=place)


def _replace_batch_norm(net: nn.Module, groups: int) -> None:
    """Put a GroupNorm in the place of each BatchNorm, with its name, weight, bias and, where timm puts them there, activation."""
    for name, module in list(net.named_children()):
        if not isinstance(module, _BatchNorm):
            _replace_batch_norm(module, groups)
            continue
        channels, affine = module.num_features, module.affine
        group: nn.GroupNorm = GroupNormAct(channels, math.gcd(groups, channels), module.eps, affine, apply_act=False)
        if affine:
            group.load_state_dict({"weight": module.weight, "bias": module.bias})
        for part in ("drop", "act"):
            if hasattr(module, part):
                setattr(group, part, getattr(module, part))
        setattr(net, name, group)


def _unreachable(address: str) -> str:
    """Why a server does not answer; empty where it does. The hub's own client would try for half a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""  # an answer, if not a friendly one
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""
