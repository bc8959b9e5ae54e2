"""The quick loader is Hydra's: every file, every scalar, every config and every error comes out the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra._internal.hydra
import pytest
import yaml
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf, _utils

from m3tl_cli.cli import hydra_entry, loader
from m3tl_cli.config import paths

CONF = paths.conf_dir()
FILES = sorted(CONF.rglob("*.yaml"))
PLAIN_YAML = _utils.get_yaml_loader
PLAIN_MAP = defaults_list._create_interpolation_map
OPTIONS = [f"{option.group}={option.name}" for group in paths.options().values() for option in group]

TRICKY = [
    "1e-3",
    "1E5",
    "1e3",
    "1.e3",
    ".5",
    "5.",
    "-.5",
    "+1",
    "1_000",
    "1_000.5",
    "0x1f",
    "0o17",
    "017",
    "1:30",
    "1:30.5",
    ".inf",
    "-.INF",
    ".nan",
    "off",
    "Yes",
    "n",
    "null",
    "~",
    "''",
    "2020-01-01",
    "2020-01-01 10:00:00",
    "'1e-3'",
    '"a\\tb"',
    "${a}",
    "'${oc.env:HOME,x}'",
    "???",
    "!!str 12",
    "!!float 1",
    "é🙂",
    "[1, 2.0, 1e-3, off]",
    "{b: 1e-3, c: [x, ~]}",
    "[http://x/y:z]",
    "|\n  two\n  lines\n",
    ">\n  folded\n  text\n",
    "",
]


def both(text: str) -> tuple[Any, Any]:
    """What OmegaConf's loader and the quick one make of a text, with the type of everything; an error's place and words."""

    def read(kind: Any) -> Any:
        try:
            return _typed(yaml.load(text, Loader=kind))
        except yaml.constructor.ConstructorError as error:
            return error.problem, error.problem_mark.line, error.problem_mark.column
        except yaml.YAMLError:
            return yaml.YAMLError

    return read(PLAIN_YAML()), read(loader.yaml_loader())


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return [(_typed(k), _typed(v)) for k, v in value.items()]
    if isinstance(value, list):
        return ["list", *map(_typed, value)]
    return type(value).__name__, repr(value)


def composed(kind: type[ConfigLoaderImpl], *overrides: str) -> tuple[str, dict[str, Any]]:
    """A config with Hydra's own node, as text and with every node's type."""
    hydra_entry.ready()
    cfg = kind(config_search_path=hydra_entry.search().config_search_path).load_configuration("train", list(overrides), hydra_run_mode())
    return OmegaConf.to_yaml(cfg), {key: (type(node), node._metadata) for key, node in _nodes(cfg)}


def hydra_run_mode() -> Any:
    from hydra.types import RunMode

    return RunMode.RUN


def _nodes(cfg: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    keys = cfg.keys() if isinstance(cfg, DictConfig) else range(len(cfg))
    for key in keys:
        node = cfg._get_node(key)
        found.append((f"{prefix}.{key}", node))
        if OmegaConf.is_config(node) and not node._is_none() and not node._is_missing() and not node._is_interpolation():
            found += _nodes(node, f"{prefix}.{key}")
    return found


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_libyaml_reads_the_files() -> None:
    from yaml.cyaml import CParser

    assert issubclass(loader.yaml_loader(), CParser)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(CONF).as_posix())
def test_every_file_of_the_program_is_read_as_omegaconf_reads_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    plain, quick = both(text)
    assert quick == plain
    assert "\t" not in text  # or the whole composition is done over


@pytest.mark.parametrize("scalar", TRICKY)
def test_a_tricky_value_has_the_same_type_and_value(scalar: str) -> None:
    plain, quick = both(f"a: {scalar}\n")
    assert quick == plain != yaml.YAMLError


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1e-3}\nc: *x\n",
        "a: &x {b: 1, d: 2}\nc:\n  <<: *x\n  d: 3\n",
        "1: a\n2.5: b\ntrue: c\n~: d\n",
        "# nothing\n",
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}\n",
        "a: [1\n",
        "a: b: c\n",
        "a: *nowhere\n",
        "a: !unknown 1\n",
        "a: 1\n b: 2\n",
        "- 1\n- 1e-3\n",
        "---\na: 1\n---\nb: 2\n",
    ],
)
def test_anchors_keys_and_mistakes_are_the_same(text: str) -> None:
    plain, quick = both(text)
    assert quick == plain


def test_a_key_given_twice_is_an_error_at_its_place() -> None:
    assert both("a: 1\nb: 2\na: 3\n")[1] == ("found duplicate key a", 2, 0)


def test_a_tab_is_left_to_pyyaml() -> None:
    with pytest.raises(yaml.YAMLError, match="a tab"):
        yaml.load("a: 1\t", Loader=loader.yaml_loader())


def test_without_libyaml_omegaconfs_own_loader_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    plain = loader.yaml_loader.__wrapped__()
    assert issubclass(plain, yaml.SafeLoader)


def test_the_root_is_composed_to_the_same_config() -> None:
    assert composed(loader.Loader) == composed(ConfigLoaderImpl)


def test_a_defaults_list_with_an_interpolation_finds_its_option() -> None:
    cfg = hydra_entry.compose(hydra_entry.search(), "train", ["budget=smoke"])
    assert cfg.hydra.runtime.choices["budget/data@data"] == "smoke_scenes"
    assert composed(loader.Loader, "budget=smoke") == composed(ConfigLoaderImpl, "budget=smoke")


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_composed_to_the_same_config(option: str) -> None:
    def outcome(kind: type[ConfigLoaderImpl]) -> Any:
        try:
            return composed(kind, option)
        except Exception as error:
            return type(error), str(error)

    assert outcome(loader.Loader) == outcome(ConfigLoaderImpl)


def test_hydra_and_omegaconf_are_as_before_afterwards(tree: Path) -> None:
    quick = hydra_entry.search()
    hydra_entry.compose(quick, "train", [])
    assert (_utils.get_yaml_loader, defaults_list._create_interpolation_map) == (PLAIN_YAML, PLAIN_MAP)
    with pytest.raises(yaml.YAMLError):
        hydra_entry.compose(quick, "train", ["experiment=unreadable"])
    assert (_utils.get_yaml_loader, defaults_list._create_interpolation_map) == (PLAIN_YAML, PLAIN_MAP)


def test_a_broken_file_is_reported_in_the_words_of_pyyaml(tree: Path) -> None:
    messages = []
    for kind in (loader.Loader, ConfigLoaderImpl):
        with pytest.raises(yaml.MarkedYAMLError) as caught:
            kind(config_search_path=hydra_entry.search().config_search_path).load_configuration(
                "train", ["experiment=unreadable"], hydra_run_mode()
            )
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_only_the_first_application_has_the_quick_loader() -> None:
    theirs = hydra._internal.hydra
    path = hydra_entry.search().config_search_path
    with loader.first():
        assert isinstance(theirs.ConfigLoaderImpl(config_search_path=path), loader.Loader)
        assert theirs.ConfigLoaderImpl is ConfigLoaderImpl
    with loader.first():
        pass  # none was made
    assert theirs.ConfigLoaderImpl is ConfigLoaderImpl


@pytest.mark.parametrize(("loaded", "frozen"), [(False, True), (True, False)])
def test_garbage_is_left_to_the_end_of_the_process_only_where_nothing_was_trained(
    loaded: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []
    monkeypatch.setattr("m3tl_cli.cli.hydra_entry.gc.freeze", lambda: called.append(True))
    if loaded:
        monkeypatch.setitem(sys.modules, "torch", object())
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    hydra_entry.leave()
    assert bool(called) == frozen
