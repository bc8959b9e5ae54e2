"""Check a composed config before anything is imported or created, and report everything that is wrong with it at once.

The schema is the constructor: a node's keys, types, ranges and choices are those of the arguments of the class that it names.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from m3tl_cli.config.constructor import FILLED, Argument, Constructor, NoSuchTarget, constructor
from m3tl_cli.config.problem import Problem
from m3tl_cli.config.schema import FolderName, Node, Runtime, Train
from m3tl_cli.config.spelling import did_you_mean, nearest, nearest_key

MISSING = "???"
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
SORTS: Mapping[Any, str] = {int: "number", float: "number", list: "list", tuple: "list", dict: "dict", Node: "dict"}
RELATIONS = {Ge: ("ge", ">=", float.__ge__), Gt: ("gt", ">", float.__gt__), Le: ("le", "<=", float.__le__), Lt: ("lt", "<", float.__lt__)}


def validate(config: Mapping[str, Any], root: type = Train) -> list[Problem]:
    """Everything that is wrong with a config.

    Args:
        config: Plain containers, interpolations resolved, `???` where a value is missing, without Hydra's own node.
        root: Dataclass of the top level.
    """
    problems = list(_dataclass(config, root, "", config))
    return problems + list(_tasks(config)) + list(_members(config))


def keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of everything that can be set."""
    found = []
    for key, value in config.items():
        if key not in HYDRA_KEYS:
            found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += keys(value, f"{prefix}{key}.")
    return found


