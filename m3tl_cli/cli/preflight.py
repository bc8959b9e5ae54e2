"""Check a request before anything is created: the composed config, and every value that a sweep would visit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.explain import explain
from m3tl_cli.cli.request import Request
from m3tl_cli.config import paths
from m3tl_cli.config.problem import Problem
from m3tl_cli.config.validate import keys, validate

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


@dataclass
class Checked:
    """What came of a request.

    Args:
        config: Composed, with the first value of everything swept; None where nothing could be composed.
        problems: Everything that is wrong; empty if the request can run.
        multirun: Whether it is a sweep, asked for by -m or by `hydra.mode`.
    """

    config: DictConfig | None = None
    problems: list[Problem] = field(default_factory=list)
    multirun: bool = False

    def add(self, problems: Sequence[Problem]) -> None:
        """Take problems that are not known yet."""
        self.problems += [p for p in problems if p not in self.problems]


def check(request: Request) -> Checked:
    """Compose and validate, and find everything that is wrong.

    Raises:
        ConfigError: If `config_dir` is not a folder.
    """
    loader = hydra_entry.search(request.config_dir)
    paths.add_own_code(*([request.config_dir] if request.config_dir else []), ".")
    checked = Checked(multirun=request.multirun or any(o.replace(" ", "") == "hydra.mode=MULTIRUN" for o in request.overrides))
    parsed = _parse(loader, request, checked)
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    swept = [o for o in parsed if o.is_sweep_override()]
    if not checked.multirun:
        checked.add([_needs_multirun(o) for o in swept])
        swept = []
    values = {_key(o): _values(o) for o in swept}
    empty = [key for key, found in values.items() if not found]
    checked.add([Problem(key, "no value", "at least one value to sweep over") for key in empty])
    first = [f"{key}={found[0]}" for key, found in values.items() if found]
    checked.config = _compose(loader, request.config_name, [*fixed, *first], checked)
    if checked.config is None:
        return checked
    checked.add(_validate(checked.config))
    if checked.multirun:
        _add_params(loader, checked, values)
        for key, found in values.items():
            for value in found[1:]:
                others = [f"{k}={v[0]}" for k, v in values.items() if k != key and v]
                _visit(loader, request.config_name, key, value, [*fixed, *others], checked)
    return checked


def _parse(loader: ConfigLoaderImpl, request: Request, checked: Checked) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for line in request.overrides:
        try:
            parsed.append(parser.parse_overrides([line])[0])
        except HydraException as error:
            checked.add([explain(error, [line], [], []).problem])
    return parsed


def _compose(loader: ConfigLoaderImpl, config_name: str, overrides: list[str], checked: Checked) -> DictConfig | None:
    """Compose; an override that cannot be is reported and left out, so that what else is wrong is found in the same go."""
    remaining = list(overrides)
    errors: list[tuple[Exception, list[str]]] = []
    cfg = None
    while cfg is None:
        try:
            cfg = hydra_entry.compose(loader, config_name, remaining)
        except Exception as error:
            found = explain(error, remaining, [], [])
            errors.append((error, list(remaining)))
            if found.override not in remaining:
                break
            remaining.remove(found.override)
    if errors:
        groups, known = _groups(loader), _known_keys(cfg)
        checked.add([explain(error, typed, groups, known).problem for error, typed in errors])
    return cfg


def _known_keys(cfg: DictConfig | None) -> list[str]:
    if cfg is None:
        return []
    with hydra_entry.hydra_node(cfg):
        return keys(hydra_entry.plain(cfg)[0])


def _groups(loader: ConfigLoaderImpl, parent: str = "") -> list[str]:
    found = []
    for name in loader.list_groups(parent):
        group = f"{parent}/{name}" if parent else name
        found += [group, *_groups(loader, group)]
    return found


def _validate(cfg: DictConfig) -> list[Problem]:
    with hydra_entry.hydra_node(cfg):
        config, broken = hydra_entry.plain(cfg)
    return [*broken, *validate(config)]


def _key(override: Override) -> str:
    return str(override.input_line).partition("=")[0]


def _values(override: Override) -> list[str]:
    """Values that a sweep visits; of an interval its two ends."""
    if override.is_interval_sweep():
        interval = override.value()
        return [str(interval.start), str(interval.end)]  # type: ignore[union-attr]
    return list(override.sweep_string_iterator())


def _needs_multirun(override: Override) -> Problem:
    key, _, value = str(override.input_line).partition("=")
    as_list = f", or a list with {key}='[{value}]'" if "(" not in value else ""
    return Problem(key, value, "one value", f"sweep over them with -m{as_list}")


def _add_params(loader: ConfigLoaderImpl, checked: Checked, values: dict[str, list[str]]) -> None:
    """Add what the config itself sweeps over, `hydra.sweeper.params`; the command line wins."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    params = OmegaConf.select(checked.config, "hydra.sweeper.params") or {}  # type: ignore[arg-type]
    parser = OverridesParser.create(config_loader=loader)
    for key, value in params.items():
        try:
            override = parser.parse_overrides([f"{key}={value}"])[0]
        except HydraException as error:
            checked.add([Problem(f"hydra.sweeper.params.{key}", str(value), str(error).splitlines()[0])])
            continue
        if key not in values:
            found = _values(override) if override.is_sweep_override() else [str(value)]
            values[str(key)] = ["", *found]  # the first is what was composed already


def _visit(loader: ConfigLoaderImpl, config_name: str, key: str, value: str, others: list[str], checked: Checked) -> None:
    """Check one more value of a sweep. A new option of a group is composed; a plain value is set in a copy, which is faster."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name = key.lstrip("+").split("@")[0]
    is_group = loader.repository.group_exists(name)
    before = len(checked.problems)
    if is_group or key.startswith("+"):
        cfg = _compose(loader, config_name, [*[o for o in others if not o.endswith("=")], f"{key}={value}"], checked)
    else:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        cfg = copy.deepcopy(checked.config)
        try:
            OmegaConf.update(cfg, name, OverridesParser.create().parse_override(f"{key}={value}").value(), merge=True)  # type: ignore[arg-type]
        except OmegaConfBaseException:  # there is no such key, as its first value has shown
            return
    if cfg is not None and len(checked.problems) == before:
        checked.add(_validate(cfg))
