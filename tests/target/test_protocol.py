"""The protocol: what is tried, what meta-validation chooses, what is kept of a killed run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from m3tl_cli.core.contracts import Episode, Part, Task
from m3tl_cli.core.errors import ConfigError, TrainingError
from m3tl_cli.core.events import Advanced, Event
from m3tl_cli.target.adaptation import Points, Spent, Start, Trial
from m3tl_cli.target.protocol import Outcome, Protocol, Reference
from m3tl_cli.task.regression import Regression
from tests.toys import a_batch, regression

TASK = regression("a")
NUMBERS: dict[str, Any] = {
    "case": 2, "probe": True, "num_shots": [1, 4], "num_episodes": 2, "num_validation": 1, "num_query": 3, "per_class": False,
    "lrs": [0.1, 0.2], "inner": True, "steps": [1, 2], "batch_size": 4, "keep_old": "frozen", "source_domains": False, "baselines": [],
}  # fmt: skip


def protocol(**changes: Any) -> Protocol:
    return Protocol(**(NUMBERS | changes))


def kind() -> Regression:
    return Regression(task=TASK, loss="mse", delta=1.0)


def draw(at: str, tasks: Sequence[Task], shots: int, number: int) -> list[Episode]:
    """Query targets are 2 everywhere, so that the constant 0 has a mean absolute error of 2; the support says the block."""
    query = a_batch({"a": torch.full((3, 1), 2.0)}, torch.zeros(3, 6))
    support = a_batch({"a": torch.zeros(shots, 1)}, torch.zeros(shots, 6))
    return [Episode(i, (Part(support, ("a",)),), (Part(query, ("a",)),), (TASK,)) for i in range(number)]


class Planted:
    """An adapter whose scores are known: mean absolute errors by trial and step, other ones at the target than at meta-validation."""

    errors: ClassVar = {"slow": {0: 2.0, 1: 1.5, 2: 1.0}, "fast": {0: 2.0, 1: 0.5, 2: 1.9}, "inner loop": {0: 2.0, 1: 1.8, 2: 1.7}}

    def __init__(self) -> None:
        self.calls = 0
        self.spent = Spent()

    def adapt(self, start: Start, episode: Episode, trial: Trial, *, last: int | None = None, watch: int = -1) -> Points:
        self.calls += 1
        self.spent += Spent(updates=2, forward=7, flops=9.0)
        errors = {s: e + episode.uid / 4 for s, e in self.errors[trial.label].items() if last is None or s <= last}
        return {s: {"a": {"mae": e, "rmse": e, "r_squared": 0.0}} for s, e in errors.items()}


def trials() -> list[Trial]:
    marked: Any = object()
    return [Trial("slow", marked), Trial("fast", marked), Trial("inner loop", None)]


def start(**changes: Any) -> Start:
    made = object.__new__(Start)
    numbers = {"block": "b", "tasks": (TASK,), "kept": (), "along": False, "baseline": "", "closed": False}
    for name, value in (numbers | changes).items():
        object.__setattr__(made, name, value)
    return made


def run(which: Protocol, record: Path, adapter: Any, starts: Sequence[Start], events: list[Event] | None = None) -> Outcome:
    zero = Reference({"a": kind()}, {"a": torch.zeros(1, 1)})
    heard: list[Event] = [] if events is None else events
    references = {"validation": zero, "target": zero, "source": zero}
    return which.run(starts, trials(), adapter, draw=draw, references=references, record=record, emit=heard.append)


def test_the_trial_and_the_steps_that_meta_validation_likes_best_are_what_counts(tmp_path: Path) -> None:
    outcome = run(protocol(), tmp_path / "r.jsonl", Planted(), [start()])
    for choice in outcome.choices:
        assert (choice.optimizer, choice.steps) == ("fast", 1)
        assert choice.score == pytest.approx(1 - 0.5 / 2)
        assert dict(choice.trials) == {"slow": pytest.approx(0.5), "fast": pytest.approx(0.75), "inner loop": pytest.approx(0.15)}
    assert [c.block for c in outcome.choices] == ["b@1", "b@4"]
    score = outcome.blocks["b@4"]["a"].scores["mae"]
    assert score.value == pytest.approx((0.5 + 0.75) / 2), "the mean over two target episodes, at the chosen step"
    assert score.trivial == pytest.approx(2.0)


def test_curves_show_the_chosen_trial_and_the_best_of_the_other_sort(tmp_path: Path) -> None:
    outcome = run(protocol(num_shots=[1]), tmp_path / "r.jsonl", Planted(), [start()])
    assert [(c.optimizer, c.chosen, c.chosen_step) for c in outcome.curves] == [("fast", True, 1), ("inner loop", False, 2)]
    assert outcome.curves[0].steps == (0, 1, 2)
    assert outcome.curves[0].episodes == ((2.0, 0.5, 1.9), (2.25, 0.75, 2.15))


def test_a_baseline_has_the_same_trials_and_is_kept_apart(tmp_path: Path) -> None:
    adapter = Planted()
    outcome = run(protocol(num_shots=[1]), tmp_path / "r.jsonl", adapter, [start(baseline="scratch")])
    assert not outcome.blocks
    assert not outcome.curves
    assert outcome.baselines["scratch"]["b@1"]["a"].scores["mae"].value == pytest.approx(0.625)
    assert adapter.calls == 3 * 1 + 2 * 2
    closed = run(protocol(num_shots=[1]), tmp_path / "c.jsonl", Planted(), [start(baseline="ridge head", closed=True)])
    assert closed.baselines["ridge head"]["b@1"]["a"].scores["mae"].value == pytest.approx(2.125), "step 0: nothing was trained"


def test_without_meta_validation_the_first_trial_runs_to_the_end(tmp_path: Path) -> None:
    outcome = run(protocol(num_shots=[1], num_validation=0), tmp_path / "r.jsonl", Planted(), [start()])
    assert outcome.choices == []
    assert outcome.blocks["b@1"]["a"].scores["mae"].value == pytest.approx(1.125)


def test_forgetting_is_scored_beside(tmp_path: Path) -> None:
    outcome = run(protocol(num_shots=[1]), tmp_path / "r.jsonl", Planted(), [start(block="c", kept=(TASK,))])
    assert set(outcome.blocks) == {"c@1", "old@1"}


def test_what_is_recorded_is_not_done_again(tmp_path: Path) -> None:
    record = tmp_path / "r.jsonl"
    first, second = Planted(), Planted()
    whole = run(protocol(), record, first, [start()])
    lines = record.read_text().splitlines()
    record.write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])  # killed while it wrote
    events: list[Event] = []
    again = run(protocol(), record, second, [start()], events)
    assert again == whole
    assert second.calls == first.calls - 4
    assert second.spent == first.spent, "what an earlier part of the run spent is counted"
    told = [e for e in events if isinstance(e, Advanced)]
    assert told[-1].done == told[-1].total == first.calls


def test_a_record_from_before_operations_were_counted_leaves_their_sum_unknown(tmp_path: Path) -> None:
    record, adapter = tmp_path / "r.jsonl", Planted()
    run(protocol(), record, adapter, [start()])
    key, points, spent = json.loads(record.read_text().splitlines()[0])
    assert spent == [2, 0, 7, 0, 9.0]
    record.write_text(json.dumps([key, points, spent[:4]]) + "\n")
    again = Planted()
    run(protocol(), record, again, [start()])
    assert math.isnan(again.spent.flops)
    assert (again.spent.updates, again.spent.forward) == (adapter.spent.updates, adapter.spent.forward)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"num_shots": [5, 1]}, "num_shots"), ({"steps": []}, "steps"), ({"lrs": [], "inner": False}, "lrs")],
)
def test_numbers_that_cannot_be_asked_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        protocol(**changes)


def test_case_1_takes_no_step() -> None:
    asked = protocol(case=1)
    assert asked.steps == (0,)
    assert asked.lrs == ()
    assert not asked.inner


def test_case_1_refuses_a_tensor_that_changed(tmp_path: Path) -> None:
    class Meddling(Planted):
        def adapt(self, start: Start, episode: Episode, trial: Trial, *, last: int | None = None, watch: int = -1) -> Points:
            with torch.no_grad():
                next(iter(start.model.params().values())).add_(1e-7)
            return super().adapt(start, episode, trial, last=0)

    from tests.target.test_adaptation import a_start

    with pytest.raises(TrainingError, match="case 1"):
        run(protocol(case=1, num_shots=[1]), tmp_path / "r.jsonl", Meddling(), [a_start(("a",))])
