"""Where a text model comes from: a folder, a Python package that carries one, the local cache of the hub, or the hub."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from m3tl_cli.core.errors import ConfigError

PLACE = "encoder.text"
TIMEOUT = 5.0  # seconds in which a hub that can be reached answers

TOKENIZER = ["config.json", "*token*.json", "vocab.*", "merges.txt", "*.model"]
WEIGHTS = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
OLD_WEIGHTS = ["pytorch_model.bin"]
ELSEWHERE = ["*/*"]  # exports to other runtimes


def find(model: str, *, weights: bool) -> Path:
    """Find the folder that holds `config.json`, the tokenizer's files and, where asked for, the weights.

    Args:
        model: A folder; `package:NAME`, with `/FOLDER` behind it where the package holds more than one; or a name on the hub.
        weights: Whether weights must be there as well. A folder or a package is searched for them by the caller.

    Raises:
        ConfigError: If there is none, or its files are neither in the local cache nor on a hub that can be reached.
    """
    if model.startswith("package:"):
        return _in_package(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise _refused(model, f"the folder {folder.absolute()} without config.json")
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise _refused(model, f"no folder {folder.absolute()}")
    return _on_hub(model, weights)


def _in_package(model: str) -> Path:
    name, _, inside = model.removeprefix("package:").partition("/")
    # Of a top-level name only: finding a name with dots would run the package's code.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise _refused(model, f"no installed package `{name}`", hint="install it, or take a folder or a name on the hub")
    root = Path(next(iter(spec.submodule_search_locations))) / inside
    held = [path.parent for path in sorted(root.rglob("config.json")) if "model_type" in _json(path)]
    if root in held:
        return root
    if len(held) == 1:
        return held[0]
    several = ", ".join(f"package:{name}/{(Path(inside) / path.relative_to(root)).as_posix()}" for path in held)
    raise _refused(model, f"{len(held)} models in it" if held else f"no config.json of a model at {root}", hint=several)


def _on_hub(model: str, weights: bool) -> Path:
    wanted = TOKENIZER + (WEIGHTS if weights else [])

    def complete(folder: Path) -> bool:
        return (folder / "config.json").is_file() and (not weights or any(any(folder.glob(p)) for p in WEIGHTS + OLD_WEIGHTS))

    with contextlib.suppress(LocalEntryNotFoundError):
        folder = Path(snapshot_download(model, local_files_only=True))
        if complete(folder):
            return folder
    what = f"`{model}`{' with its weights' if weights else ''}"
    if constants.is_offline_mode():
        problem = "HF_HUB_OFFLINE forbids the network"
    elif trouble := _unreachable(constants.ENDPOINT):
        problem = f"{constants.ENDPOINT} cannot be reached ({trouble})"
    else:
        try:
            folder = Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=ELSEWHERE))
            if not complete(folder):
                folder = Path(snapshot_download(model, allow_patterns=wanted + OLD_WEIGHTS, ignore_patterns=ELSEWHERE))
            return folder
        except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            problem = f"{constants.ENDPOINT} says: {error}"
    raise ConfigError(
        f"`model` must be at hand; found no folder of that name, no {what} in the cache {constants.HF_HUB_CACHE}, and {problem}.",
        hint=f"{PLACE}.model=/path/folder, or package:NAME of a package that carries it",
        place=f"{PLACE}.model",
    )


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refused(model: str, found: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"`model` must be a folder with config.json, package:NAME or a name on the hub; `{model}` is none: found {found}.",
        hint=hint,
        place=f"{PLACE}.model",
    )


def _unreachable(address: str) -> str:
    """Why a server does not answer; empty where it does. The hub's own client would try for half a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""  # an answer, if not a friendly one
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""
