from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

import m3tl_cli
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.text.origin import find

HERE = Path(m3tl_cli.__file__).parent / "encoder" / "text" / "bytes"


def a_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def cached(cache: Path, name: str) -> Path:
    """A model in a local cache of the hub, without weights."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return a_model(folder / "snapshots" / ("0" * 40))


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find(str(a_model(tmp_path / "here")), weights=True) == tmp_path / "here"


@pytest.mark.parametrize("inside", ["", "/encoder", "/encoder/text/bytes"])
def test_a_package_is_searched_for_the_one_model_in_it(inside: str) -> None:
    assert find(f"package:m3tl_cli{inside}", weights=False) == HERE


def test_other_configs_in_a_package_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(tmp_path / "carrier" / "model")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (tmp_path / "carrier" / "__init__.py").write_text("raise AssertionError('its code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("package:carrier", weights=False) == model


def test_a_package_with_several_models_must_be_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = a_model(tmp_path / "carriers" / "a"), a_model(tmp_path / "carriers" / "b")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="found 2 models in it") as caught:
        find("package:carriers", weights=False)
    assert caught.value.hint == "package:carriers/a, package:carriers/b"
    assert find("package:carriers/a", weights=False) == first
    assert find("package:carriers/b", weights=False) == second


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("package:no_such_package", "no installed package `no_such_package`"),
        ("package:m3tl_cli.encoder", "no installed package `m3tl_cli.encoder`"),
        ("package:m3tl_cli/heads", "no config.json of a model"),
        ("/no/such/folder", "no folder /no/such/folder"),
        ("./nor/this/one", "no folder"),
        ("{tmp}", "without config.json"),
    ],
)
def test_what_is_nowhere_is_refused_in_words(model: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        find(model.replace("{tmp}", str(tmp_path)), weights=False)
    assert caught.value.place == "encoder.text.model"


def test_the_local_cache_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = cached(tmp_path, "some/model")
    assert find("some/model", weights=False) == folder
    (folder / "model.safetensors").write_bytes(b"")
    assert find("some/model", weights=True) == folder


@pytest.mark.parametrize(("offline", "words"), [(True, "HF_HUB_OFFLINE forbids"), (False, "127.0.0.1:9 cannot be reached")])
@pytest.mark.parametrize("there", [False, True])
def test_what_is_not_at_hand_is_told_within_a_second(
    offline: bool, words: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    if there:
        cached(tmp_path, "some/model")  # but for its weights
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=words) as caught:
        find("some/model", weights=True)
    assert time.perf_counter() - start < 1
    assert f"`some/model` with its weights in the cache {tmp_path}" in caught.value.message
    assert "encoder.text.model=/path/folder" in caught.value.hint