def shown(value: object) -> str:
    """A value as it would stand in YAML, short enough for one line."""
    text = {True: "true", False: "false", None: "null"}.get(value) if value is None or isinstance(value, bool) else None
    text = text or (f"'{value}'" if isinstance(value, str) else str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _tasks(config: Mapping[str, Any]) -> Iterator[Problem]:
    known = config.get("task")
    for key in ("tasks", "new_tasks"):
        names = config.get(key)
        if not isinstance(names, Sequence) or isinstance(names, str) or not isinstance(known, Mapping):
            continue
        choices = f"tasks of the data: {', '.join(map(str, known))}"
        if not names and key == "tasks":
            yield Problem(key, "[]", choices, "null trains all of them")
        for place, name in enumerate(names):
            if isinstance(name, str) and name not in known:
                yield Problem(key, shown(name), choices, did_you_mean(nearest(name, known)))
            elif name in names[:place]:
                yield Problem(key, f"{shown(name)} twice", "every task once")


def _members(config: Mapping[str, Any]) -> Iterator[Problem]:
    switches, number = config.get("paradigm"), config.get("members")
    if isinstance(switches, Mapping) and isinstance(number, int) and number > 1:
        shares = [name for name in ("joint", "bilevel") if switches.get(name) is True]
        if shares:
            expected = f"1 where {' and '.join(f'paradigm.{name}' for name in shares)} is on: members are networks of one task"
            yield Problem("members", str(number), expected, "paradigm=stl, or members=1")


def _dataclass(value: Any, kind: type, place: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(place, shown(value), "a group of settings")
        return
    hints = get_type_hints(kind, include_extras=True)
    for key in value:
        if key not in hints:
            yield _unknown(str(key), value[key], place, hints, config)
    for field in dataclasses.fields(kind):
        here = _join(place, field.name)
        if field.name in value:
            yield from _value(value[field.name], hints[field.name], here, config)
        elif field.default is dataclasses.MISSING:
            yield _missing(here, hints[field.name])


def _value(value: Any, kind: Any, place: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare one value with a type."""
    base, marks = _unwrap(kind)
    if value == MISSING and isinstance(value, str):
        yield _missing(place, kind)
    elif base is Node:
        runtime = next((m.names for m in marks if isinstance(m, Runtime)), ())
        yield from _node(value, place, config, runtime)
    elif dataclasses.is_dataclass(base):
        yield from _dataclass(value, base, place, config)  # type: ignore[arg-type]
    elif base is FILLED or base is Any:
        yield from _free(value, place, config)
    elif get_origin(base) in (Union, types.UnionType):
        yield from _union(value, kind, place, config)
    elif get_origin(base) is Literal:
        if value not in get_args(base) or isinstance(value, bool) not in {isinstance(a, bool) for a in get_args(base)}:
            # Hydra reads key=32 as a number; where the choice is a string it must be quoted twice, for the shell and for Hydra.
            quoted = f"write {place}='\"{value}\"'" if not isinstance(value, str) and str(value) in get_args(base) else ""
            yield Problem(place, shown(value), described(base), quoted or did_you_mean(nearest(value, get_args(base))))
    elif (get_origin(base) or base) in (list, tuple):
        yield from _items(value, base, place, config)
    elif (get_origin(base) or base) is dict:
        if not isinstance(value, Mapping):
            yield Problem(place, shown(value), described(kind))
            return
        element = get_args(base)[1] if get_args(base) else Any
        for key, item in value.items():
            yield from _value(item, element, _join(place, str(key)), config)
    else:
        yield from _scalar(value, base, marks, place, kind)


def _scalar(value: Any, base: Any, marks: Sequence[Any], place: str, kind: Any) -> Iterator[Problem]:
    wrong = {
        bool: not isinstance(value, bool),
        int: not isinstance(value, int) or isinstance(value, bool),
        float: not isinstance(value, int | float) or isinstance(value, bool),
        str: not isinstance(value, str),
        type(None): value is not None,
    }
    if wrong.get(base, False):
        hint = f"write {place}='\"{value}\"'" if base is str and isinstance(value, int | float) else ""
        yield Problem(place, shown(value), described(kind), hint)
        return
    for mark in marks:
        if type(mark) in RELATIONS:
            name, _, holds = RELATIONS[type(mark)]
            if not holds(float(value), float(getattr(mark, name))):
                yield Problem(place, shown(value), described(kind))
                return
        elif isinstance(mark, FolderName) and not FOLDER.fullmatch(value):
            yield Problem(place, shown(value), "a name for a folder: letters, digits and _ . + - (up to 100)")


def _union(value: Any, kind: Any, place: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    members = get_args(_unwrap(kind)[0])
    outcomes = [list(_value(value, member, place, config)) for member in members]
    if all(outcomes):
        # A member of the same sort as the value says best what is wrong: out of range, or one element of a list.
        sort = {bool: "bool", int: "number", float: "number", list: "list", dict: "dict"}.get(type(value), "")
        for member, outcome in zip(members, outcomes, strict=True):
            base = _unwrap(member)[0]
            if sort and SORTS.get(get_origin(base) or base) == sort:
                yield from outcome
                return
        choices = [choice for member in members for choice in get_args(_unwrap(member)[0]) if isinstance(choice, str)]
        yield Problem(place, shown(value), described(kind), did_you_mean(nearest(value, choices)))


def _items(value: Any, base: Any, place: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    if not isinstance(value, list | tuple):
        yield Problem(place, shown(value), described(base))
        return
    elements = get_args(base)
    if get_origin(base) is tuple and elements and elements[-1] is not Ellipsis:
        if len(value) != len(elements):
            yield Problem(place, f"{shown(list(value))}, {len(value)} values", described(base))
            return
    else:
        elements = (elements[0] if elements else Any,) * len(value)
    for index, (item, element) in enumerate(zip(value, elements, strict=True)):
        yield from _value(item, element, f"{place}[{index}]", config)


def _free(value: Any, place: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Anything goes, but nodes inside are checked, and nothing may be missing."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield from _node(value, place, config)
            return
        for key, item in value.items():
            yield from _free(item, _join(place, str(key)), config)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _free(item, f"{place}[{index}]", config)
    elif value == MISSING:
        yield _missing(place, Any)


def _node(value: Any, place: str, config: Mapping[str, Any], runtime: Sequence[str] = ()) -> Iterator[Problem]:
    """Compare a node with the constructor that it names."""
    target = value.get("_target_") if isinstance(value, Mapping) else None
    if not isinstance(target, str) or target == MISSING:
        group = place.replace(".", "/")
        yield Problem(place, shown(value), "an option of this group", f"m3tl list {group}")
        return
    try:
        found = constructor(target)
    except NoSuchTarget as error:
        near = did_you_mean(nearest(error.missing, error.options))
        yield Problem(f"{place}._target_", shown(target), error.expected, near)
        return
    if found is None:
        for key in value:
            if key not in HYDRA_KEYS:
                yield from _free(value[key], _join(place, str(key)), config)
        return
    yield from _arguments(value, found, place, config, runtime)


def _arguments(
    value: Mapping[str, Any], found: Constructor, place: str, config: Mapping[str, Any], runtime: Sequence[str]
) -> Iterator[Problem]:
    settable = {name: a for name, a in found.arguments.items() if name not in runtime and a.kind is not FILLED}
    for key, item in value.items():
        here = _join(place, str(key))
        argument = found.arguments.get(str(key))
        if key in HYDRA_KEYS:
            continue
        if argument is None:
            if not found.open:
                yield _unknown(str(key), item, place, settable, config)
        elif key in settable:
            yield from _value(item, argument.kind, here, config)
        elif isinstance(item, Mapping) and "_target_" in item and key not in runtime:
            yield from _node(item, here, config)
        else:
            yield Problem(here, shown(item), "nothing: the program fills this in", f"take {here} out")
    for name, argument in settable.items():
        if name not in value and argument.required and argument.annotated:
            yield _missing(_join(place, name), argument.kind)


def _unknown(key: str, value: Any, place: str, known: Mapping[str, Argument | Any], config: Mapping[str, Any]) -> Problem:
    here = _join(place, key)
    others = [k for k in keys(config) if k != here]
    near = [_join(place, name) for name in nearest(key, known)] or nearest_key(here, others)
    names = ", ".join(known) or "none"
    return Problem(here, shown(value), f"a key of {place}: {names}" if place else f"one of the top-level keys: {names}", did_you_mean(near))


def _missing(place: str, kind: Any) -> Problem:
    base = _unwrap(kind)[0]
    if base is Node or (get_origin(base) is dict and get_args(base)[1] is Node):
        return Problem(place, "nothing", "an option of this group", f"m3tl list {place.replace('.', '/')}")
    return Problem(place, "nothing", described(kind), f"give {place}=...")


def _unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(kind) is Annotated:
        base, *marks = get_args(kind)
        return base, tuple(marks)
    return kind, ()


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def described(kind: Any) -> str:
    """A type in words: `an integer >= 0`, `auto, cpu or cuda`, `a list of strings`, `a number or null`."""
    base, marks = _unwrap(kind)
    origin, arguments = get_origin(base), get_args(base)
    bounds = [(RELATIONS[type(m)][1], getattr(m, RELATIONS[type(m)][0])) for m in marks if type(m) in RELATIONS]
    bound = f" {' and '.join(f'{sign} {limit:g}' for sign, limit in bounds)}" if bounds else ""
    if origin is Literal:
        return _or([str(a) if not isinstance(a, bool) and a is not None else shown(a) for a in arguments])
    if origin in (Union, types.UnionType):
        return _or([described(a) for a in arguments])
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(described(a) for a in arguments)}"
    if (origin or base) in (list, tuple):
        return f"a list of {_plural(described(arguments[0]))}" if arguments else "a list"
    if (origin or base) is dict:
        return f"a mapping whose values are each {described(arguments[1])}" if arguments else "a mapping"
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a string",
        type(None): "null",
        Node: "an option of this group",
    }
    return words.get(base, "a value") + bound


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _plural(words: str) -> str:
    head, _, rest = words.removeprefix("an ").removeprefix("a ").partition(" ")
    return f"{head}s {rest}".strip() if words.startswith(("a ", "an ")) else words
