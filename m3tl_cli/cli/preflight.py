"""Check a request before anything is created: the composed config, and every value that a sweep would visit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.explain import explain, missing_option
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

    def add(self, *problems: Problem) -> None:
        """Take problems that are not known yet."""
        self.problems += [p for p in problems if p not in self.problems]


def check(request: Request) -> Checked:
    """Compose and validate, and find everything that is wrong.

    A sweep is checked with each of its values once, in combination with the first of the others.

    Raises:
        ConfigError: If `config_dir` is not a folder.
    """
    loader = hydra_entry.search(request.config_dir)
    paths.add_own_code(*([request.config_dir] if request.config_dir else []), ".")
    checked = Checked(multirun=request.multirun or any(o.replace(" ", "") == "hydra.mode=MULTIRUN" for o in request.overrides))
    parsed = _parse(loader, request.overrides, checked)
    fixed = [o for o in parsed if not o.is_sweep_override()]
    swept = [o for o in parsed if o.is_sweep_override()]
    if not checked.multirun:
        checked.add(*(_needs_multirun(o) for o in swept))
        swept = []
    values = {_key(o): _values(loader, o, checked) for o in swept}
    first = [found[0] for found in values.values() if found]
    checked.config = _compose(loader, request.config_name, [*fixed, *first], checked)
    if checked.config is None:
        return checked
    # Setting `device.x` has left its mark on `device`, which is not a second mistake.
    marked = [p.place for p in checked.problems]
    checked.add(*(p for p in _validate(checked.config) if not any(place.startswith(f"{p.place}.") for place in marked)))
    if checked.multirun:
        for key, found in _params(loader, checked).items():
            values.setdefault(key, [found[0], *found])  # its first value is not composed yet
        for key, found in values.items():
            others = [*fixed, *(v[0] for k, v in values.items() if k != key and v)]
            for value in found[1:]:
                _visit(loader, request.config_name, value, others, checked)
    return checked


def _parse(loader: ConfigLoaderImpl, lines: Sequence[str], checked: Checked) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for line in lines:
        try:
            parsed += parser.parse_overrides([line])
        except HydraException as error:
            checked.add(explain(error, [line], [], []).problem)
    return parsed


def _compose(loader: ConfigLoaderImpl, config_name: str, overrides: list[Override], checked: Checked) -> DictConfig | None:
    """Compose. An override that cannot be is reported and left out, so that what else is wrong is found in the same go.

    As Hydra does, options of groups are chosen first and values are set last. Here values are set one by one, so that a wrong
    one does not cost another composition.
    """
    values = [o for o in overrides if not o.is_hydra_override() and not _is_choice(loader, o)]
    chosen = [str(o.input_line) for o in overrides if o not in values and _exists(loader, o, checked)]
    cfg = None
    errors: list[tuple[Exception, list[str]]] = []
    while cfg is None:
        try:
            cfg = hydra_entry.compose(loader, config_name, chosen)
        except Exception as error:
            errors.append((error, list(chosen)))
            culprit = explain(error, chosen, [], []).override
            if culprit not in chosen:
                break
            chosen.remove(culprit)
    for override in values:
        try:
            if cfg is not None:
                hydra_entry.override(cfg, override)
        except Exception as error:
            errors.append((error, [str(override.input_line)]))
    if errors:
        groups, known = _groups(loader), _known_keys(cfg)
        checked.add(*(explain(error, typed, groups, known).problem for error, typed in errors))
    return cfg


def _is_choice(loader: ConfigLoaderImpl, override: Override) -> bool:
    """Whether it chooses an option of a group, as Hydra decides it."""
    return bool(loader.repository.group_exists(override.key_or_group)) and not isinstance(override.value(), dict)


def _exists(loader: ConfigLoaderImpl, override: Override, checked: Checked) -> bool:
    """Whether the chosen option is there; a problem is noted where it is not. Looking is cheaper than a failed composition."""
    group, value = override.key_or_group, override.value()
    if override.is_delete() or isinstance(value, list | dict) or not loader.repository.group_exists(group):
        return True
    name = str(override.input_line).partition("=")[2]
    if isinstance(value, str) and loader.repository.config_exists(f"{group}/{value}"):
        return True
    checked.add(missing_option(f"{group}/{value if isinstance(value, str) else name}", loader.repository.get_group_options(group)))
    return False


def _known_keys(cfg: DictConfig | None) -> list[str]:
    if cfg is None:
        return []
    with hydra_entry.hydra_node(cfg):
        return keys(hydra_entry.plain(cfg)[0])


def _groups(loader: ConfigLoaderImpl, parent: str = "") -> list[str]:
    from hydra.core.object_type import ObjectType

    found = []
    for name in loader.repository.get_group_options(parent, ObjectType.GROUP):
        group = f"{parent}/{name}" if parent else name
        found += [group, *_groups(loader, group)]
    return found


def _validate(cfg: DictConfig) -> list[Problem]:
    with hydra_entry.hydra_node(cfg):
        config, broken = hydra_entry.plain(cfg)
    unread = {problem.place.split(".")[0] for problem in broken}
    return [*broken, *(p for p in validate(config) if p.place.split(".")[0] not in unread)]


def _key(override: Override) -> str:
    return str(override.input_line).partition("=")[0]


def _values(loader: ConfigLoaderImpl, override: Override, checked: Checked) -> list[Override]:
    """What a sweep visits, an override each; of an interval its two ends."""
    key = _key(override)
    if override.is_interval_sweep():
        interval = override.value()
        words = [str(interval.start), str(interval.end)]  # type: ignore[union-attr]
    else:
        words = list(override.sweep_string_iterator())
    if not words:
        checked.add(Problem(key, str(override.input_line).partition("=")[2], "at least one value to sweep over"))
    return _parse(loader, [f"{key}={word}" for word in words], checked)


def _needs_multirun(override: Override) -> Problem:
    key, _, value = str(override.input_line).partition("=")
    as_list = f", or give a list: {key}='[{value}]'" if "(" not in value else ""
    return Problem(key, value, "one value", f"sweep over them with -m{as_list}")


def _params(loader: ConfigLoaderImpl, checked: Checked) -> dict[str, list[Override]]:
    """What the config itself sweeps over, `hydra.sweeper.params`."""
    from omegaconf import OmegaConf

    params = OmegaConf.select(checked.config, "hydra.sweeper.params") or {}  # type: ignore[arg-type]
    parsed = _parse(loader, [f"{key}={value}" for key, value in params.items()], checked)
    found = {_key(o): _values(loader, o, checked) if o.is_sweep_override() else [o] for o in parsed}
    return {key: values for key, values in found.items() if values}


def _visit(loader: ConfigLoaderImpl, config_name: str, value: Override, others: list[Override], checked: Checked) -> None:
    """Check one more value of a sweep. A new option of a group is composed; a plain value is set in a copy, which is faster."""
    before = len(checked.problems)
    if _is_choice(loader, value) or value.is_hydra_override():
        cfg = _compose(loader, config_name, [*others, value], checked)
    else:
        cfg = copy.deepcopy(checked.config)
        assert cfg is not None
        try:
            hydra_entry.override(cfg, value)
        except Exception as error:
            named = {p.place for p in checked.problems}
            problem = explain(error, [str(value.input_line)], _groups(loader), _known_keys(cfg)).problem
            checked.add(*([problem] if problem.place not in named else []))
            return
    if cfg is not None and len(checked.problems) == before:
        checked.add(*_validate(cfg))
