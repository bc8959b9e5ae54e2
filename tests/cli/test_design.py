from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from m3tl_cli.cli.design import FILE, Ablate, Arm, Design, Record, designed, folder_name, options, outcome_shots, unmeasured
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import BASELINES

pytestmark = pytest.mark.usefixtures("tree")


def made(*words: str) -> Design:
    found = designed(words)
    assert found.design is not None, found.checked.problems
    return found.design


def told(*words: str) -> list[tuple[str, str]]:
    found = designed(words)
    assert found.design is None
    return [(p.place, p.hint) for p in found.checked.problems]


def test_without_words_every_setting_meets_eight_seeds() -> None:
    design = made("block=a")
    assert design.settings == ("stl", "mtl")  # all that the small tree has, in the order of the tables
    assert design.seeds == tuple(range(1, 9))
    assert len(design.cells({})) == 16
    assert design.name == "ablation"


def test_cells_stand_seed_by_seed_so_that_an_interrupted_ablation_is_paired() -> None:
    cells = made("block=a", "seeds=[4,2]", "settings=mtl,stl", "axes.trainer.clip=[1,5]").cells({})
    assert [(c.seed, c.arm.label) for c in cells] == [
        (seed, f"{setting}, trainer.clip={clip}") for seed in (4, 2) for setting in ("stl", "mtl") for clip in (1, 5)
    ]
    assert cells[0].overrides == ("name=ablation", "reuse=true", "paradigm=stl", "trainer.clip=1", "seed=4")
    assert cells[0].name.startswith("stl-s4-1-")
    assert len({c.name for c in cells}) == len(cells)


def test_an_axis_may_be_a_group_a_key_or_a_list_of_lists() -> None:
    design = made("block=a", "axes.balancing=sum,pcgrad", "axes.tasks=[[depth],[depth,segmentation]]", "seeds=1")
    assert design.levels == {"balancing": ["pcgrad", "sum"], "tasks": ["[depth,segmentation]", "[depth]"]}  # in the order of the tables
    assert set(design.plan().arms) == {arm.label for arm in design.arms}


def test_words_to_hydra_and_words_to_the_ablation_do_not_reach_the_runs() -> None:
    design = made("block=a", "margin=0.1", "trainer.clip=2", "name=mine", "hydra/launcher=basic", "seeds=1")
    assert design.common == ("reuse=true", "trainer.clip=2", "name=mine")
    assert made("block=a", "reuse=false").common == ("name=ablation", "reuse=false"), "said by the user, it stays"
    assert design.hydra == ("hydra/launcher=basic",)
    assert design.name == "mine"
    assert design.plan().margin == 0.1


def test_a_length_of_its_own_replaces_the_configured_one_and_an_equal_one_is_the_same_run() -> None:
    design = made("block=a", "match=both", "trainer.updates=10", "seeds=1")
    cells = design.cells({"mtl": 20})
    assert [(c.arm.label, c.budget) for c in cells] == [("stl", "equal_updates"), ("mtl", "equal_updates"), ("mtl", "equal_flops")]
    assert [o for o in cells[2].overrides if o.startswith("trainer.updates")] == ["trainer.updates=20"]
    assert design.plan().budget == "equal_flops"


@pytest.mark.parametrize(
    ("words", "place", "hint"),
    [
        (["seed=3"], "seed", "seeds=[3]"),
        (["paradigm=mtl"], "paradigm", "settings=[mtl]"),
        (["trainer.clip=1,5"], "trainer.clip", "axes.trainer.clip='[1,5]'"),
        (["match=equal_flop"], "match", "did you mean equal_flops?"),
        (["settings=[stl,mlt]"], "paradigm", "did you mean paradigm=mtl?"),
        (["axes.nope=[1,2]"], "nope", ""),
        (["axes.seed=[1,2]"], "axes.seed", "seeds=[...]"),
        (["margin=0"], "margin", ""),
        (["seeds=[1,1]"], "seeds", ""),
        (["seeds=0"], "seeds", ""),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir", "leave it out, or use m3tl train -m hydra.sweep.dir=x"),
        (["match=both", "axes.trainer.updates=[1,2]"], "axes.trainer.updates", "match=equal_updates"),
        (["match=both", "settings=[mtl]"], "reference", "reference=mtl"),
        (["axes.trainer.clip=[1,nope]"], "trainer.clip", ""),
    ],
)
def test_words_that_cannot_be_are_told_with_what_to_type(words: Sequence[str], place: str, hint: str) -> None:
    found = told("block=a", *words)
    assert place in [p for p, _ in found]
    assert not hint or hint in [h for _, h in found]


def test_the_outcome_is_one_that_the_config_measures() -> None:
    assert told() == [("block", "block=a")]  # the small tree has no target
    config = {"target": {"num_shots": [1, 5, 10, 20]}}
    ablate = Ablate(None, 8, {}, "equal_updates", 20, "c", None, 0.02, 0.05, "stl", "perfect")
    assert outcome_shots(ablate, config) == (10, [])
    assert outcome_shots(replace(ablate, num_shots=5), config) == (5, [])
    assert outcome_shots(replace(ablate, num_shots=5, block="a"), config) == (None, [])
    _, (problem,) = outcome_shots(replace(ablate, num_shots=3), config)
    assert problem.hint == "num_shots=1, or target.num_shots='[3]'"


