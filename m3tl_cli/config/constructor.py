"""Read a constructor's arguments from source, without importing it.

The schema of a config node is the constructor that its `_target_` names. Importing that would load torch, which takes seconds;
parsing its file takes a millisecond.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

from annotated_types import Ge, Gt, Le, Lt

from m3tl_cli.config.paths import PACKAGE
from m3tl_cli.core.widths import Width

ROOT = PACKAGE.name
SIMPLE = {
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict, Ge, Gt, Le, Lt, Width)},
    "Any": Any,
    "Annotated": Annotated,
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
}
NO_ARGUMENTS = {"object", "ABC", "Module", "Protocol", "Generic", "Enum", "NamedTuple"}
"""Bases that add no hyper-parameter. A class over any other base that cannot be read is not checked."""


class _Filled:
    """Marks an argument that no config can hold, so the program must fill it in."""


FILLED = _Filled()


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Args:
        kind: Its annotation as a type; Any where it has none; `FILLED` where it names something that YAML cannot hold.
        required: Whether it has no default.
        annotated: Whether it has an annotation; one without may be anything.
    """

    name: str
    kind: Any
    required: bool
    annotated: bool = True


@dataclass(frozen=True)
class Constructor:
    """What a class or function takes.

    Args:
        arguments: By name, in order.
        open: Whether it takes any other keyword as well.
    """

    name: str
    arguments: dict[str, Argument]
    open: bool = False


class NoSuchTarget(Exception):
    """`_target_` names nothing.

    Args:
        expected: What must stand there.
        options: Names that exist where this one was looked for.
    """

    def __init__(self, expected: str, missing: str, options: list[str]) -> None:
        super().__init__(expected)
        self.expected = expected
        self.missing = missing
        self.options = options


