"""`m3tl ablate` as a user types it: a child process over a small config tree, with an experiment that only counts; and once in earnest."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.comparison.tables import Comparison
from tests.cli.conftest import Run
from tests.test_options import EPISODES, PRETRAINING, TINY

UNLUCKY = {"stl-s13": "FAILED", "mtl-s13": "FAILED", "stl-s1": "FINISHED", "mtl-s1": "FINISHED"}
"""States of the runs of `seeds=[13,1]`: the small tree's experiment fails at 13."""

SMALL = ("block=a", "seeds=2", "budget=smoke")


def the_folder(tmp_path: Path, name: str = "ablation") -> Path:
    (folder,) = (tmp_path / "outputs" / name).glob("*-ablation")
    return folder


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """Status by folder name without its digest."""
    return {p.parent.name.rpartition("-")[0]: json.loads(p.read_text()) for p in folder.glob("*/status.json")}


def starting(words: tuple[str, ...], tmp_path: Path, environment: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "m3tl_cli", "ablate", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)


def until(found: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_setting_meets_every_seed_and_the_verdict_is_printed_and_kept(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("ablate", *SMALL, "axes.trainer.clip=[1,5]")
    assert done.returncode == 0, done.stderr
    folder = the_folder(tmp_path)
    assert set(states(folder)) == {f"{s}-s{n}-{clip}" for s in ("stl", "mtl") for n in (1, 2) for clip in (1, 5)}
    started = sorted(states(folder).items(), key=lambda kv: kv[1]["started"])
    assert [name.split("-")[1] for name, _ in started] == ["s1"] * 4 + ["s2"] * 4, "all of a seed first"
    assert done.stdout.startswith("Exploratory (2 seeds, no verdict below 6)")
    assert "8 of 8 runs" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80 or all("outputs/" in line for line in done.stdout.splitlines() if len(line) > 80)
    found = Comparison.read(folder / "comparison.json")
    assert found.planned
    assert len(found.runs) == 8
    assert (folder / "tables" / "summary.csv").is_file()
    assert "8 of 8 done" in done.stderr
    record = json.loads((folder / "ablation.json").read_text())
    assert record["command"] == ["m3tl", "ablate", *SMALL, "axes.trainer.clip=[1,5]"]


def test_the_plan_is_there_before_the_first_run(tmp_path: Path, environment: dict[str, str]) -> None:
    process = starting((*SMALL, "trainer.updates=4000", "trainer.step_seconds=0.01"), tmp_path, environment)
    until(lambda: list(tmp_path.rglob("status.json")))
    folder = the_folder(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    begun = json.loads(next(folder.glob("*/status.json")).read_text())["started"]
    assert (folder / "plan.json").stat().st_mtime <= begun
    assert plan["contrasts"][0]["weights"] == {"mtl": 1.0, "stl": -1.0}
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err


def test_a_failed_run_keeps_the_others_is_told_with_its_reason_and_makes_the_exit_code_1(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("ablate", "block=a", "seeds=[13,1]", "budget=smoke")
    assert done.returncode == 1
    folder = the_folder(tmp_path)
    assert {name: s["state"] for name, s in states(folder).items()} == UNLUCKY
    assert done.stdout.count("FAILED: ValueError: 13 is unlucky") == 2
    assert f"m3tl ablate --resume {folder.relative_to(tmp_path)}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Error executing" not in done.stderr
    assert [run.seed for run in Comparison.read(folder / "comparison.json").runs] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_ablation_goes_on_and_repeats_nothing(
    m3tl: Run, tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    process = starting((*SMALL, "trainer.updates=60", "trainer.step_seconds=0.01"), tmp_path, environment)
    until(
        lambda: (
            sum(s["state"] == "FINISHED" for s in states_of(tmp_path)) >= 1 and any(s["state"] == "RUNNING" for s in states_of(tmp_path))
        )
    )
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    folder = the_folder(tmp_path)
    assert f"→ m3tl ablate --resume {folder.relative_to(tmp_path)}" in err
    before = states(folder)
    (stopped,) = [name for name, s in before.items() if s["state"] == "KILLED"]
    step = int(next(folder.glob(f"{stopped}-*/checkpoints/step")).read_text())
    finished = {name for name, s in before.items() if s["state"] == "FINISHED"}
    plan = (folder / "plan.json").read_bytes()

    refused = m3tl("ablate", "--resume", str(folder), "block=a", "seeds=3", "budget=smoke")
    assert refused.returncode == 2
    assert "must stay as it was planned" in refused.stderr
    done = m3tl("ablate", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"from {step} " in next(folder.glob(f"{stopped}-*/train.log")).read_text()
    after = states(folder)
    assert len(after) == 4
    assert {s["state"] for s in after.values()} == {"FINISHED"}
    assert all(after[name]["started"] == before[name]["started"] for name in finished)
    assert (folder / "plan.json").read_bytes() == plan
    assert "0 to go" in m3tl("ablate", "--resume", str(folder)).stderr


def states_of(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for path in tmp_path.rglob("status.json"):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def test_an_ablation_that_is_still_running_is_not_entered_twice(m3tl: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    process = starting((*SMALL, "trainer.updates=4000", "trainer.step_seconds=0.01"), tmp_path, environment)
    until(lambda: states_of(tmp_path))
    done = m3tl("ablate", "--resume")
    assert done.returncode == 2
    assert "still running" in " ".join(done.stderr.split())
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    "words", [["seeds=two"], ["settings=[mlt]"], ["seed=1"], ["--resume"], ["--resume", "nowhere"], ["trainer.nope=1"]]
)
def test_what_cannot_be_is_exit_code_2_and_nothing_is_created(m3tl: Run, tmp_path: Path, words: list[str]) -> None:
    done = m3tl("ablate", "block=a", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_runs_and_what_finished_ones_say_about_their_time(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("ablate", *SMALL, "--dry-run")
    assert done.returncode == 0
    assert "4 runs under outputs/ablation\nno finished run tells how long these take: stl; mtl\n" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert m3tl("train", "paradigm=mtl", "budget=smoke").returncode == 0
    assert m3tl("train", "paradigm=stl", "budget=smoke").returncode == 0
    assert "4 runs under outputs/ablation, about 0 s one after the other" in m3tl("ablate", *SMALL, "--dry-run").stdout.replace(
        "1 s", "0 s"
    )


@pytest.mark.slow
def test_matched_lengths_follow_from_pilots_and_are_written_down(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("ablate", "block=a", "seeds=1", "trainer.updates=40", "match=equal_flops", "pilot=10")
    assert done.returncode == 0, done.stderr
    folder = the_folder(tmp_path)
    assert "2 pilot runs of 10 updates" in done.stderr
    assert len(list((folder / "pilot").glob("*/results.json"))) == 2
    flops = json.loads((folder / "ablation.json").read_text())["flops"]
    assert {label: (f["per_update"], f["updates"]) for label, f in flops.items()} == {"stl": (6.0, 40), "mtl": (6.0, 40)}
    assert Comparison.read(folder / "comparison.json").budget == "equal_flops"
    again = m3tl("ablate", "block=a", "seeds=[2]", "trainer.updates=40", "match=equal_flops", "name=again")
    assert "pilot" not in again.stderr, "finished runs tell"


@pytest.mark.slow
def test_parallel_launchers_run_the_same_list(m3tl: Run, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = m3tl("ablate", *SMALL, "name=mine", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    found = states(the_folder(tmp_path, "mine"))
    assert {s["state"] for s in found.values()} == {"FINISHED"}
    assert len({s["pid"] for s in found.values()}) == 2
    assert all("hydra" not in " ".join(s["overrides"]) for s in found.values())


@pytest.mark.slow
def test_on_a_terminal_a_table_moves_and_plain_lines_are_left_out(tmp_path: Path, environment: dict[str, str]) -> None:
    own, others = pty.openpty()
    live = {**environment, "TERM": "xterm"}
    process = starting((*SMALL, "trainer.updates=100", "trainer.step_seconds=0.01"), tmp_path, live, stderr=others)
    os.close(others)
    shown = b""
    while True:
        try:
            part = os.read(own, 65536)
        except OSError:
            break
        shown += part
        if not part:
            break
    process.communicate(timeout=60)
    os.close(own)
    assert process.returncode == 0
    text = shown.decode()
    assert "▸" in text
    assert "1 running" in text
    assert "started ·" not in text


def test_help_and_errors_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom m3tl_cli.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'scipy', 'numpy', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    for words in (
        ["ablate", "--help"],
        ["compare", "--help"],
        ["report", "--help"],
        ["ablate", "margin=0"],
        ["compare"],
        ["ablate", "seed=1"],
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=str(tmp_path), check=True)
        assert done.stdout.splitlines()[-1] == "[]", words


@pytest.mark.slow
def test_an_ablation_in_earnest(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two settings, two seeds, both budgets: real data, real training, pretraining, a target and a tracking store."""
    here = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    here |= {"M3TL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    kept = [w for w in TINY if not w.startswith(("tracking", "trainer.updates", "data.num_scenes", "target.num_validation"))]
    words = [
        *kept, *EPISODES, *PRETRAINING, "trainer.updates=40", "target.num_validation=1", "target.baselines=[ridge]",
        "settings=stl,m3tl", "baselines=[joint_retraining]", "seeds=2", "match=both", "pilot=4",
    ]  # fmt: skip

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "m3tl_cli", *more]
        return subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=900)

    done = call("ablate", *words)
    assert done.returncode == 0, done.stderr
    folder = the_folder(tmp_path)
    record = json.loads((folder / "ablation.json").read_text())
    assert [(c["arm"]["setting"], c["seed"], c["budget"]) for c in record["cells"]] == [
        (s, n, b)
        for n in (1, 2)
        for b, settings in (("equal_updates", ("stl", "m3tl", "joint_retraining")), ("equal_flops", ("m3tl", "joint_retraining")))
        for s in settings
    ]
    found = Comparison.read(folder / "comparison.json")
    assert found.budgets == ("equal_updates", "equal_flops")
    assert found.budget == "equal_flops"
    assert found.plan.key == "c@1"
    assert found.beside == {"joint_retraining": "upper_bound"}
    assert not any("not paired" in flag for flag in found.flags), found.flags
    artifacts = list(tmp_path.rglob("mlartifacts/*/artifacts/comparison.json")) + list(
        tmp_path.rglob("mlartifacts/*/*/artifacts/comparison.json")
    )
    assert len(artifacts) == 1, "the parent run has the comparison"
    assert call("compare", str(folder)).returncode == 0
    query = call("compare", "--query", "tags.`m3tl.seed` = '1' and params.`trainer.updates` = '40'")
    assert query.returncode == 0, query.stderr
    assert call("report", str(folder), "--format", "md").returncode == 0