def test_the_1_of_the_gain_is_perfect_or_a_baseline_that_the_config_measures() -> None:
    assert made("block=a").plan().gain_reference == "perfect"
    assert ("gain_reference", "gain_reference=perfect") in told("block=a", "gain_reference=ridge")
    config = {"target": {"num_shots": [5], "baselines": ["ridge", "random"]}}

    def hints(name: str, config: dict[str, Any], block: Literal["a", "c"] = "c") -> list[str]:
        return [p.hint for p in unmeasured(Ablate(None, 8, {}, "equal_updates", 20, block, None, 0.02, 0.05, "stl", name), config)]

    assert hints("perfect", config) == hints("ridge", config) == hints("perfect", {}) == []
    assert hints("rigde", config) == ["gain_reference=ridge"]
    assert hints("scratch", config) == ["target.baselines='[ridge,random,scratch]'"]
    assert hints("nothing like it", config) == ["gain_reference=perfect"]
    assert hints("ridge", config, "a") == ["gain_reference=perfect"]
    assert hints("ridge", {}) == ["target.baselines='[ridge]'"]


def test_the_plan_names_the_1_of_the_gain_as_results_do() -> None:
    design = made("block=a")
    for option, name in BASELINES.items():
        assert replace(design, options=replace(design.options, gain_reference=option)).plan().gain_reference == name


def test_every_key_of_the_file_can_be_set() -> None:
    found, problems = options(
        ["settings=stl", "seeds=1,2", "axes.a=b,c", "pilot=3", "num_shots=5", "alpha=0.1", "reference=mtl", "gain_reference=ridge"]
    )
    assert problems == []
    assert (found["settings"], found["seeds"], found["axes"], found["pilot"]) == (["stl"], [1, 2], {"a": ["b", "c"]}, 3)
    assert found["gain_reference"] == "ridge"
    assert options(["seeds=[1"])[1][0].place == "seeds"
    assert options(["axes.a=[1"])[1][0].place == "axes.a"


def test_a_folder_is_named_after_setting_seed_and_levels_with_safe_characters() -> None:
    name = folder_name(Arm("mtl", {"tasks": "[depth,edges]", "lr": "0.001"}), 3, ["x=1"])
    assert name.rpartition("-")[0] == "mtl-s3-depth_edges-0.001"
    assert name != folder_name(Arm("mtl", {"tasks": "[depth,edges]", "lr": "0.001"}), 3, ["x=2"])


def test_where_the_reference_takes_no_part_the_first_arm_stands_in_for_it() -> None:
    assert made("block=a", "settings=mtl", "axes.arm_seed=[1,2]").plan().reference == "mtl, arm_seed=1"
    assert made("block=a").plan().reference == "stl"


class TestBaselines:
    def test_they_stand_after_the_settings_and_choose_their_own_groups(self) -> None:
        design = made("block=a", "seeds=1", "settings=stl,mtl", "baselines=[whole]", "balancing=pcgrad", "trainer.clip=2")
        whole = design.arms[-1]
        assert whole.taken(["balancing=pcgrad", "+balancing.rate=1", "balancings=1"]) == ("balancings=1",)
        assert [arm.label for arm in design.arms] == ["stl", "mtl", "whole"]
        assert (design.settings, design.baselines) == (("stl", "mtl"), ("whole",))
        assert design.cells({})[-1].overrides == (
            "name=ablation",
            "reuse=true",
            "baselines=[whole]",
            "trainer.clip=2",
            "baseline=whole",
            "seed=1",
        )  # its balancing is its own
        assert design.cells({})[0].overrides == (
            "name=ablation",
            "reuse=true",
            "baselines=[whole]",
            "balancing=pcgrad",
            "trainer.clip=2",
            "paradigm=stl",
            "seed=1",
        )
        plan = design.plan()
        assert plan.arms == ("stl", "mtl", "whole")
        assert [c.name for c in plan.contrasts] == ["mtl - stl"]

    def test_they_meet_every_level_of_an_axis(self) -> None:
        design = made("block=a", "seeds=1", "settings=stl", "baselines=[whole]", "axes.trainer.clip=[1,5]")
        assert [arm.label for arm in design.arms] == [f"{s}, trainer.clip={c}" for s in ("stl", "whole") for c in (1, 5)]

    def test_what_cannot_be_is_told(self) -> None:
        assert told("block=a", "baselines=[whle]") == [("baseline", "did you mean baseline=whole?")]
        assert told("block=a", "baselines=[whole]", "axes.balancing=[sum,pcgrad]") == [("baselines", "baselines=[]")]
        assert told("block=a", "baseline=whole") == [("baseline", "baselines=[whole]")]


class TestRecord:
    def record(self) -> Record:
        design = made("block=a", "seeds=2", "axes.balancing=[sum,pcgrad]", "hydra/launcher=basic")
        return Record(
            command=("m3tl", "ablate"),
            words=design.words,
            hydra=design.hydra,
            config_dir="",
            config_name="train",
            name="ablation",
            budgets=("equal_updates",),
            axes=("balancing",),
            plan=design.plan().digest,
            cells=design.cells({}),
        )

    def test_it_comes_back_from_its_file(self, tmp_path: Path) -> None:
        self.record().write(tmp_path)
        assert Record.read(tmp_path) == self.record()

    def test_a_folder_without_one_or_with_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no ablation\.json"):
            Record.read(tmp_path)
        (tmp_path / FILE).write_text(json.dumps({"cells": [{}]}))
        with pytest.raises(ConfigError, match="as `m3tl ablate` wrote it"):
            Record.read(tmp_path)

    def test_only_words_to_hydra_may_change(self) -> None:
        record = self.record()
        assert record.entered_again([]) == record
        assert record.entered_again([*reversed(record.words), "hydra/launcher=joblib"]).hydra == ("hydra/launcher=joblib",)
        with pytest.raises(ConfigError, match="other words: seeds=2 seeds=3"):
            record.entered_again(["block=a", "seeds=3", "axes.balancing=[sum,pcgrad]"])
