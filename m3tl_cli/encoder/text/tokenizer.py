"""From texts to what a text encoder reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.text import origin


class Tokenizer:
    """Turn texts into pairs (token id, 1 where there is a token), with the tokenizer that belongs to a model.

    A reader of data is handed one and calls it once with all its texts. It pickles.

    Args:
        model: As `HFText` takes it.
        max_length: Tokens, special ones included, behind which a text is cut off.

    Attributes:
        key: Decides, together with the texts, what comes out; for the key of a store.

    Raises:
        ConfigError: If the model, or its tokenizer, is not at hand.
    """

    def __init__(self, *, model: str, max_length: int) -> None:
        self._max_length = max_length
        self._tokenizer = _load(origin.find(model, weights=False), model)
        self.key = hashlib.blake2b(f"{max_length} {_content(self._tokenizer)}".encode(), digest_size=16).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokenise all texts in one go.

        Returns:
            [num, N, 2] int64, N the tokens of the longest of these texts. Behind its last token a text holds the model's padding
            token and 0.
        """
        if not texts:
            return torch.zeros(0, 0, 2, dtype=torch.long)
        found = self._tokenizer(
            list(texts), padding="longest", truncation=True, max_length=self._max_length, return_attention_mask=True, return_tensors="pt"
        )
        return torch.stack((found["input_ids"], found["attention_mask"]), -1)


def _load(folder: Path, model: str) -> PreTrainedTokenizerBase:
    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, padding_side="right")
        # Without its files the library makes an empty one, to which every word is unknown.
        problem = "" if set(found.get_vocab()) - set(found.all_special_tokens) else "none of its files"
    except (OSError, ValueError, ImportError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise ConfigError(
            f"`{model}` must have a tokenizer that transformers can read; found {problem} in {folder}.", place=f"{origin.PLACE}.model"
        )
    if found.pad_token_id is None:
        # A model made for single texts has none; any will do, as nothing attends to it.
        found.pad_token = found.eos_token or found.unk_token
    return found


def _content(tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides the ids of a text."""
    if tokenizer.is_fast:
        return f"{tokenizer.backend_tokenizer.to_str()} {tokenizer.pad_token_id}"
    return repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), sorted(tokenizer.special_tokens_map.items())))
