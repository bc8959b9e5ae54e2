"""Every way to ask for what cannot be, over a small config tree; nothing is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3tl_cli.cli.preflight import Checked, check
from m3tl_cli.cli.request import Request
from m3tl_cli.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("tree")


def ask(*overrides: str, multirun: bool = False, config_dir: str = "", config_name: str = "train") -> Checked:
    return check(Request(overrides=overrides, multirun=multirun, config_dir=config_dir, config_name=config_name))


def test_a_sound_request_is_composed_and_has_no_problem() -> None:
    checked = ask("balancing=pcgrad", "trainer.updates=5", "encoder/image=wide", "tasks=[depth]", "experiment=seven")
    assert checked.problems == []
    assert checked.config is not None
    assert checked.config.trainer.updates == 5  # the command line wins over the experiment
    assert checked.config.encoder.image.width == 64


def test_what_an_experiment_sets_survives_the_defaults() -> None:
    checked = ask("experiment=seven")
    assert checked.config is not None
    assert checked.config.trainer.updates == 7


def test_overrides_are_remembered_as_hydra_does() -> None:
    from m3tl_cli.cli import hydra_entry

    typed = ["trainer.updates=5", "balancing=pcgrad"]
    checked = ask(*typed)
    assert checked.config is not None
    assert sorted(checked.config.hydra.overrides.task) == sorted(typed)
    theirs = hydra_entry.compose(hydra_entry.search(), "train", typed)
    strip = lambda name: name.rpartition("-")[2]  # noqa: E731  (the hash; the time before it differs)
    assert strip(hydra_entry.selected(checked.config, "hydra.run.dir")) == strip(hydra_entry.selected(theirs, "hydra.run.dir"))


@pytest.mark.parametrize(
    ("override", "place", "hint"),
    [
        ("balancng=sum", "balancng", "did you mean balancing?"),
        ("balancing=pcgard", "balancing", "did you mean balancing=pcgrad?"),
        ("encoder/image=wid", "encoder/image", "did you mean encoder/image=wide?"),
        ("hydra/launchr=joblib", "hydra/launchr", "did you mean hydra/launcher?"),
        ("hydra/launcher=jobib", "hydra/launcher", "did you mean hydra/launcher=joblib?"),
        ("trainer.updtes=5", "trainer.updtes", "did you mean trainer.updates?"),
        ("lr=0.1", "lr", "did you mean optimizer.lr?"),
        ("+sed=1", "sed", "did you mean seed?"),
        ("+trainer.updtes=1", "trainer.updtes", "did you mean trainer.updates?"),
        ("+seed=3", "seed", "write seed=3"),
        ("+experiment=seven", "experiment", "write experiment=seven"),
        ("seed=two", "seed", ""),
        ("trainer.updates=-1", "trainer.updates", ""),
        ("trainer=5", "trainer", "m3tl list trainer"),
        ("paradigm=null", "paradigm", "m3tl list paradigm"),
        ("~heads", "heads", "m3tl list heads"),
        ("~nope", "nope", "m3tl list"),
        ("trainer.device.x=1", "trainer.device.x", "did you mean trainer.device?"),
        ("tasks=[depth,sgmentation]", "tasks", "did you mean segmentation?"),
        ("trainer.updates=???", "trainer.updates", "give trainer.updates=..."),
        ("trainer.updates=${seeed}", "trainer.updates", ""),
        ("experiment=unreadable", "unreadable.yaml:3", ""),
        ("seed=1,2", "seed", "sweep over them with -m, or give a list: seed='[1,2]'"),
        ("seed=range(1,3)", "seed", "sweep over them with -m"),
    ],
)
def test_one_mistake_is_one_problem_with_the_right_thing_beside_it(override: str, place: str, hint: str, tmp_path: Path) -> None:
    (problem,) = ask(override).problems
    assert problem.place.endswith(place)
    assert problem.hint.startswith(hint)
    assert (not hint) == (not problem.hint)
    assert list(tmp_path.iterdir()) == []


def test_an_override_that_cannot_be_read_is_shown_and_the_others_are_checked_all_the_same() -> None:
    found = ask("a b==", "seed=two").problems
    assert [p.place for p in found] == ["a b==", "seed"]


def test_mistakes_of_every_kind_are_found_at_once() -> None:
    found = ask("balancing=pcgard", "encoder/image=x", "trainer.updtes=1", "seed=two", "trainer.updates=-1", "+sed=1").problems
    assert {p.place for p in found} == {"balancing", "encoder/image", "trainer.updtes", "sed", "seed", "trainer.updates"}
    assert len(found) == 6


def test_a_mistake_inside_an_experiment_is_found() -> None:
    assert {p.place for p in ask("experiment=wrong").problems} == {"trainer.updtes", "seed"}


def test_an_unknown_root_config_is_refused() -> None:
    (problem,) = ask(config_name="trian").problems
    assert problem.place == "--config-name"


def test_an_unknown_folder_of_configs_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a folder"):
        ask(config_dir="nowhere")


class TestSweep:
    def test_a_sound_sweep_has_no_problem(self) -> None:
        checked = ask("seed=1,2", "balancing=sum,pcgrad", "trainer.updates=range(1,4)", multirun=True)
        assert checked.problems == []
        assert checked.multirun

    def test_every_value_is_checked_before_the_first_runs(self) -> None:
        found = ask("seed=1,two", "balancing=sum,pcgard", "trainer.updates=5,-3", "budget=glob(*)", multirun=True).problems
        assert {(p.place, p.found) for p in found} == {("seed", "'two'"), ("balancing", "pcgard"), ("trainer.updates", "-3")}

    def test_a_swept_key_that_does_not_exist_is_named_once(self) -> None:
        (problem,) = ask("trainer.updtes=1,2,3", multirun=True).problems
        assert problem.hint == "did you mean trainer.updates?"

    def test_the_ends_of_an_interval_are_checked(self) -> None:
        found = ask("optimizer.lr=interval(0,1)", multirun=True).problems
        assert [(p.place, p.found) for p in found] == [("optimizer.lr", "0.0")]

    def test_a_range_without_values_is_refused(self) -> None:
        (problem,) = ask("seed=range(3,3)", multirun=True).problems
        assert "at least one value" in problem.expected

    def test_what_the_config_itself_sweeps_over_is_checked(self, tmp_path: Path) -> None:
        (tmp_path / "mine" / "experiment").mkdir(parents=True)
        sweep = "# @package _global_\nhydra: {sweeper: {params: {seed: '1,two', budget: 'smoke,smok'}}}\n"
        (tmp_path / "mine" / "experiment" / "sweep.yaml").write_text(sweep)
        found = ask("experiment=sweep", multirun=True, config_dir=str(tmp_path / "mine")).problems
        assert [(p.place, p.found) for p in found] == [("seed", "'two'"), ("budget", "smok")]

    def test_multirun_can_be_asked_for_by_hydras_own_key(self) -> None:
        assert ask("seed=1,2", "hydra.mode=MULTIRUN").problems == []


def test_a_users_own_part_is_one_file_and_one_config(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "balancing").mkdir(parents=True)
    (mine / "balancing" / "halves.yaml").write_text("# halves\n_target_: my_halves.Halves\nshare: 0.5\n")
    code = "from typing import Annotated\nfrom annotated_types import Ge, Le\n\n\nclass Halves:\n"
    (mine / "my_halves.py").write_text(f"{code}    def __init__(self, *, share: Annotated[float, Ge(0), Le(1)]): ...\n")
    assert ask("balancing=halves", config_dir=str(mine)).problems == []
    (problem,) = ask("balancing=halves", "balancing.share=2", config_dir=str(mine)).problems
    assert problem.expected == "a number >= 0 and <= 1"
