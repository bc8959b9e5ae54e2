"""Nouns keep their promises: they travel as JSON, and seeds are the same everywhere."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from m3tl_cli.core.contracts import Task, generator, stable_seed
from m3tl_cli.core.errors import ConfigError, DataError, M3TLError, TrainingError
from m3tl_cli.core.results import Cost, Results, Score, TaskResult, write_text


def test_a_task_survives_json_and_hashing() -> None:
    task = Task("depth", "depth", 1, True, (32, 32), unit="m", mean=(12.5,), std=(3.0,), role="auxiliary", at=("source",))
    back = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert back == task
    assert len({back, task}) == 1


def test_seeds_are_fixed_for_ever() -> None:
    assert stable_seed("a", 1) == 6962120981034877120
    assert stable_seed("a", 1) != stable_seed("a1")
    assert generator(1, "x").initial_seed() == generator(1, "x").initial_seed()


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (DataError, 3), (TrainingError, 1)])
def test_errors_cross_processes_whole(kind: type[M3TLError], code: int) -> None:
    error = pickle.loads(pickle.dumps(kind("must be 1; found 2.", hint="x=1", place="x")))
    assert type(error) is kind
    assert (error.message, error.hint, error.place, error.exit_code) == ("must be 1; found 2.", "x=1", "x", code)
    assert str(error) == "x: must be 1; found 2. (x=1)"


@pytest.mark.parametrize(
    ("value", "trivial", "perfect", "direction", "expected"),
    [(0.8, 0.6, 1.0, "higher", 0.5), (5.0, 10.0, 0.0, "lower", 0.5), (12.0, 10.0, 0.0, "lower", -0.2), (0.0, 10.0, 0.0, "lower", 1.0)],
)
def test_error_reduction_counts_from_trivial_to_perfect(
    value: float, trivial: float, perfect: float, direction: str, expected: float
) -> None:
    assert Score(value, trivial, perfect, direction).error_reduction == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_trivial_predictor_that_is_perfect_leaves_nothing_to_reduce() -> None:
    assert Score(0.0, 0.0, 0.0, "lower").error_reduction == 0.0


def test_results_survive_their_file(tmp_path: Path) -> None:
    score = Score(0.5, 0.2, 1.0, "higher", "m")
    cost = Cost(10, 10, 1, 5, 80, 5, 5, 1.5, 0.0, 1000)
    results = Results("mtl", 3, ("depth",), {"a": {"depth": TaskResult("depth", "abs_rel", {"abs_rel": score})}}, cost, ("note",))
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_task_from_before_members_is_no_member() -> None:
    old = Task("depth", "depth", 1, True).to_json()
    del old["member_of"]
    task = Task.from_json(old)
    assert (task.member_of, task.original) == ("", "depth")
    assert Task("depth__2", "depth", 1, True, member_of="depth").original == "depth"
