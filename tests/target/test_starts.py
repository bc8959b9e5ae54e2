"""Where blocks start: from the source, from encoders alone, from another task's network; and which network suits a new task."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from m3tl_cli.core.contracts import Batch, Episode, Part
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.zero_out import ZeroOut
from m3tl_cli.paradigm.base import Paradigm
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.target.adaptation import Start
from m3tl_cli.target.protocol import Reference
from m3tl_cli.target.starts import Parts, evidence_of_sources, make_starts, probe_sources
from m3tl_cli.transfer.handover.extract import Extract
from tests.inner._inputs import build as build_inner
from tests.target.test_adaptation import POOL, adapter, episode, kind, trial
from tests.target.test_protocol import protocol
from tests.toys import regression, states_equal
from tests.trainer.test_shape import a_model

SEEN, NEW = ("a", "b"), ("fresh",)


def parts(*, joint: bool = True, handover: bool = True, bilevel: bool = False, pretrain: bool = False, **changes: Any) -> Parts:
    sharing = Hard if joint or bilevel else Separate
    trained = a_model(SEEN, sharing)

    def scratch(tasks: Any, pretrained: bool) -> Any:
        model = a_model(tuple(t.name for t in tasks), sharing, seed=7)
        if pretrained:
            for name, value in model.params().items():
                if name.startswith("encoder."):
                    value.data.fill_(0.5)
        return model

    numbers: dict[str, Any] = {
        "paradigm": Paradigm("x", pretrain=pretrain, joint=joint, bilevel=bilevel, handover=handover),
        "trained": trained, "scratch": scratch, "seen": tuple(map(regression, SEEN)), "new": tuple(map(regression, NEW)),
        "inner": build_inner("maml"), "fresh_inner": lambda: build_inner("maml"), "handover": Extract, "seed": 0,
        "head_init": ZeroOut(), "probe": ZeroOut(), "fresh": frozenset(), "complete": False,
    }  # fmt: skip
    return Parts(**(numbers | changes))


def test_a_model_that_knows_the_target_is_scored_as_it_is() -> None:
    own = parts(trained=a_model((*SEEN, *NEW), Hard), complete=True)
    starts = by_block(make_starts(own, protocol(baselines=["ridge", "random", "scratch"]), {}))
    assert set(starts) == {("", "b"), ("", "c")}
    for start in starts.values():
        assert start.closed
        assert not start.fresh
        assert states_equal(dict(start.phi), {n: p.detach() for n, p in own.trained.params().items()})


def by_block(starts: list[Start]) -> dict[tuple[str, str], Start]:
    return {(s.baseline, s.block): s for s in starts}


def test_what_was_learnt_is_handed_over_but_for_new_heads() -> None:
    own = parts()
    starts = by_block(make_starts(own, protocol(), {}))
    seen, new = starts["", "b"], starts["", "c"]
    assert states_equal(seen.phi, {n: p.detach() for n, p in own.trained.params().items()})
    assert seen.handed == frozenset(own.trained.params())
    assert not seen.fresh
    assert all(torch.equal(new.phi[n], p) for n, p in own.trained.params().items())
    assert new.handed == frozenset(own.trained.params())
    assert new.fresh == {"fresh"}
    assert tuple(t.name for t in new.kept) == SEEN
    assert new.donors == SEEN


def test_without_hand_over_only_encoders_can_come_along() -> None:
    for pretrain in (False, True):
        own = parts(handover=False, pretrain=pretrain)
        for start in make_starts(own, protocol(), {}):
            encoders = {n for n in start.phi if n.startswith("encoder.")}
            assert start.handed == (encoders if pretrain else frozenset())
            assert start.fresh == {t.name for t in start.tasks}, "every head is new, as every other thing"
            assert not start.kept
            assert all((start.phi[n] == 0.5).all() for n in encoders) == pretrain


@pytest.mark.parametrize(("keep", "kept", "along"), [("frozen", SEEN, False), ("joint", SEEN, True), ("drop", (), False)])
def test_old_tasks_are_kept_as_asked(keep: str, kept: tuple[str, ...], along: bool) -> None:
    start = by_block(make_starts(parts(), protocol(keep_old=keep), {}))["", "c"]
    assert tuple(t.name for t in start.kept) == kept
    assert start.along is along
    assert tuple(t.name for t in start.labelled) == (NEW + kept if along else NEW)


def test_a_new_task_takes_the_network_of_the_task_that_is_named() -> None:
    own = parts(joint=False)
    start = by_block(make_starts(own, protocol(), {"fresh": "b"}))["", "c"]
    for name, value in start.phi.items():
        if ".fresh." in name and not name.startswith("head."):
            assert torch.equal(value, start.phi[name.replace(".fresh.", ".b.")]), name
            assert not torch.equal(value, start.phi[name.replace(".fresh.", ".a.")]) or value.numel() <= 6, name
    assert not start.kept, "networks of their own forget nothing"


def test_baselines_stand_beside_and_case_1_needs_something_to_look_at() -> None:
    starts = by_block(make_starts(parts(), protocol(baselines=["ridge", "random", "scratch"], source_domains=True), {}))
    assert set(starts) == {
        ("", "b"), ("", "c"), ("", "d"), ("ridge head", "b"), ("ridge head", "c"),
        ("random trunk + ridge", "b"), ("random trunk + ridge", "c"), ("scratch", "b"), ("scratch", "c"),
    }  # fmt: skip
    assert all(s.closed == ("ridge" in name) for (name, _), s in starts.items())
    assert ("", "c") not in by_block(make_starts(parts(), protocol(case=1, probe=False), {}))
    with pytest.raises(ConfigError, match="case"):
        make_starts(parts(handover=False), protocol(case=1), {})


def test_a_step_of_a_learned_inner_loop_does_not_reach_another_start() -> None:
    own = parts(bilevel=True)
    starts = by_block(make_starts(own, protocol(), {}))
    assert starts["", "b"].inner is not starts["", "c"].inner
    before = copy.deepcopy(starts["", "c"].phi)
    adapter().adapt(starts["", "b"], episode(SEEN), trial())
    assert states_equal(starts["", "c"].phi, before)
    assert not starts["", "b"].unchanged
    starts["", "b"].put_back()
    assert starts["", "b"].unchanged


def planted() -> tuple[Parts, Episode]:
    """The new task is what network `b` computes: its backbone's first feature, and network `a` knows nothing of it."""
    own = parts(joint=False)
    with torch.no_grad():
        for name, value in own.trained.params().items():
            if name.startswith(("encoder.a.", "fusion.a.")):
                value.zero_()

    def labelled(rows: torch.Tensor) -> Batch:
        batch = POOL.read(rows, ("a",))
        features = own.trained.head_features(own.trained.params(), batch, "b").detach()
        everyone = torch.ones(len(rows), dtype=torch.bool)
        return replace(batch, targets={"fresh": features[:, :1]}, labelled={"fresh": everyone})

    support, query = labelled(torch.arange(20)), labelled(torch.arange(20, 40))
    return own, Episode(0, (Part(support, NEW),), (Part(query, NEW),), (regression("fresh"),))


def test_the_source_whose_network_holds_the_new_task_is_found_twice() -> None:
    own, drawn = planted()
    own = replace(own, probe=ClosedForm(ridge=1e-6, classification="ridge", scale=1.0))
    evidence = evidence_of_sources(own, [drawn])
    assert evidence["fresh"]["b"] > evidence["fresh"]["a"] + 1
    zero = Reference({"fresh": kind(regression("fresh"))}, {"fresh": torch.zeros(1, 1)})
    scores = probe_sources(own, adapter(), [drawn], zero)
    assert scores["fresh"]["b"] > 0.99
    assert scores["fresh"]["a"] < 0.8, "the mean of the support is all that it can say"
