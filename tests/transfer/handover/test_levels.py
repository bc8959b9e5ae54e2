from __future__ import annotations

from functools import partial

import torch

from m3tl_cli.core.contracts import Task
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.transfer.handover.levels import levels
from tests.transfer.networks import a_model, fresh_heads


def by_module(found: dict[str, int]) -> dict[str, set[int]]:
    modules: dict[str, set[int]] = {}
    for name, level in found.items():
        modules.setdefault(".".join(name.split(".")[:4] if name.startswith("backbone") else name.split(".")[:1]), set()).add(level)
    return modules


def test_levels_count_from_the_heads_down() -> None:
    model = a_model()
    found = levels(model.params(), fresh_heads(model, "count"))
    modules = by_module(found)
    assert modules["head"] == {0}
    assert modules["backbone.shared.stages.1"] == {1}
    assert modules["backbone.shared.stages.0"] == {2}
    assert modules["fusion"] == {3}
    rgb = {n.removeprefix("encoder.shared.rgb."): v for n, v in found.items() if ".rgb." in n and n.startswith("encoder.")}
    assert rgb == {
        "layers.6.weight": 4, "layers.7.weight": 4, "layers.7.bias": 4,
        "layers.3.weight": 5, "layers.4.weight": 5, "layers.4.bias": 5,
        "layers.0.weight": 6, "layers.1.weight": 6, "layers.1.bias": 6,
    }  # fmt: skip
    table = {n.split(".")[4]: v for n, v in found.items() if n.startswith("encoder.shared.table.")}
    assert table == {"0": 5, "2": 4, "3": 4}


def test_what_is_new_lies_at_the_top_and_the_rest_is_counted_anew() -> None:
    model = a_model()
    fresh = frozenset(n for n in model.params() if not n.startswith("encoder."))
    found = levels(model.params(), fresh)
    assert {found[n] for n in fresh} == {0}
    assert {v for n, v in found.items() if n.startswith("encoder.")} == {1, 2, 3}


def test_columns_are_counted_alike_and_a_sharing_lies_with_the_last_stage() -> None:
    model = a_model((Task("a", "regression", 1, False), Task("b", "regression", 1, False)), partial(CrossStitch, own=0.9))
    found = levels(model.params() | {"inner.rate": torch.zeros(1)}, frozenset())
    assert {v for n, v in found.items() if n.startswith("sharing.")} == {1}
    assert all(v == found[n.replace(".a.", ".b.")] for n, v in found.items() if n.startswith("backbone.a."))
    assert found["inner.rate"] == 0


def test_names_without_a_number_are_blocks_around_the_numbered_ones() -> None:
    names = ["embed.words.weight", "embed.norm.weight", "layer.0.q.weight", "layer.0.norm.weight", "layer.1.q.weight", "pool.weight"]
    params = {f"encoder.shared.text.{n}": torch.zeros(2, 2) for n in names}
    assert list(levels(params, frozenset()).values()) == [4, 4, 3, 3, 2, 1]
