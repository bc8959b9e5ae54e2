"""Widths are found where constructors mark them, and made small enough and no smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.config.narrowing import FULL, narrow

SOURCE = """
from __future__ import annotations
from typing import Annotated, Any, Literal
from annotated_types import Ge
from m3tl_cli.core.widths import Width

class Net:
    def __init__(self, *, width: Annotated[int, Ge(2), Width()], depth: Annotated[int, Ge(1)], out: Annotated[int, Ge(1), Width()] | None,
                 hidden: list[Annotated[int, Width()]], inputs: Any): ...

class Plain:
    def __init__(self, *, size: int, kind: Literal["a"]): ...
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def config(mine: str, width: int = 48, out: int | None = None, hidden: tuple[int, ...] = ()) -> dict[str, Any]:
    net = {"_target_": f"{mine}.Net", "width": width, "depth": 3, "out": out, "hidden": list(hidden)}
    plain = {"_target_": f"{mine}.Plain", "size": 48, "kind": "a"}
    return {"encoder": {"image": dict(net), "text": plain}, "fusion": plain, "backbone": net, "heads": {"vector": plain}}


def widths(found: dict[str, Any]) -> list[Any]:
    return [found[k] for k in ("width", "depth", "out", "hidden")]


def squares(c: Any) -> int:
    """A network whose parameters are the squares of its widths."""
    return int(sum(n["width"] ** 2 + (n["out"] or 0) ** 2 + sum(h**2 for h in n["hidden"]) for n in (c["encoder"]["image"], c["backbone"])))


def test_marked_numbers_are_narrowed_and_no_others(mine: str) -> None:
    before = config(mine, 48, 32, (40, 8))
    found = narrow(before, 4, squares)
    assert found is not None
    assert found.factor == 0.5
    assert widths(found.config["backbone"]) == widths(found.config["encoder"]["image"]) == [24, 3, 16, [20, 4]]
    assert found.config["fusion"] == before["fusion"]
    assert found.size == squares(found.config) == squares(before) / 4, "by hand: (24^2 + 16^2 + 20^2 + 4^2) twice"
    assert before == config(mine, 48, 32, (40, 8)), "the config that was given stays as it is"


@pytest.mark.parametrize("members", [2, 3, 4, 5, 8])
def test_members_fit_and_a_step_more_would_not(mine: str, members: int) -> None:
    found = narrow(config(mine), members, squares)
    assert found is not None
    most = 2 * 48**2
    assert members * found.size <= most
    width = found.config["backbone"]["width"]
    fine = members * 2 * (width + 1) ** 2 > most
    assert fine or (width % 2 == 0 and members * found.size >= FULL * most), "a coarser multiple only where it uses most of the size"


def test_widths_stay_multiples_where_that_costs_little(mine: str) -> None:
    def width(members: int) -> int:
        found = narrow(config(mine), members, squares)
        assert found is not None
        return int(found.config["backbone"]["width"])

    assert width(3) == 27, "26 and 24 use 88 % and 75 % of the size"
    assert width(4) == 24
    assert width(2) == 32 + 1, "32 uses 89 %"
    odd = narrow(config(mine, 15), 4, squares)
    assert odd is not None
    assert odd.config["backbone"]["width"] == 7


def test_nothing_is_promised_where_no_width_is_marked_or_none_is_small_enough(mine: str) -> None:
    plain = {"_target_": f"{mine}.Plain", "size": 48, "kind": "a"}
    assert narrow({"encoder": {"table": plain}, "fusion": plain, "backbone": plain, "heads": {}}, 3, lambda c: 100) is None
    assert narrow(config(mine), 3, lambda c: 1000 + squares(c)) is not None
    assert narrow(config(mine), 3, lambda c: 10**6 + squares(c)) is None
    assert narrow(config(mine, 2), 3, squares) is None, "2 is the least that the constructor takes"


def test_every_width_of_the_program_is_marked() -> None:
    from m3tl_cli.config.paths import PACKAGE

    folders = ("encoder", "fusion", "backbone", "heads")
    files = [f for folder in folders for f in (PACKAGE / folder).rglob("*.py")]
    asked = [line.strip() for f in files for line in f.read_text().splitlines() if "width: Annotated[" in line or "hidden: list[" in line]
    assert len(asked) >= 10
    assert [line for line in asked if "Width()" not in line] == []
