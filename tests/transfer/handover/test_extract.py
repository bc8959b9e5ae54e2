from __future__ import annotations

import torch

from m3tl_cli.transfer.handover.extract import Extract
from tests.transfer.networks import a_batch, a_model, changed, fresh_heads, outputs, state, train


def test_everything_below_the_heads_is_frozen() -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    expected = frozenset(n for n in model.params() if n.startswith("head."))
    assert Extract().trainable(model.params(), fresh, 5, 10) == expected


def test_pretrained_encoders_stay_and_the_fresh_rest_learns() -> None:
    model = a_model(normed=True)
    fresh = frozenset(n for n in model.params() if not n.startswith("encoder."))
    before = state(model)
    Extract().prepare(model, set(model.params()) - fresh, 0)
    train(model, Extract(), fresh)
    assert {n.split(".")[0] for n in changed(before, model)} == {"fusion", "backbone", "head"}


def test_features_of_a_sample_are_always_the_same() -> None:
    model = a_model(normed=True)
    model.train()
    encoder = model.get_submodule("encoder.shared.rgb")
    x = a_batch().inputs["rgb"]
    assert not torch.equal(encoder(x), encoder(x)), "dropout is on"
    Extract().prepare(model, {n for n in model.params() if n.startswith("encoder.")}, 0)
    model.train()
    encoder(x)
    model.train()
    assert torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder(x)[:2], encoder(x[:2])), "no statistics of the batch"


def test_an_encoder_that_is_partly_new_is_frozen_but_for_that() -> None:
    model = a_model(normed=True)
    fresh = frozenset(n for n in model.params() if not n.startswith("encoder.") or ".layers.0." in n)
    before = state(model)
    Extract().prepare(model, set(model.params()) - fresh, 0)
    train(model, Extract(), fresh)
    moved = {n for n in changed(before, model) if n.startswith("encoder.")}
    assert moved == {n for n in fresh if n.startswith("encoder.")}
    assert outputs(model, a_batch())["count"].isfinite().all()
