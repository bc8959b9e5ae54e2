"""Text encoders of the library transformers."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING
from transformers.utils import logging as library_logging

from m3tl_cli.core.contracts import ModalityInfo, Name, Signature
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.weights import SUFFIXES, Loaded, read
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.encoder.text import origin

Masking = Literal["both", "causal", "library"]
"""Who looks at whom: every token at every one; at those before it; or as the library makes it of the row of tokens."""


class HFText(Encoder):
    """Turn a tokenised text into a vector, or a vector per token, by any encoder of transformers.

    Attention has derivatives of every order, and nothing that is computed depends on how a batch is padded: the square mask of who
    attends to whom is made here, as the library's own looks at values, which `vmap` cannot. A network that does something else with
    a mask (a window, its own bias) is found out by comparison when it is made; it gets the plain row, works as ever but for `vmap` over
    inputs, and `notes` say so.

    Source: "Transformers: State-of-the-Art Natural Language Processing" (Wolf et al., EMNLP 2020), https://aclanthology.org/2020.emnlp-demos.6;
    mean pooling from "Sentence-BERT" (Reimers and Gurevych, EMNLP 2019), https://arxiv.org/abs/1908.10084, section 3.
    Differs from transformers: an absent text, without a token, is read as one padding token; a pooler that is not asked for is left out.

    Args:
        model: Whose network and tokenizer: a folder; `package:NAME`, or `package:NAME/FOLDER`, of an installed package that carries one;
            or a name on the hub, looked for in the local cache first.
        weights: None: random; `hub`: those that come with the model, wherever it comes from; else a file (safetensors; or .pt, .pth,
            .th, .bin, of which nothing but tensors is unpickled) or a folder with them. Names may carry the prefix `module.`.
        output: `vector` [B, D] by `pooling`, or `tokens` [B, N, D], 0 where there is no token.
        pooling: Of a vector: `mean` of its tokens, `cls`: the first token, or `pooler`: as the model pools. Tokens do not read it.
        normalise: Whether a vector is brought to length 1, before the projection. Tokens do not read it.
        width: D, by a linear layer; None: as the model gives.
        max_length: Tokens of a text, special ones included, behind which the tokenizer cuts it off.
        attention: `eager`: plain products; `sdpa`: torch's fused kernels where no gradient is asked for, else its plain one, which,
            unlike them, has a second derivative.
        dropout: Of all layers while training; None: the model's own. 0 keeps support and query on one function.
        options: Further fields of the model's config, such as {num_hidden_layers: 4}.
        modality: Tokens (id, 1 where there is one), int64 [B, N, 2].

    Attributes:
        loaded: What became of the tensors of the weights; None without weights.

    Raises:
        ConfigError: If the model or its weights are not at hand, or it is not a text encoder that takes these options.
        DataError: If the weights cannot be read, or belong to another model: less than half of the network's numbers are in them.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str | None,
        output: Literal["vector", "tokens"],
        pooling: Literal["mean", "cls", "pooler"],
        normalise: bool,
        width: Annotated[int, Ge(1), Width()] | None,
        max_length: Annotated[int, Ge(1)],
        attention: Literal["eager", "sdpa"],
        dropout: Annotated[float, Ge(0), Lt(1)] | None,
        options: dict[str, Any],
        modality: ModalityInfo,
    ) -> None:
        super().__init__()
        if modality.channels != 2 or modality.length > max_length:
            raise ConfigError(
                f"`{modality.name}` must have 2 numbers a token and at most {max_length} tokens; "
                f"found {modality.channels} and {modality.length}.",
                hint=f"{origin.PLACE}.max_length={max(modality.length, max_length)}",
                place=f"{origin.PLACE}.max_length",
            )
        self._model, self._output, self._normalise = model, output, normalise
        self._pooling = pooling if output == "vector" else "mean"
        self._attention = attention
        folder = origin.find(model, weights=weights == "hub")
        config = self._config(folder, options, dropout)
        self.loaded: Loaded | None = None
        if weights is None:
            self.net, _ = self._create(config, None)
        else:
            self.net, self.loaded = self._load(config, folder if weights == "hub" else Path(weights).expanduser())
        self.notes = (f"{model}: {self.loaded} (from {self.loaded.source})",) if self.loaded else ()
        dim = self._probe(max_length)
        self.project = nn.Identity() if width is None else nn.Linear(dim, width)
        self.signature = Signature(output, width or dim)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Encode tokens [B, N, 2] (id, 1 where there is one) to a vector [B, D] or tokens [B, N, D], as the signature says."""
        ids, there = x[..., 0].long(), x[..., 1] > 0
        # The first token is looked at even if it is not there: an average over nothing would be NaN, and so would its gradient.
        seen = there | (torch.arange(ids.shape[1], device=ids.device) == 0)
        tokens, pooled = self._run(ids, seen, self._masking)
        if self._output == "tokens":
            return torch.where(there[..., None], self.project(tokens), tokens.new_zeros(()))
        if self._pooling == "mean":
            weight = seen[..., None].to(tokens.dtype)
            pooled = (tokens * weight).sum(1) / weight.sum(1)
        elif self._pooling == "cls":
            pooled = tokens[:, 0]
        return self.project(F.normalize(pooled, dim=-1) if self._normalise else pooled)

    def _run(self, ids: Tensor, seen: Tensor, masking: Masking) -> tuple[Tensor, Any]:
        """Last hidden state [B, N, D]; and what the model's pooler makes of it, if any, where that is asked for, else the same."""
        if masking == "library":
            mask = seen.long()
        else:
            length = ids.shape[1]
            mask = seen[:, None, None, :].expand(-1, 1, length, length)
            mask = mask.tril() if masking == "causal" else mask
            if self._attention == "eager":
                zero = torch.zeros((), dtype=self.net.dtype, device=ids.device)
                mask = torch.where(mask, zero, torch.full_like(zero, torch.finfo(zero.dtype).min))
        fused = self._attention == "sdpa" and not torch.is_grad_enabled()
        with contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH):
            found = self.net(input_ids=ids, attention_mask=mask)
        tokens = found.last_hidden_state
        return tokens, getattr(found, "pooler_output", None) if self._pooling == "pooler" else tokens

    def _config(self, folder: Path, options: dict[str, Any], dropout: float | None) -> PretrainedConfig:
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"`{self._model}` must be a model of transformers; found: {error}", place=f"{origin.PLACE}.model") from error
        unknown = [name for name in options if not hasattr(config, name)]
        if unknown:
            raise ConfigError(
                f"`options` must be fields of the config of `{self._model}`; found {', '.join(unknown)}.",
                place=f"{origin.PLACE}.options",
            )
        for name, value in options.items():
            setattr(config, name, value)
        for name in [n for n, value in config.to_dict().items() if dropout is not None and "drop" in n and isinstance(value, float)]:
            setattr(config, name, dropout)
        return config

    def _network(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        kind = type(config)
        # The first has the encoders alone of models that also decode.
        found: Any = next((m[kind] for m in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING) if kind in m), None)
        found = found[0] if isinstance(found, tuple) else found
        if found is None or (config.is_encoder_decoder and kind not in MODEL_FOR_TEXT_ENCODING_MAPPING):
            raise ConfigError(
                f"`{self._model}` must be an encoder of texts; found a model of type {config.model_type}.", place=f"{origin.PLACE}.model"
            )
        return found

    def _create(self, config: PretrainedConfig, there: dict[Name, Tensor] | None) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The network, and what the library says of how the tensors fitted; nothing where there are none."""
        network = self._network(config)
        keywords: dict[str, Any] = {"attn_implementation": self._attention, "dtype": torch.float32}
        if "add_pooling_layer" in inspect.signature(network.__init__).parameters:
            keywords["add_pooling_layer"] = self._pooling == "pooler"
        try:
            if there is None:
                return network._from_config(config, **keywords), {}
            with _silent():
                made: Any = network.from_pretrained(
                    None, config=config, state_dict=there, output_loading_info=True, ignore_mismatched_sizes=True, **keywords
                )
            return made[0], made[1]
        except (TypeError, ValueError, RuntimeError, ImportError, AttributeError) as error:
            raise ConfigError(
                f"`{self._model}` must be a model that transformers can make with these options and attention={self._attention}; "
                f"found: {error}",
                hint=f"{origin.PLACE}.attention=eager" if self._attention == "sdpa" else "",
                place=f"{origin.PLACE}.{'attention' if self._attention == 'sdpa' else 'options'}",
            ) from error

    def _load(self, config: PretrainedConfig, path: Path) -> tuple[PreTrainedModel, Loaded]:
        files = self._files(path)
        net, found = self._create(config, {name: tensor for file in files for name, tensor in read(file, "weights").items()})
        shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
        wrong = {str(name): f"{_shape(has)}, not {_shape(wants)}" for name, has, wants in sorted(found["mismatched_keys"])}
        missing = set(found["missing_keys"]) | wrong.keys()
        loaded = Loaded(
            source=str(files[0]),
            loaded=tuple(name for name in shapes if name not in missing),
            new=tuple(name for name in shapes if name in missing),
            dropped=dict.fromkeys(sorted(found["unexpected_keys"]), "unknown") | wrong,
        )
        numbers = sum(shape.numel() for shape in shapes.values())
        if 2 * sum(shapes[name].numel() for name in loaded.loaded) < numbers:
            raise DataError(
                f"`weights` must be of the model `{self._model}`: at least half of its {numbers:,} numbers; found {loaded}.",
                hint=f"{origin.PLACE}.model=... names the model that they were trained with",
                place=str(path),
            )
        return net, loaded

    def _files(self, path: Path) -> list[Path]:
        if path.is_dir():
            index = path / "model.safetensors.index.json"
            whole = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
            if not whole and index.is_file():
                return [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            whole = whole or sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
            if whole:
                return whole[:1]
            problem = f"the folder {path} without one"
        elif path.suffix not in SUFFIXES:
            problem = f"`{path}`"
        elif not path.is_file():
            problem = f"no file `{path.absolute()}`"
        else:
            return [path]
        raise ConfigError(
            f"`weights` must be null, hub, or a file ending in {', '.join(SUFFIXES)}, or a folder with one; found {problem}.",
            hint=f"{origin.PLACE}.weights=/path/model.safetensors, or null for a random start",
            place=f"{origin.PLACE}.weights",
        )

    def _probe(self, length: int) -> int:
        """Width of what comes out; and, on the way, which mask the network understands."""
        self.eval()
        # Ids that every vocabulary has, and an end that is not there.
        ids, seen = torch.arange(length)[None] % 100, torch.arange(length)[None] < max(1, length - length // 4)
        try:
            with torch.no_grad():
                expected, pooled = self._run(ids, seen, "library")
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f"`{self._model}` must be an encoder of texts of up to {length} tokens; found {type(error).__name__}: {error}",
                hint=f"{origin.PLACE}.max_length={getattr(self.net.config, 'max_position_embeddings', length)}, or less",
                place=f"{origin.PLACE}.max_length",
            ) from error
        if self._pooling == "pooler" and pooled is None:
            raise ConfigError(
                f"`pooling` must be mean or cls for `{self._model}`, which has no pooler; found pooler.",
                hint=f"{origin.PLACE}.pooling=mean",
                place=f"{origin.PLACE}.pooling",
            )
        self._masking: Masking = "library"
        candidates: tuple[Masking, ...] = ("both", "causal")
        for masking in candidates:
            with torch.no_grad(), contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError, AssertionError):
                found, _ = self._run(ids, seen, masking)
                if torch.allclose(found[seen], expected[seen], rtol=1e-4, atol=1e-5):  # float32; another mask is 100 times as far off
                    self._masking = masking
                    return int(expected.shape[-1])
        self.notes = (*self.notes, f"{self._model} masks tokens in its own way: its inputs cannot be under vmap")
        return int(expected.shape[-1])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the library from printing its own table and progress bar."""
    level, bars = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        if bars:
            library_logging.enable_progress_bar()


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
