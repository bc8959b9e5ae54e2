"""Hydra's config loader, which composes the same config in less time.

Composing the root took 172 ms of CPU, 105 ms this way (37 files). Two things go:

* 48 ms: for every file Hydra turns all choices so far into a config, in case the file's defaults list has a `${...}`. One has.
* 21 ms: PyYAML's parser in Python. The one in C has the same author's grammar; OmegaConf's own rules for scalars and keys stay.

What is replaced inside Hydra and OmegaConf is replaced while a config is composed and no longer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import yaml
from hydra._internal import defaults_list, hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, _utils

# Kept from the import on, so that compositions in several threads cannot put back one another's.
INTERPOLATION_MAP = defaults_list._create_interpolation_map
YAML_LOADER = _utils.get_yaml_loader


class Loader(ConfigLoaderImpl):
    """Hydra's loader in less time. Differs from it in nothing that comes out, errors included."""

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """As Hydra's own."""
        try:
            with _in_less_time():
                return super().load_configuration(*args, **kwargs)
        except yaml.YAMLError:
            return super().load_configuration(*args, **kwargs)  # PyYAML's own parser says what is wrong with the file, and where


@contextmanager
def first() -> Iterator[None]:
    """Let the next Hydra application, which `hydra.main` makes, use `Loader`. What its job composes is Hydra's own affair."""

    def make(*args: Any, **kwargs: Any) -> Loader:
        hydra.ConfigLoaderImpl = ConfigLoaderImpl  # type: ignore[attr-defined]
        return Loader(*args, **kwargs)

    hydra.ConfigLoaderImpl = make  # type: ignore[attr-defined, assignment]
    try:
        yield
    finally:
        hydra.ConfigLoaderImpl = ConfigLoaderImpl  # type: ignore[attr-defined]


@functools.cache
def yaml_loader() -> Any:
    """OmegaConf's YAML loader over libyaml; its own where PyYAML was built without."""
    if not yaml.__with_libyaml__:
        return YAML_LOADER()
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class Quick(CParser, YAML_LOADER()):  # type: ignore[misc]
        """Parser and composer of the first, resolvers, constructors and the check of keys of the second."""

        def __init__(self, stream: str | IO[str]) -> None:
            text = stream if isinstance(stream, str) else stream.read()
            if "\t" in text:  # libyaml reads tabs in places where PyYAML does not
                raise yaml.YAMLError("found a tab, which PyYAML's own parser must judge")
            CParser.__init__(self, text)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Quick


@contextmanager
def _in_less_time() -> Iterator[None]:
    defaults_list._create_interpolation_map = _interpolation_map  # type: ignore[assignment]
    _utils.get_yaml_loader = yaml_loader
    try:
        yield
    finally:
        defaults_list._create_interpolation_map = INTERPOLATION_MAP
        _utils.get_yaml_loader = YAML_LOADER


def _interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
    """Hydra's own where one of `defaults` is an interpolation; nothing reads it elsewhere."""
    return INTERPOLATION_MAP(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else DictConfig({})