def constructor(target: str) -> Constructor | None:
    """Arguments of the class or function at a dotted path.

    Returns:
        None where it cannot be read from source (a compiled module, an attribute made at run time).

    Raises:
        NoSuchTarget: If the module, or the name inside it, does not exist.
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise NoSuchTarget("a dotted path such as m3tl_cli.balancing.sum.Sum", target, [])
    file = _find(module)
    if file is None:
        return None
    source = _parse(file)
    if name in source.functions:
        return _from_function(name, source.functions[name], source, skip_first=False)
    if name in source.classes:
        return _from_class(name, source)
    if name in source.other or {"*", "__getattr__"} & (source.other | source.functions.keys()):
        return None
    raise NoSuchTarget(f"a class in {module}", name, sorted(source.classes))


@dataclass(frozen=True)
class _Source:
    file: Path
    classes: dict[str, ast.ClassDef]
    functions: dict[str, ast.FunctionDef]
    imports: dict[str, str]
    aliases: dict[str, ast.expr]
    other: frozenset[str]


@functools.cache
def _parse(file: Path) -> _Source:
    classes: dict[str, ast.ClassDef] = {}
    functions: dict[str, ast.FunctionDef] = {}
    imports: dict[str, str] = {}
    aliases: dict[str, ast.expr] = {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise NoSuchTarget(f"a Python file without syntax errors (line {error.lineno} of {file})", str(file), []) from None
    for node in _statements(tree):
        match node:
            case ast.ClassDef():
                classes[node.name] = node
            case ast.FunctionDef():
                functions[node.name] = node
            case ast.ImportFrom(module=str(module), level=0):
                imports.update({alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names})
            case ast.Import():
                imports.update({alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names})
            case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                aliases[name] = value
    return _Source(file, classes, functions, imports, aliases, frozenset(imports) | frozenset(aliases))


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):  # `if TYPE_CHECKING:`, `try: import ...`
            yield from node.body
            yield from node.orelse


def _find(module: str) -> Path | None:
    """File of a module; None where there is none to read although the package exists."""
    first, *rest = module.split(".")
    if first == ROOT:
        folders = [str(PACKAGE)]
        file: Path | None = PACKAGE / "__init__.py"
    elif first in sys.builtin_module_names:
        return None
    else:
        spec = importlib.machinery.PathFinder.find_spec(first)
        if spec is None:
            near = [p.stem for folder in sys.path if Path(folder).is_dir() for p in Path(folder).glob("*.py")] if not rest else []
            raise NoSuchTarget("a module that Python can find", first, near)
        folders = list(spec.submodule_search_locations or [])
        file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for depth, part in enumerate(rest):
        if not folders:
            return None  # an attribute of a class, such as m.Class.from_file
        spec = importlib.machinery.FileFinder.path_hook((importlib.machinery.SourceFileLoader, [".py"]))(folders[0]).find_spec(part)
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            if _defines(file, part):
                return None
            if first != ROOT and any(Path(folders[0]).glob(f"{part}.*")):
                return None  # compiled
            parent = ".".join([first, *rest[:depth]])
            raise NoSuchTarget(f"a module of {parent}", part, _modules(Path(folders[0])))
        folders = list(spec.submodule_search_locations or [])
        file = Path(spec.origin) if spec.origin else None
    return file if file is not None and file.is_file() else None


def _defines(file: Path | None, name: str) -> bool:
    if file is None or not file.is_file():
        return False
    source = _parse(file)
    return name in source.classes or name in source.functions or name in source.other


def _modules(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.iterdir() if (p.suffix == ".py" or p.is_dir()) and not p.name.startswith(("_", ".")))


def _from_class(name: str, source: _Source, seen: tuple[str, ...] = ()) -> Constructor | None:
    node = source.classes[name]
    own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if own is not None:
        return _from_function(name, own, source, skip_first=True)
    arguments: dict[str, Argument] = {}
    for base in node.bases:
        word = _last_name(base)
        if word in NO_ARGUMENTS:
            continue
        above = _from_base(word, source, (*seen, name))
        if above is None:
            return None
        arguments.update(above.arguments)
        if above.open:
            return Constructor(name, arguments, open=True)
        if above.arguments:
            break
    if any(_last_name(d.func if isinstance(d, ast.Call) else d) == "dataclass" for d in node.decorator_list):
        arguments.update(_fields(node, source))
    return Constructor(name, arguments)


def _from_base(word: str, source: _Source, seen: tuple[str, ...]) -> Constructor | None:
    if word in seen:
        return None
    if word in source.classes:
        return _from_class(word, source, seen)
    path = source.imports.get(word, "")
    module, _, name = path.rpartition(".")
    try:
        file = _find(module) if module else None
    except NoSuchTarget:
        return None
    if file is None:
        return None
    there = _parse(file)
    return _from_class(name, there, seen) if name in there.classes else None


def _fields(node: ast.ClassDef, source: _Source) -> dict[str, Argument]:
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and "ClassVar" not in ast.unparse(field.annotation):
            found[field.target.id] = Argument(field.target.id, _type(field.annotation, source), field.value is None)
    return found


def _from_function(name: str, node: ast.FunctionDef, source: _Source, *, skip_first: bool) -> Constructor:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if skip_first else 0 :]
    pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    arguments = {
        arg.arg: Argument(arg.arg, _type(arg.annotation, source), default is None, arg.annotation is not None) for arg, default in pairs
    }
    return Constructor(name, arguments, open=given.kwarg is not None)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class _Names(dict[str, Any]):
    """Names that an annotation may use: simple types, and aliases of them in the same file."""

    def __init__(self, source: _Source) -> None:
        super().__init__(SIMPLE)
        self.source = source

    def __missing__(self, name: str) -> Any:
        alias = self.source.aliases.get(name)
        if alias is not None and not _has_calls(alias):
            return _evaluate(alias, self)
        module, _, there = self.source.imports.get(name, "").rpartition(".")
        file = _find(module) if module.split(".")[0] == ROOT else None
        if file is None:
            raise KeyError(name)
        return _Names(_parse(file))[there]


def _type(node: ast.expr | None, source: _Source) -> Any:
    if node is None:
        return Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    if _has_calls(node):
        return FILLED
    try:
        kind = _evaluate(node, _Names(source))
    except Exception:  # any name that is not simple: a task, a tensor, a callable
        return FILLED
    return kind if kind is not None else type(None)


def _has_calls(node: ast.expr) -> bool:
    """Whether evaluating it would call anything but a range or a mark; a config check must run nobody's code."""
    allowed = {"Ge", "Gt", "Le", "Lt", "Width"}
    return any(isinstance(n, ast.Call) and not (isinstance(n.func, ast.Name) and n.func.id in allowed) for n in ast.walk(node))


def _evaluate(node: ast.expr, names: _Names) -> Any:
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, names)
