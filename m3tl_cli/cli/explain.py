"""Say in our own words what Hydra and OmegaConf mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from m3tl_cli.config.problem import Problem
from m3tl_cli.config.spelling import did_you_mean, nearest, nearest_key

NOT_IN_DEFAULTS = re.compile(r"Could not (?:override|append|delete)[^']*'([^']+)'")
TWICE = re.compile(r"Multiple values for ([\w/]+)")
IN_FILE = re.compile(r"In '([^']+)':\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Explained:
    """A problem, and the override that caused it where one did.

    Args:
        override: As typed; without it the rest of the config may be sound.
    """

    problem: Problem
    override: str = ""


def explain(error: BaseException, overrides: Sequence[str], groups: Sequence[str], keys: Iterable[str]) -> Explained:
    """What an exception of a composition means.

    Args:
        error: From Hydra, OmegaConf or the YAML parser; raised while a config was composed.
        overrides: What was typed.
        groups: Names of all groups.
        keys: Dotted names of everything that can be set.
    """
    import yaml
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    first = _first_line(error)
    if isinstance(error, OverrideParseException):
        hint = "a value with commas, spaces or brackets needs two pairs of quotes: 'key=\"a, b\"'"
        return Explained(Problem(error.override, "what cannot be read", "key=value, +key=value or ~key", hint), error.override)
    if isinstance(error, MissingConfigException):
        where = IN_FILE.search(first)
        blame = f" (named in {where.group(1)}.yaml)" if where and where.group(1) != "train" else ""
        return Explained(missing_option(error.missing_cfg_file or "", error.options, blame))
    for cause in _chain(error):
        if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
            mark = cause.problem_mark
            return Explained(Problem(f"{mark.name}:{mark.line + 1}", str(cause.problem), "a YAML file"))
    culprit = next((o for o in sorted(overrides, key=len, reverse=True) if o.lstrip("+") in str(error)), "")
    if "An item is already at" in str(error):
        key, _, value = culprit.lstrip("+").partition("=")
        return Explained(Problem(key, culprit, "no + before a key that exists", f"write {key}={value}"), culprit)
    twice = TWICE.search(str(error))
    if twice:
        key = twice.group(1)
        culprit = next((o for o in overrides if o.startswith(f"+{key}=")), "")
        return Explained(Problem(key, culprit or "two options", "one option", f"write {culprit[1:]}" if culprit else ""), culprit)
    named = NOT_IN_DEFAULTS.search(str(error))
    if named:
        return _no_such_key(named.group(1).split("@")[0], overrides, groups, keys)
    inner = next((c for c in _chain(error) if isinstance(c, OmegaConfBaseException)), None)
    in_file = IN_FILE.search(str(error))
    place = culprit or (in_file.group(1) if in_file else "") or str(getattr(inner, "full_key", "") or "") or "the config"
    reason = _first_line(inner) if inner is not None else in_file.group(2).strip().splitlines()[-1] if in_file else first
    return Explained(Problem(place, reason, "a config that can be composed"), culprit)


def missing_option(file: str, options: Sequence[str] | None, blame: str = "") -> Problem:
    """That a config file does not exist.

    Args:
        file: For example `balancing/pcgard`.
        options: Those of its group.
        blame: Who named it, where that is not the command line.
    """
    group, _, name = file.rpartition("/")
    known = sorted(options or [])
    if not group:
        return Problem("--config-name", name, "a root config", "leave it out to use train.yaml")
    hint = did_you_mean([f"{group}={hit}" for hit in nearest(name, known)])
    expected = f"an option of {group}: {', '.join(known)}" if known else "a group that exists"
    return Problem(group, name + blame, expected, hint or f"m3tl list {group}")


def _no_such_key(key: str, overrides: Sequence[str], groups: Sequence[str], keys: Iterable[str]) -> Explained:
    culprit = next((o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] == key), "")
    found = culprit.partition("=")[2] or culprit or "nothing"
    known = list(keys)
    near = nearest_key(key, known) if "." in key else [*nearest(key, groups), *nearest_key(key, known)]
    hint = did_you_mean(list(dict.fromkeys(near))[:3])
    parent = key.rpartition(".")[0]
    beside = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    if parent and beside:
        return Explained(Problem(key, found, f"a key of {parent}: {', '.join(beside)}", hint), culprit)
    return Explained(Problem(key, found, "a group or key that exists", hint or "m3tl list"), culprit)


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(8):  # an exception that names itself as its cause must not hang the command
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
