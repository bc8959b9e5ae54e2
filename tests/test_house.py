"""Rules of the house: conf/ mirrors the package letter for letter, a number lives in one place, and every part has a test."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
FREE = {"experiment", "baseline", "budget", "paradigm", "hydra"}  # recipes and switches: they name no class
OPTIONS = sorted(
    path.relative_to(ROOT / "conf")
    for path in (ROOT / "conf").rglob("*.yaml")
    if len(path.relative_to(ROOT / "conf").parts) > 1 and path.relative_to(ROOT / "conf").parts[0] not in FREE
)
PARTS = [o for o in OPTIONS if "_target_" in OmegaConf.load(ROOT / "conf" / o)]
FAMILIES = sorted({p.parent for p in PARTS})
RUNTIME = {"modality", "inputs", "task", "tasks", "num_stages", "pool", "seed", "single", "outputs"}  # given by experiment.py


def target(option: Path) -> str:
    return str(OmegaConf.load(ROOT / "conf" / option)["_target_"])


def test_the_options_are_found() -> None:
    assert len(PARTS) >= 25


@pytest.mark.parametrize("option", PARTS, ids=str)
def test_an_option_names_the_class_in_the_file_beside_it(option: Path) -> None:
    module, _, name = target(option).rpartition(".")
    assert module == ".".join(("m3tl_cli", *option.with_suffix("").parts))
    assert name.lower() == option.stem.replace("_", "")


@pytest.mark.parametrize("option", PARTS, ids=str)
def test_an_option_sets_every_number_and_no_other(option: Path) -> None:
    module, _, name = target(option).rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert all(p.kind is p.KEYWORD_ONLY for p in accepted.values())
    node = OmegaConf.load(ROOT / "conf" / option)
    # Data configs also place kinds of task, which are nodes of the root.
    keys = set(node) - {"_target_", "defaults"}
    runtime = (RUNTIME - keys) & set(accepted)
    assert keys == set(accepted) - runtime
    assert all(accepted[k].default is inspect.Parameter.empty for k in keys), "a number with two homes: yaml and constructor"


@pytest.mark.parametrize("option", [o for o in (ROOT / "conf").rglob("*.yaml") if "hydra" not in o.parts], ids=lambda p: p.stem)
def test_an_option_says_what_it_is(option: Path) -> None:
    lines = [line for line in option.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert 10 <= len(lines[0]) <= 140


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_part_has_an_option_and_a_test(family: Path) -> None:
    contract = ROOT / "m3tl_cli" / family.parts[0] / "base.py"
    bases = {n.name for n in ast.parse(contract.read_text()).body if isinstance(n, ast.ClassDef)} if contract.is_file() else set()
    for file in sorted((ROOT / "m3tl_cli" / family).glob("*.py")):
        if file.stem == "base":
            continue
        classes = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef)]
        if any(isinstance(b, ast.Name) and b.id in bases for c in classes if not c.name.startswith("_") for b in c.bases):
            assert (ROOT / "conf" / family / f"{file.stem}.yaml").is_file(), f"no option for {file}"
            assert (ROOT / "tests" / family / f"test_{file.stem}.py").is_file(), f"no test for {file}"


def test_every_key_of_the_root_is_read() -> None:
    readers = ("experiment.py", "stages.py", "assembly.py", "cli/hydra_entry.py", "cli/design.py", "comparison/cells.py")
    read = "".join((ROOT / "m3tl_cli" / file).read_text() for file in readers)
    root = OmegaConf.load(ROOT / "conf" / "train.yaml")
    keys = {k for k in root if k not in ("defaults", "hydra")}
    chosen = {k for entry in root.defaults if OmegaConf.is_dict(entry) for k in entry}
    keys |= {k.rpartition("@")[2] for k in chosen if not k.startswith(("override", "optional"))}
    for key in sorted(keys - {"budget", "experiment", "baseline"}):
        assert f"cfg.{key}" in read or f'"{key}"' in read, f"nothing reads `{key}`"


def test_packages_import_without_torch() -> None:
    for file in (ROOT / "m3tl_cli").rglob("__init__.py"):
        body = ast.parse(file.read_text()).body
        imported = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = [a.name for n in imported if isinstance(n, ast.Import) for a in n.names] + [
            n.module or "" for n in imported if isinstance(n, ast.ImportFrom)
        ]
        assert not any(n.split(".")[0] in {"torch", "hydra", "mlflow", "rich"} for n in names), file


def test_no_drawer_for_odds_and_ends() -> None:
    for file in (ROOT / "m3tl_cli").rglob("*.py"):
        assert file.stem not in {"utils", "util", "helpers", "misc", "common"}, file
