from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.handover.fine_tune import FineTune
from m3tl_cli.transfer.handover.levels import levels
from tests.transfer.networks import a_model, changed, fresh_heads, state, train

PLAIN = FineTune(decay=1.0, unfreeze_every=None, l2_sp=0.0)


def test_plain_fine_tuning_trains_everything_at_one_rate() -> None:
    model = a_model()
    assert PLAIN.prepare(model, set(model.params()), 0) == frozenset()
    assert PLAIN.trainable(model.params(), frozenset(), 0, 10) == set(model.params())
    assert set(PLAIN.rates(model.params(), frozenset()).values()) == {1.0}
    assert PLAIN.penalty(model.params(), {n: p.detach() + 1 for n, p in model.params().items()}) is None


def test_rates_fall_by_a_factor_a_level() -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    rates = FineTune(decay=0.5, unfreeze_every=None, l2_sp=0.0).rates(model.params(), fresh)
    assert rates["head.count.out.weight"] == 1.0
    assert rates["backbone.shared.stages.1.0.layers.0.weight"] == 0.5
    assert rates["backbone.shared.stages.0.0.layers.0.weight"] == 0.25
    assert rates["fusion.shared.merge.weight"] == 0.125
    assert rates["encoder.shared.rgb.layers.0.weight"] == 0.5**6


def test_levels_are_unfrozen_one_after_another_and_all_get_their_turn() -> None:
    # The reference code of multi-task meta-learning had `if epoch >= N / elif >= 2N / elif >= 3N`: only the first was ever reached.
    model = a_model()
    fresh = fresh_heads(model, "count")
    option, depth = FineTune(decay=1.0, unfreeze_every=0.1, l2_sp=0.0), levels(model.params(), fresh)
    sets = [option.trainable(model.params(), fresh, step, 100) for step in range(100)]
    assert all(a <= b for a, b in pairwise(sets))
    for step, free in enumerate(sets):
        assert free == {n for n, level in depth.items() if level <= step // 10}
    assert sets[-1] == set(model.params())
    assert len({len(s) for s in sets}) == max(depth.values()) + 1


def test_a_level_that_waits_does_not_move() -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    before = state(model)
    train(model, FineTune(decay=1.0, unfreeze_every=0.15, l2_sp=0.0), fresh, steps=20)
    assert {n.split(".")[0] for n in changed(before, model)} == {"head", "backbone", "fusion", "encoder"}
    model = a_model()

    class Early(FineTune):
        def trainable(self, params: Mapping[str, Tensor], fresh: frozenset[str], step: int, steps: int) -> frozenset[str]:
            return super().trainable(params, fresh, min(step, 6), steps)

    train(model, Early(decay=1.0, unfreeze_every=0.15, l2_sp=0.0), fresh, steps=20)  # step 6 of 20: levels 0, 1 and 2
    assert {n.split(".")[0] for n in changed(before, model)} == {"head", "backbone"}


def test_a_schedule_that_leaves_levels_frozen_is_refused() -> None:
    model = a_model()
    with pytest.raises(ConfigError, match=r"all 6 levels get their turn in 100 steps; found 0.2, which unfreezes the last at step 120"):
        FineTune(decay=1.0, unfreeze_every=0.2, l2_sp=0.0).trainable(model.params(), frozenset(), 0, 100)
    assert FineTune(decay=1.0, unfreeze_every=0.2, l2_sp=0.0).trainable(model.params(), frozenset(), 0, 0) == set(model.params())


def test_the_gradient_of_l2_sp_is_the_distance_times_its_strength() -> None:
    w, head = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)
    params = {"fusion.shared.w": w, "head.a.out.weight": head}
    start = {"fusion.shared.w": torch.tensor([0.5, 1.0]).double(), "head.a.out.weight": torch.zeros(2).double(), "gone": torch.zeros(1)}
    penalty = FineTune(decay=1.0, unfreeze_every=None, l2_sp=0.4).penalty(params, start)
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.2 * (0.25 + 9.0))
    found = torch.autograd.grad(penalty, [w, head], allow_unused=True)
    assert found[0] is not None
    assert found[0].tolist() == pytest.approx([0.4 * 0.5, 0.4 * -3.0])
    assert found[1] is None, "heads are not pulled"


def test_nothing_handed_over_is_no_penalty() -> None:
    option = FineTune(decay=1.0, unfreeze_every=None, l2_sp=0.4)
    assert option.penalty({"head.a.out.weight": torch.ones(1)}, {"head.a.out.weight": torch.zeros(1)}) is None
    assert option.penalty({"fusion.shared.w": torch.ones(1)}, {}) is None


def test_a_spring_keeps_the_network_near_its_start() -> None:
    def distance(l2_sp: float) -> float:
        model = a_model()
        before = state(model)
        train(model, FineTune(decay=1.0, unfreeze_every=None, l2_sp=l2_sp), fresh_heads(model, "count"), steps=30, lr=0.02)
        return sum(float((v - before[n]).square().sum()) for n, v in state(model).items() if not n.startswith("head."))

    assert distance(5.0) < 0.2 * distance(0.0)
