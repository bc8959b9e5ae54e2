"""What every task kind owes to the contract."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Task, generator
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import TaskKind
from m3tl_cli.task.binary import Binary
from m3tl_cli.task.multiclass import Multiclass
from tests.task.cases import NAMES, Case, make

ONE_OF_EACH = ("multiclass", "segmentation", "normals", "regression_huber", "depth_log_l1", "binary", "binary_map", "regression_map_huber")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


@pytest.fixture(params=ONE_OF_EACH)
def kind_case(request: pytest.FixtureRequest) -> Case:
    return make(request.param, num_samples=40)


def gradient(case: Case, labelled: Tensor) -> tuple[Tensor, Tensor]:
    output = case.output.clone().requires_grad_()
    loss = case.kind.loss(output, case.target, labelled)
    (found,) = torch.autograd.grad(loss, output)
    return loss.detach(), found


def test_masked_loss_is_the_loss_of_the_labelled_subset(case: Case) -> None:
    keep = case.labelled
    subset = case.kind.loss(case.output[keep], case.target[keep], torch.ones(int(keep.sum()), dtype=torch.bool))
    assert 0 < int(keep.sum()) < len(keep)
    assert case.kind.loss(case.output, case.target, keep).item() == pytest.approx(subset.item(), rel=1e-14)


def test_a_sample_without_label_gets_a_gradient_of_exactly_zero(case: Case) -> None:
    _, found = gradient(case, case.labelled)
    assert torch.isfinite(found).all()
    assert (found[~case.labelled] == 0).all()
    assert (found[0] != 0).any()


def test_nothing_labelled_gives_exactly_zero_with_exactly_zero_gradient(case: Case) -> None:
    loss, found = gradient(case, torch.zeros_like(case.labelled))
    assert loss.item() == 0
    assert torch.equal(found, torch.zeros_like(found))


def test_an_output_that_is_not_finite_does_no_harm_where_nothing_is_labelled(case: Case) -> None:
    broken = replace(case, output=case.output.clone())
    broken.output[1] = float("nan")
    loss, found = gradient(broken, case.labelled)
    assert loss == gradient(case, case.labelled)[0]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_an_output_of_low_precision_is_float32(case: Case, dtype: torch.dtype) -> None:
    output = case.output.to(dtype)
    target = case.target.float() if case.target.is_floating_point() else case.target
    loss = case.kind.loss(output, target, case.labelled)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(case.kind.loss(output.double(), case.target, case.labelled).item(), rel=1e-5)


def test_first_and_second_derivatives_agree_with_finite_differences(case: Case) -> None:
    def loss(output: Tensor) -> Tensor:
        return case.kind.loss(output, case.target[:3], case.labelled[:3])

    output = case.output[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, output)
    assert torch.autograd.gradgradcheck(loss, output)


def test_the_loss_and_its_gradient_run_under_vmap(case: Case) -> None:
    outputs = torch.stack([case.output, 2 * case.output])
    loss = torch.func.grad_and_value(lambda output, labelled: case.kind.loss(output, case.target, labelled))
    masks = torch.stack([case.labelled, torch.zeros_like(case.labelled)])
    gradients, losses = torch.func.vmap(loss)(outputs, masks)
    for row in range(2):
        expected, value = loss(outputs[row], masks[row])
        torch.testing.assert_close(gradients[row], expected)
        torch.testing.assert_close(losses[row], value)


def test_every_metric_is_measured(kind_case: Case) -> None:
    meter = kind_case.kind.meter()
    meter.update(kind_case.output, kind_case.target, kind_case.labelled)
    values = meter.compute()
    assert list(values) == list(kind_case.kind.metrics)
    assert kind_case.kind.primary == next(iter(values))
    assert all(math.isfinite(value) and isinstance(value, float) for value in values.values())


def test_metrics_are_nan_where_nothing_was_labelled(kind_case: Case) -> None:
    meter = kind_case.kind.meter()
    meter.update(kind_case.output, kind_case.target, torch.zeros_like(kind_case.labelled))
    assert all(math.isnan(value) for value in meter.compute().values())
    assert all(math.isnan(value) for value in kind_case.kind.meter().compute().values())


def test_batches_add_up_and_a_meter_goes_on_after_compute(kind_case: Case) -> None:
    together, apart = kind_case.kind.meter(), kind_case.kind.meter()
    together.update(kind_case.output, kind_case.target, kind_case.labelled)
    for rows in (slice(0, 1), slice(1, 2), slice(2, 17), slice(17, 40)):
        apart.update(kind_case.output[rows], kind_case.target[rows], kind_case.labelled[rows])
        apart.compute()
    assert apart.compute() == pytest.approx(together.compute(), rel=1e-5)


def test_an_unlabelled_sample_does_not_count(kind_case: Case) -> None:
    keep = kind_case.labelled
    masked, subset = kind_case.kind.meter(), kind_case.kind.meter()
    masked.update(kind_case.output, kind_case.target, keep)
    subset.update(kind_case.output[keep], kind_case.target[keep], keep[keep])
    assert masked.compute() == pytest.approx(subset.compute(), rel=1e-6)


def test_a_constant_output_counts_for_every_sample(kind_case: Case) -> None:
    one, many = kind_case.kind.meter(), kind_case.kind.meter()
    constant = kind_case.output[:1]
    one.update(constant, kind_case.target, kind_case.labelled)
    many.update(constant.expand_as(kind_case.output).contiguous(), kind_case.target, kind_case.labelled)
    assert one.compute() == many.compute()


def test_meters_take_bfloat16_and_keep_no_graph(kind_case: Case) -> None:
    output = kind_case.output.bfloat16().requires_grad_()
    target = kind_case.target.float() if kind_case.target.is_floating_point() else kind_case.target
    low, high = kind_case.kind.meter(), kind_case.kind.meter()
    low.update(output, target, kind_case.labelled)
    high.update(output.detach().double(), kind_case.target, kind_case.labelled)
    assert low.compute() == pytest.approx(high.compute(), rel=1e-4, abs=0.006)


def test_the_trivial_predictor_is_the_best_of_random_constants(kind_case: Case) -> None:
    trivial = kind_case.kind.trivial(kind_case.target, kind_case.labelled)
    assert trivial.shape == (1, *kind_case.output.shape[1:])
    info = kind_case.kind.metrics[kind_case.constant]

    def score(constant: Tensor) -> float:
        meter = kind_case.kind.meter()
        meter.update(constant, kind_case.target, kind_case.labelled)
        return meter.compute()[kind_case.constant] * (1 if info.direction == "higher" else -1)

    best = score(trivial)
    random = generator("constants")
    for attempt in range(60):
        noise = torch.randn(trivial.shape, generator=random, dtype=torch.float64)
        other = noise if attempt % 3 == 0 else trivial + noise * (0.3, 0.01)[attempt % 3 - 1]
        assert score(other) <= best + 1e-4 * abs(best)
    rows = kind_case.labelled.nonzero()[:5, 0]
    mean = kind_case.output[rows].mean(0, keepdim=True)
    assert score(mean) <= best


def test_the_trivial_predictor_ignores_what_is_not_labelled(kind_case: Case) -> None:
    keep = kind_case.labelled
    found = kind_case.kind.trivial(kind_case.target, keep)
    torch.testing.assert_close(found, kind_case.kind.trivial(kind_case.target[keep], keep[keep]))


def test_the_trivial_predictor_is_finite_where_nothing_is_labelled(kind_case: Case) -> None:
    found = kind_case.kind.trivial(kind_case.target, torch.zeros_like(kind_case.labelled))
    assert torch.isfinite(found).all()
    assert found.shape == (1, *kind_case.output.shape[1:])


def test_predictions_and_targets_can_be_drawn(kind_case: Case) -> None:
    for shown in (kind_case.kind.decode(kind_case.output)[0], kind_case.target[0]):
        drawn = kind_case.kind.draw(shown)
        if kind_case.kind.task.dense:
            assert not isinstance(drawn, str)
            assert drawn.shape == (*kind_case.kind.task.size, 3)
            assert drawn.dtype.name == "uint8"
        else:
            assert isinstance(drawn, str)


def test_the_ideal_output_is_known_where_the_loss_reads(kind_case: Case) -> None:
    ideal, known = kind_case.kind.ideal_output(kind_case.target, kind_case.labelled)
    assert ideal.shape == known.shape == kind_case.output.shape
    output = kind_case.output.clone().requires_grad_()
    (read,) = torch.autograd.grad(kind_case.kind.loss(output, kind_case.target, kind_case.labelled), output)
    assert torch.equal(known.any(1), (read != 0).any(1))
    assert (ideal[~known] == 0).all()
    assert ideal.isfinite().all()


def test_the_ideal_output_is_decoded_to_the_target(kind_case: Case) -> None:
    kind = kind_case.kind
    ideal, known = kind.ideal_output(kind_case.target, kind_case.labelled)
    decoded = kind.decode(ideal)
    target, there = kind_case.target, known if decoded.ndim == ideal.ndim else known[:, 0]
    if kind.activation == "sigmoid":
        assert torch.equal(decoded[there] > 0.5, target[there] > 0)
    elif kind.activation == "softmax":
        assert torch.equal(decoded[there], target[there])
        assert set(ideal[known].tolist()) == {-1.0, 1.0}
    else:
        torch.testing.assert_close(decoded[there], target[there].to(decoded.dtype), rtol=1e-6, atol=1e-6)


def test_the_prior_is_the_best_constant_for_the_loss_it_is_made_for(kind_case: Case) -> None:
    """Squared error of numbers, 1 - cosine of normals, cross-entropy of classes but for the one more that is counted."""
    kind, (ideal, known) = kind_case.kind, kind_case.kind.ideal_output(kind_case.target, kind_case.labelled)

    def badness(constant: Tensor) -> float:
        output = constant.to(ideal.dtype).reshape(1, -1, *[1] * (ideal.ndim - 2)).expand_as(ideal)
        if kind.task.kind == "normals" or kind.activation == "softmax":
            return float(kind.loss(output, kind_case.target, kind_case.labelled))
        if kind.activation == "sigmoid":
            return float(torch.nn.functional.softplus(-ideal * output)[known].mean())
        return float((output - ideal)[known].square().mean())

    prior = kind.prior(kind_case.target, kind_case.labelled)
    assert prior.shape == (kind.task.num_outputs,)
    best, random = badness(prior), generator("priors")
    for attempt in range(40):
        other = prior + torch.randn(prior.shape, generator=random, dtype=torch.float64) * (1.0, 0.1)[attempt % 2]
        assert badness(other) > best - 2e-3


def test_the_prior_ignores_what_is_not_labelled_and_is_finite_without_labels(kind_case: Case) -> None:
    keep = kind_case.labelled
    found = kind_case.kind.prior(kind_case.target, keep)
    torch.testing.assert_close(found, kind_case.kind.prior(kind_case.target[keep], keep[keep]))
    nothing = kind_case.kind.prior(kind_case.target, torch.zeros_like(keep))
    assert nothing.isfinite().all()
    assert torch.equal(nothing, nothing[:1].expand_as(nothing))


def test_statistics_of_a_support_make_its_ideal_output_standard(kind_case: Case) -> None:
    kind = kind_case.kind
    known = kind.standardised(kind_case.target, kind_case.labelled)
    assert replace(known, mean=(), std=()) == replace(kind.task, mean=(), std=())
    if not kind.task.mean:
        assert known == kind.task
        return
    kind.task = known
    ideal, there = (x.movedim(1, 0).flatten(1) for x in kind.ideal_output(kind_case.target, kind_case.labelled))
    if known.kind != "depth":  # mean and deviation are those of metres, the output is a logarithm
        for values, mask in zip(ideal, there, strict=True):
            assert values[mask].mean().item() == pytest.approx(0, abs=1e-6)
            assert values[mask].std(correction=0).item() == pytest.approx(1, rel=1e-6)
    else:
        values = kind_case.target[there.reshape(kind_case.target.shape)]
        assert known.mean[0] == pytest.approx(values.mean().item())
        assert known.std[0] == pytest.approx(values.std(correction=0).item())


def test_a_kind_without_an_ideal_output_says_so() -> None:
    case = make("normals")

    class Other(type(case.kind)):  # type: ignore[misc]
        ideal_output = TaskKind.ideal_output

    with pytest.raises(ConfigError, match="must have an ideal output; found Other"):
        Other(task=case.kind.task).prior(case.target, case.labelled)


def test_classes_are_combined_by_their_probabilities() -> None:
    """By hand: (.8, .2) and (.2, .8) give (.5, .5); (.9, .1) and (.6, .4) give (.75, .25), where logits would give .786."""
    kind = Multiclass(task=Task("t", "multiclass", 2, False, classes=("a", "b")), label_smoothing=0.0)
    one, two = (torch.tensor(p, dtype=torch.float64).log() + 3 for p in ([[0.8, 0.2], [0.9, 0.1]], [[0.2, 0.8], [0.6, 0.4]]))
    assert torch.allclose(kind.combine([one, two]).exp(), torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64), atol=1e-15)


def test_yes_or_no_is_combined_by_its_probability() -> None:
    kind = Binary(task=Task("t", "binary", 1, False), pos_weight=1.0)
    one, two, three = (torch.logit(torch.tensor([[p]], dtype=torch.float64)) for p in (0.9, 0.6, 0.3))
    assert kind.combine([one, two, three]).sigmoid().item() == pytest.approx(0.6, abs=1e-15)
    far = torch.tensor([[-800.0]], dtype=torch.float64)
    assert kind.combine([far, far]).item() == pytest.approx(-800.0), "no logit is too far for a mean"


def test_values_are_combined_by_their_mean_in_the_targets_unit() -> None:
    case = make("regression_mse")
    one, two = case.output, case.output.flip(0)
    assert torch.allclose(case.kind.decode(case.kind.combine([one, two])), (case.kind.decode(one) + case.kind.decode(two)) / 2)


def test_normals_are_combined_as_directions() -> None:
    """By hand: up and right, whatever lengths the outputs have, give the direction between them."""
    kind = make("normals").kind
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    right = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    found = kind.decode(kind.combine([4 * up - up, 0.5 * right - up])).flatten()
    assert torch.allclose(found, torch.tensor([0.5**0.5, -(0.5**0.5), 0.0], dtype=torch.float64), atol=1e-9)


def test_networks_that_agree_are_combined_to_what_each_says(case: Case) -> None:
    combined = case.kind.combine([case.output, case.output, case.output])
    assert combined.shape == case.output.shape
    assert torch.allclose(case.kind.decode(combined).double(), case.kind.decode(case.output).double(), atol=1e-6)


def test_the_order_of_networks_does_not_matter(case: Case) -> None:
    outputs = [case.output, case.output.flip(0), -case.output]
    assert torch.allclose(case.kind.combine(outputs), case.kind.combine(outputs[::-1]), atol=1e-12)
