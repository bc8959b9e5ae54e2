"""Every option of the program composes and passes the checks, without importing any part."""

from __future__ import annotations

import subprocess
import sys

import pytest

from m3tl_cli.cli.design import designed
from m3tl_cli.cli.preflight import check
from m3tl_cli.cli.request import Request
from m3tl_cli.config import paths

CHOICES = [
    f"{group}={option.name}"
    for group, options in paths.options().items()
    for option in options
    # Chosen by the data, or by two other choices together.
    if group not in ("task", "budget/data", "experiment/sharing", "experiment/baseline")
]
FILES = {  # what an option needs to be told
    "data=audio_clips": ["data.folder=clips"],
    "data=table": ["data.files=[table.csv]", "data.modalities={table: ['*']}", "data.tasks={price: price}", "+task@task.price=regression"],
    "data=image_classes": ["data.folders=[images]"],
    "transfer/source=checkpoint": ["transfer.source.run=outputs/run"],
    "transfer/source=weights": ["transfer.source.file=weights.safetensors"],
}


def test_the_choices_are_found() -> None:
    assert len(CHOICES) >= 20


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_passes_the_checks(choice: str) -> None:
    assert check(Request(overrides=(choice, *FILES.get(choice, [])))).problems == []


def test_every_option_says_what_it_is() -> None:
    assert [o for options in paths.options().values() for o in options if not o.about] == []


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["list"], ["list", "balancing"], ["train", "--cfg", "job"], ["train", "seed=two"]]
)
def test_what_needs_no_torch_does_not_import_it(words: list[str], tmp_path: object) -> None:
    code = (
        "import sys\nfrom m3tl_cli.cli.main import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'mlflow', 'matplotlib', 'torchmetrics') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=str(tmp_path), check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_ablation_of_real_parts_says_which_baseline_cannot_be_and_leaves_its_groups_to_it() -> None:
    lacking = designed(["data.target_domains=[]", "settings=[stl,mtl]", "block=a"])
    assert [(p.place, p.hint) for p in lacking.checked.problems] == [("baseline=joint_retraining", "baselines=[ensemble]")]
    sound = designed(["experiment=landmine", "settings=[stl,mtl]", "block=a", "seeds=1", "sharing.strength=0.1"])
    assert sound.design is not None, sound.checked.problems
    pulled = [any(w.startswith("sharing.strength") for w in cell.overrides) for cell in sound.design.cells({})]
    assert pulled == [True, True, False, True]  # stl, mtl, pooled, gradient_boosting
    fixed = designed(["experiment=landmine", "settings=[stl]", "block=a", "axes.sharing.strength=[0.1,0.3]"])
    assert [(p.place, p.hint) for p in fixed.checked.problems] == [("baselines", "baselines=[gradient_boosting]")]
