from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import Contrast, Plan, corner_arms, plan_for
from m3tl_cli.core.errors import ConfigError, DataError


def plan(settings: tuple[str, ...] = tuple(SETTINGS), **more: Any) -> Plan:
    return plan_for(settings, **({"axes": {}, "seeds": range(1, 9), "block": "c", "num_shots": 5, "margin": 0.02} | more))


def test_the_confirmatory_family_has_six_contrasts() -> None:
    names = [c.name for c in plan().contrasts]
    effects = [f"main effect of {s}" for s in ("pretrain", "joint", "bilevel")]
    assert names == [*effects, "m3tl - stl", "m3tl - mtl_transfer", "m3tl - best other by validation"]


def test_main_effects_are_over_the_eight_corners_with_handover() -> None:
    weights = plan().contrasts[0].weights
    assert {arm for arm, w in weights.items() if w > 0} == {"transfer", "mtl_transfer", "meta_transfer", "m3tl"}
    assert {arm for arm, w in weights.items() if w < 0} == {"stl_handover", "mtl_handover", "meta", "mtl_meta"}
    assert {abs(w) for w in weights.values()} == {0.25}


def test_on_block_a_the_scratch_settings_stand_in_for_their_corners() -> None:
    eight = tuple(s for s in SETTINGS if s not in ("stl_handover", "mtl_handover"))
    assert corner_arms(eight, "a")[False, True, False] == "mtl"
    assert plan(eight, block="a", num_shots=None).contrasts[0].name == "main effect of pretrain"
    assert plan(eight).contrasts[0].name == "m3tl - stl"


def test_rivals_are_all_settings_but_m3tl() -> None:
    rivals = plan().contrasts[-1].rivals
    assert set(rivals) == set(SETTINGS) - {"m3tl"}
    assert rivals["meta"] == {"meta": 1.0}


def test_along_axes_the_arms_of_a_setting_are_averaged() -> None:
    found = plan(("m3tl", "stl"), axes={"fusion": ["concat", "gated"]})
    assert found.arms == ("stl, fusion=concat", "stl, fusion=gated", "m3tl, fusion=concat", "m3tl, fusion=gated")
    [contrast] = found.contrasts
    assert contrast.weights == dict(zip(found.arms, (-0.5, -0.5, 0.5, 0.5), strict=True))


def test_without_m3tl_and_cube_every_arm_is_held_against_the_reference() -> None:
    assert [c.name for c in plan(("mtl", "stl")).contrasts] == ["mtl - stl"]
    along = plan(("mtl",), axes={"balancing": ["sum", "pcgrad"]})
    assert [c.name for c in along.contrasts] == ["mtl, balancing=sum - mtl, balancing=pcgrad"]
    named = plan(("mtl",), axes={"balancing": ["sum", "pcgrad"]}, reference="mtl, balancing=sum")
    assert [c.name for c in named.contrasts] == ["mtl, balancing=pcgrad - mtl, balancing=sum"]
    levels = plan(("mtl", "stl"), axes={"fusion": ["a", "b"]})
    assert [c.name for c in levels.contrasts] == ["mtl, fusion=a - stl, fusion=a", "mtl, fusion=b - stl, fusion=b"]


def test_a_plan_survives_json() -> None:
    found = plan(axes={"fusion": ["concat", "gated"]})
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.digest == Plan.from_json(found.to_json()).digest
    assert found.digest != replace(found, margin=0.03).digest
    assert found.key == "c@5"
    assert plan(block="a", num_shots=None).key == "a"


def test_a_written_plan_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "ablation" / "plan.json"
    plan().write(path)
    before = path.stat().st_mtime_ns
    plan().write(path)
    assert Plan.read(path) == plan()
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="found other margin"):
        plan(margin=0.5).write(path)
    path.write_text("[]")
    with pytest.raises(DataError, match=r"plan\.json"):
        Plan.read(path)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"margin": 0.0}, "margin"), ({"alpha": 1.0}, "alpha"), ({"seeds": (1, 1)}, "seeds"), ({"block": "x"}, "block")],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"`{found}`"):
        replace(plan(), **change)


def test_contrasts_must_name_arms_and_add_up() -> None:
    with pytest.raises(ConfigError, match="found protonet"):
        replace(plan(), contrasts=(Contrast("x", {"protonet": 1.0, "stl": -1.0}),))
    with pytest.raises(ConfigError, match="must sum to 0"):
        replace(plan(), contrasts=(Contrast("x", {"m3tl": 1.0, "stl": -0.5}),))
    with pytest.raises(ConfigError, match="must sum to 1"):
        replace(plan(), contrasts=(Contrast("x", {"m3tl": 1.0}, {"stl": {"stl": 0.5}}),))


def test_settings_and_levels_stand_once() -> None:
    with pytest.raises(ConfigError, match="settings"):
        plan(("stl", "stl"))
    with pytest.raises(ConfigError, match=r"axes\.fusion"):
        plan(("stl",), axes={"fusion": []})
