"""The only door to Hydra: compose a config, and hand a request to `hydra.main`."""

from __future__ import annotations

import atexit
import functools
import gc
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3tl_cli.config import paths
from m3tl_cli.config.problem import Problem

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

VERSION_BASE = "1.3"


def digest(overrides: Sequence[str]) -> str:
    """10 hexadecimal digits that depend on the overrides and not on their order."""
    return hashlib.sha1("\n".join(sorted(map(str, overrides))).encode()).hexdigest()[:10]


@functools.cache
def ready() -> None:
    """Register what every composition needs. Hydra carries resolvers to the workers of its launchers."""
    from hydra import version
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf

    version.setbase(VERSION_BASE)
    setup_globals()
    atexit.register(leave)
    OmegaConf.register_new_resolver("m3tl_job", digest, replace=True)
    OmegaConf.register_new_resolver(
        "m3tl_run", lambda when, paradigm, seed, typed: f"{when}-{paradigm}-s{seed}-{digest(typed)}", replace=True
    )


def leave() -> None:
    """Where nothing was trained, spare the interpreter its search for garbage in cycles before it ends: 65 ms of a config error's 540."""
    if "torch" not in sys.modules:
        gc.freeze()


def search(config_dir: str = "") -> ConfigLoaderImpl:
    """Hydra's loader over the program's configs and the user's own, in the order that `hydra.main` uses.

    Raises:
        ConfigError: If `config_dir` is not a folder.
    """
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    from m3tl_cli.cli.loader import Loader

    ready()
    path = create_config_search_path(str(paths.conf_dir()))
    if config_dir:
        path.prepend(provider="command-line", path=f"file://{paths.own_dir(config_dir)}", anchor=SearchPathQuery(provider="schema"))
    return Loader(config_search_path=path)


def compose(loader: ConfigLoaderImpl, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """One composed config, Hydra's own node included.

    Raises:
        Exception: What Hydra, OmegaConf and the YAML parser raise; `explain` says what it means.
    """
    from hydra.types import RunMode

    return loader.load_configuration(config_name=config_name, overrides=list(overrides), run_mode=RunMode.RUN)


def override(cfg: DictConfig, value: Override) -> None:
    """Set one value in a composed config, as Hydra's own composition does last.

    Raises:
        Exception: What Hydra and OmegaConf raise where there is no such key; `explain` says what it means.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import read_write

    ConfigLoaderImpl._apply_overrides_to_config([value], cfg)
    with read_write(cfg.hydra):
        cfg.hydra.overrides.task.append(value.input_line)


@contextmanager
def hydra_node(cfg: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` inside the config be resolved."""
    from hydra.core.hydra_config import HydraConfig

    instance = HydraConfig.instance()
    before, instance.cfg = instance.cfg, None
    instance.set_config(cfg)
    try:
        yield
    finally:
        instance.cfg = before


def plain(cfg: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The config as plain containers without Hydra's node, and the interpolations that lead nowhere."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: dict[str, Any] = {}
    problems = []
    for key in cfg:
        if key == "hydra":
            continue
        try:
            if OmegaConf.is_missing(cfg, key):
                found[str(key)] = "???"
                continue
            value = cfg[key]
            found[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            place = str(getattr(error, "full_key", "") or key)
            problems.append(Problem(place, (str(error).splitlines() or ["?"])[0], "an interpolation that leads to a value"))
    return found, problems


def selected(cfg: DictConfig, key: str) -> str:
    """A resolved value inside Hydra's node, such as `hydra.run.dir`."""
    from omegaconf import OmegaConf

    with hydra_node(cfg):
        return str(OmegaConf.select(cfg, key))


def quoted(text: str) -> str:
    """A string as the value of an override."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def main(task: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
    """Call `hydra.main` with an argument list, so that everything that Hydra can do, it does.

    Raises:
        SystemExit: Where Hydra, or a signal, ends the program.
        Exception: What a composition or a job raises, instead of Hydra's own printing.
    """
    import hydra

    from m3tl_cli.cli import loader

    ready()
    entry = hydra.main(config_path=str(paths.conf_dir()), config_name="train", version_base=VERSION_BASE)(task)
    old_argv, old_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [old_argv[0], *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach the caller
    try:
        with loader.first():
            entry()
    finally:
        sys.argv = old_argv
        if old_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = old_error


def files(cfg: DictConfig) -> list[tuple[str, Path]]:
    """Name and path of the configs that were composed: the root, the chosen options, and last those that write anywhere."""
    sources = [Path(s.path) for s in cfg.hydra.runtime.config_sources if s.schema == "file"]
    names = [cfg.hydra.job.config_name, *(f"{group}/{option}" for group, option in cfg.hydra.runtime.choices.items() if option)]
    found = [(f"{n}.yaml", root / f"{n}.yaml") for n in names for root in sources if (root / f"{n}.yaml").is_file()]
    return sorted(found, key=lambda pair: "@package _global_" in pair[1].read_text(encoding="utf-8"))
