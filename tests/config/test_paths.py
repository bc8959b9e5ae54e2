"""Where configs are found, and what is said about them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from m3tl_cli.config import paths
from m3tl_cli.core.errors import ConfigError


def test_the_programs_configs_are_found() -> None:
    assert (paths.conf_dir() / "train.yaml").is_file()


def test_groups_stand_in_the_order_of_the_data_flow_and_nested_ones_after_their_parent() -> None:
    groups = list(paths.options())
    flow = [g for g in groups if g in ("data", "fusion", "backbone", "heads", "balancing", "trainer")]
    assert flow == ["data", "fusion", "backbone", "heads", "balancing", "trainer"]
    assert groups.index("encoder/image") == groups.index("encoder") + 1
    assert not [g for g in groups if g.startswith("hydra")]


def test_an_options_first_comment_says_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for text, about in [("# what\nx: 1", "what"), ("# @package _global_\n# that\nx: 1", "that"), ("x: 1  # no", ""), ("", "")]:
        file.write_text(text)
        assert paths.Option("g", "a", file).about == about


def test_a_users_options_stand_beside_the_programs(tmp_path: Path) -> None:
    (tmp_path / "balancing").mkdir()
    (tmp_path / "balancing" / "mine.yaml").write_text("# mine\n")
    (tmp_path / "balancing" / "sum.yaml").write_text("# not this one\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "one.yaml").write_text("")
    found = {o.name: o for o in paths.options(tmp_path)["balancing"]}
    assert found["mine"].about == "mine"
    assert found["sum"].file.parent != tmp_path / "balancing"
    assert "new" in paths.options(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a folder"):
        paths.own_dir(tmp_path / "no")


def test_a_users_code_is_found_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    paths.add_own_code(tmp_path, tmp_path)
    assert sys.path[-1] == str(tmp_path.resolve())
    assert sys.path.count(str(tmp_path.resolve())) == 1
