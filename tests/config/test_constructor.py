"""Arguments read from source agree with those that Python sees."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Lt

from m3tl_cli.config.constructor import FILLED, NoSuchTarget, constructor
from m3tl_cli.core.widths import Width

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from annotated_types import Ge, Gt, Lt
import torch
from torch import nn
from m3tl_cli.data.base import Block

Kind = Literal["a", "b"]

class Part(nn.Module):
    def __init__(self, *, lr: Annotated[float, Gt(0), Lt(1)], kind: Kind, num: int | None = None, at: Block, size: "tuple[int, int]",
                 weight: torch.Tensor, task: Task, factory: list[Task], bare, names: list[str] = ()): ...

class Child(Part):
    pass

class Bare(nn.Module):
    pass

class Foreign(torch.optim.SGD):
    pass

class Open:
    def __init__(self, *, a: int, **more: int): ...

@dataclass(frozen=True)
class Data:
    count: ClassVar[int] = 0
    a: Annotated[int, Ge(0)]
    b: float = 1.0

def make(a: int, b: str = "x"): ...

alias = make
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"parts_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def kinds(target: str) -> dict[str, Any]:
    found = constructor(target)
    assert found is not None
    return {name: a.kind for name, a in found.arguments.items()}


def test_simple_annotations_become_types_and_all_others_are_filled_by_the_program(mine: str) -> None:
    found = kinds(f"{mine}.Part")
    assert found["lr"] == Annotated[float, Gt(0), Lt(1)]
    assert found["kind"] == Literal["a", "b"]
    assert found["num"] == int | None
    assert found["size"] == tuple[int, int]
    assert found["names"] == list[str]
    assert found["bare"] is Any
    assert found["weight"] is found["task"] is found["factory"] is FILLED


def test_an_alias_imported_from_the_program_is_followed(mine: str) -> None:
    assert kinds(f"{mine}.Part")["at"] == Literal["pretrain", "source", "validation", "target"]


def test_only_an_argument_without_default_is_required(mine: str) -> None:
    found = constructor(f"{mine}.Part")
    assert found is not None
    assert [n for n, a in found.arguments.items() if not a.required] == ["num", "names"]
    assert not found.arguments["bare"].annotated


def test_a_class_without_constructor_takes_what_its_base_takes(mine: str) -> None:
    assert kinds(f"{mine}.Child") == kinds(f"{mine}.Part")
    assert kinds(f"{mine}.Bare") == {}


def test_a_class_over_an_unreadable_base_is_not_checked(mine: str) -> None:
    assert constructor(f"{mine}.Foreign") is None


def test_fields_of_a_dataclass_are_arguments(mine: str) -> None:
    assert kinds(f"{mine}.Data") == {"a": Annotated[int, Ge(0)], "b": float}


def test_functions_and_open_keywords_are_read(mine: str) -> None:
    assert kinds(f"{mine}.make") == {"a": int, "b": str}
    found = constructor(f"{mine}.Open")
    assert found is not None
    assert found.open


def test_a_name_that_is_only_known_at_run_time_is_not_checked(mine: str) -> None:
    assert constructor(f"{mine}.alias") is None
    assert constructor(f"{mine}.Part.from_file") is None


def test_what_python_ships_compiled_is_not_checked() -> None:
    assert constructor("math.sqrt") is None
    assert constructor("time.sleep") is None
    assert constructor("torch.nn.Linear") is None


@pytest.mark.parametrize(
    ("target", "missing"),
    [("m3tl_cli.balancing.bse.Sum", "bse"), ("m3tl_cli.balancing.base.Balncer", "Balncer"), ("nosuchpackage.X", "nosuchpackage")],
)
def test_a_target_that_does_not_exist_is_refused_with_what_does(target: str, missing: str) -> None:
    with pytest.raises(NoSuchTarget) as caught:
        constructor(target)
    assert caught.value.missing == missing


def test_a_target_without_a_module_is_refused() -> None:
    with pytest.raises(NoSuchTarget, match="dotted path"):
        constructor("Sum")


def test_a_file_that_python_cannot_read_is_refused_with_its_line(mine: str, tmp_path: Path) -> None:
    (tmp_path / "broken_part.py").write_text("class A:\n  def (")
    with pytest.raises(NoSuchTarget, match="line 2"):
        constructor("broken_part.A")


def test_reading_agrees_with_python_for_every_balancer() -> None:
    import importlib

    folder = Path(__file__).resolve().parents[2] / "m3tl_cli" / "balancing"
    files = [f for f in folder.glob("*.py") if f.stem not in ("__init__", "base")]
    seen = 0
    for file in files:
        module = importlib.import_module(f"m3tl_cli.balancing.{file.stem}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and name.lower() == file.stem.replace("_", ""):
                found = constructor(f"{module.__name__}.{name}")
                assert found is not None
                expected = [n for n in inspect.signature(kind).parameters if n not in ("args", "kwargs")]
                assert list(found.arguments) == expected, name
                seen += 1
    assert seen >= 5


def test_reading_a_part_imports_neither_it_nor_torch() -> None:
    code = (
        "import sys; from m3tl_cli.config.constructor import constructor; constructor('m3tl_cli.balancing.sum.Sum');"
        "print(sorted(m for m in ('torch', 'hydra', 'm3tl_cli.balancing.sum') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mark_of_width_is_read_without_importing_the_network() -> None:
    found = kinds("m3tl_cli.backbone.resnet.ResNet")
    assert found["width"] == Annotated[int, Ge(2), Width()]
    assert kinds("m3tl_cli.heads.vector.linear.Linear")["hidden"] == list[Annotated[int, Width()]]
