from __future__ import annotations

from typing import Literal

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.head_init.base import Support
from m3tl_cli.head_init.closed_form import ClosedForm
from tests.head_init._support import normal, of_classes, of_numbers, of_yes_or_no

RIDGE = ClosedForm(ridge=0.3, classification="ridge", scale=1.0)
PROTOTYPES = ClosedForm(ridge=0.3, classification="prototypes", scale=1.0)


def solved(init: ClosedForm, support: Support) -> tuple[Tensor, Tensor]:
    outputs, dim = support.ideal_NO.shape[1], support.features_ND.shape[1]
    weight, bias = init.out(normal(outputs, dim, seed="own"), normal(outputs, seed="own"), support)
    assert bias is not None
    return weight, bias


@pytest.mark.parametrize("num_rows", [4, 60])
def test_numbers_are_the_ridge_regression_of_scikit_learn(num_rows: int) -> None:
    z, y = normal(num_rows, 9) + 2, normal(num_rows, 2) + 1
    weight, bias = solved(RIDGE, of_numbers(z, y))
    alpha = 0.3 * float((z - z.mean(0)).square().sum(1).mean())
    expected = Ridge(alpha=alpha, solver="svd").fit(z.numpy(), y.numpy())
    torch.testing.assert_close(weight, torch.from_numpy(expected.coef_), rtol=0, atol=1e-10)
    torch.testing.assert_close(bias, torch.from_numpy(expected.intercept_), rtol=0, atol=1e-10)


def test_without_penalty_it_goes_through_every_point() -> None:
    z, y = normal(5, 12), normal(5, 2)
    weight, bias = solved(ClosedForm(ridge=1e-9, classification="ridge", scale=1.0), of_numbers(z, y))
    torch.testing.assert_close(z @ weight.T + bias, y, rtol=0, atol=1e-6)


def test_one_sample_is_predicted_everywhere() -> None:
    z, y = normal(1, 6), normal(1, 2)
    weight, bias = solved(RIDGE, of_numbers(z, y))
    torch.testing.assert_close(normal(4, 6, seed=1) @ weight.T + bias, y.expand(4, 2))


def test_an_output_is_solved_on_the_rows_where_it_is_known_alone() -> None:
    z, y = normal(20, 4), normal(20, 3)
    known = torch.rand(20, 3, generator=generator("known")) < 0.6
    known[:, 2] = False
    weight, bias = solved(RIDGE, of_numbers(z, torch.where(known, y, 1e6), known))
    for output in range(2):
        rows = known[:, output]
        alone = solved(RIDGE, of_numbers(z[rows], y[rows][:, [output]]))
        torch.testing.assert_close(weight[output], alone[0][0])
        torch.testing.assert_close(bias[output], alone[1][0])
    assert (weight[2] == 0).all()
    assert bias[2] == 0  # the prior of an output that nothing is known of


def test_a_layer_without_bias_is_fitted_through_the_origin() -> None:
    z, y = normal(30, 4) + 3, normal(30, 2)
    weight, bias = RIDGE.out(normal(2, 4), None, of_numbers(z, y))
    expected = Ridge(alpha=0.3 * float(z.square().sum(1).mean()), fit_intercept=False, solver="svd").fit(z.numpy(), y.numpy())
    assert bias is None
    torch.testing.assert_close(weight, torch.from_numpy(expected.coef_), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_logits_of_classes_are_half_as_many_times_the_score_as_there_are_classes(scale: float) -> None:
    z, classes = normal(15, 4), torch.arange(15) % 3
    support = of_classes(z, classes[:, None], 3)
    scores = solved(RIDGE, of_numbers(z, support.ideal_NO))
    found = solved(ClosedForm(ridge=0.3, classification="ridge", scale=scale), support)
    torch.testing.assert_close(found[0], 1.5 * scale * scores[0])
    torch.testing.assert_close(found[1], 1.5 * scale * scores[1])


def test_two_classes_and_yes_or_no_have_the_same_probabilities() -> None:
    z, yes = normal(15, 4), normal(15) > 0.4
    (of_two, bias_two), (of_one, bias_one) = solved(RIDGE, of_classes(z, yes.long()[:, None], 2)), solved(RIDGE, of_yes_or_no(z, yes))
    query = normal(5, 4, seed=1)
    torch.testing.assert_close((query @ of_two.T + bias_two).softmax(1)[:, 1], (query @ of_one.T + bias_one).sigmoid()[:, 0])


def test_logits_estimate_the_probability_near_even_odds() -> None:
    # A feature of +-1 that says yes with .55 and .45: the ridge on +-1 finds +-.1, and sigmoid(.2) is .5498.
    z = torch.tensor([1.0] * 100 + [-1.0] * 100, dtype=torch.float64)[:, None]
    yes = torch.arange(200) % 100 < torch.tensor([55] * 100 + [45] * 100)
    weight, bias = solved(ClosedForm(ridge=1e-9, classification="ridge", scale=1.0), of_yes_or_no(z, yes))
    torch.testing.assert_close((z @ weight.T + bias).sigmoid()[[0, 100], 0], torch.tensor([0.55, 0.45]).double(), rtol=0, atol=2e-4)


def test_the_scale_is_near_the_best_one() -> None:
    """Cross-entropy on new rows of overlapping classes: the first-order scale against the best of a fine grid."""
    centres = 1.2 * normal(5, 24, seed="centres") / 24**0.5 * 3
    classes = torch.arange(2100) % 5
    z = F.relu(centres[classes] + normal(2100, 24, seed="noise"))
    weight, bias = solved(RIDGE, of_classes(z[:100], classes[:100, None], 5))
    logits = z[100:] @ weight.T + bias
    losses = torch.stack([F.cross_entropy(factor * logits, classes[100:]) for factor in torch.logspace(-1, 1, 60).double()])
    own = F.cross_entropy(logits, classes[100:])
    assert own < losses.min() + 0.1 < torch.log(torch.tensor(5.0)) - 0.3


def test_prototype_logits_are_minus_squared_distances_up_to_a_constant_of_the_row() -> None:
    z, classes = normal(14, 6) + 1, torch.arange(14) % 4
    weight, bias = solved(PROTOTYPES, of_classes(z, classes[:, None], 4))
    prototypes = torch.stack([z[classes == c].mean(0) for c in range(4)])
    torch.testing.assert_close(weight, 2 * prototypes)
    torch.testing.assert_close(bias, -prototypes.square().sum(1))
    query = normal(9, 6, seed=1)
    distances = (query[:, None] - prototypes).square().sum(2)
    torch.testing.assert_close(query @ weight.T + bias - query.square().sum(1, keepdim=True), -distances)


def test_every_pixel_of_a_cell_has_its_own_prototypes_in_the_order_of_a_pixel_shuffle() -> None:
    z = normal(12, 3)
    classes = torch.stack([torch.arange(12) % 3, (torch.arange(12) // 2) % 3], 1)
    classes[0, 1] = -1
    weight, bias = solved(PROTOTYPES, of_classes(z, classes, 3))
    for pixel in range(2):
        rows = classes[:, pixel] >= 0
        alone = solved(PROTOTYPES, of_classes(z[rows], classes[rows][:, [pixel]], 3))
        torch.testing.assert_close(weight.unflatten(0, (3, 2))[:, pixel], alone[0])
        torch.testing.assert_close(bias.unflatten(0, (3, 2))[:, pixel], alone[1])


def test_yes_or_no_by_prototypes_is_the_difference_of_the_squared_distances() -> None:
    z, yes = normal(10, 4), torch.arange(10) < 3
    weight, bias = solved(PROTOTYPES, of_yes_or_no(z, yes))
    query = normal(6, 4, seed=1)
    far_no, far_yes = ((query - z[rows].mean(0)).square().sum(1) for rows in (~yes, yes))
    torch.testing.assert_close((query @ weight.T + bias)[:, 0], far_no - far_yes)


@pytest.mark.parametrize("init", [RIDGE, PROTOTYPES], ids=["ridge", "prototypes"])
def test_a_class_without_a_sample_is_never_predicted(init: ClosedForm) -> None:
    z, classes = normal(10, 4), torch.tensor([0, 2] * 5)
    weight, bias = solved(init, of_classes(z, classes[:, None], 4))
    logits = 5 * normal(200, 4, seed=1) @ weight.T + bias
    if init is PROTOTYPES:
        torch.testing.assert_close(logits[:, 1], logits[:, [0, 2]].mean(1))
    assert set((z @ weight.T + bias).argmax(1).tolist()) <= {0, 2}
    assert logits.isfinite().all()


def test_prototypes_of_nothing_and_of_one_side_alone_are_the_prior() -> None:
    only = of_yes_or_no(normal(4, 3), torch.ones(4, dtype=torch.bool))
    weight, bias = solved(PROTOTYPES, only)
    assert not weight.any()
    torch.testing.assert_close(bias, torch.tensor([5.0]).double().log())
    classes = torch.tensor([[0, -1], [1, -1]])
    support = of_classes(normal(2, 3), classes, 2)
    weight, bias = solved(PROTOTYPES, support)
    assert not weight.unflatten(0, (2, 2))[:, 1].any()
    torch.testing.assert_close(bias.unflatten(0, (2, 2))[:, 1], support.prior_O.unflatten(0, (2, 2))[:, 1])


def test_a_support_that_lost_all_rows_gives_the_prior() -> None:
    support = of_numbers(normal(3, 4), normal(3, 2))
    empty = Support(support.prior_O, support.features_ND[:0], support.ideal_NO[:0], support.known_NO[:0], "identity", 2)
    weight, bias = solved(RIDGE, empty)
    assert not weight.any()
    torch.testing.assert_close(bias, support.prior_O)


@pytest.mark.parametrize("what", ["numbers", "classes", "yes or no"])
@pytest.mark.parametrize("classification", ["ridge", "prototypes"])
def test_derivatives_in_the_features_agree_with_finite_differences_twice(what: str, classification: Literal["ridge", "prototypes"]) -> None:
    init = ClosedForm(ridge=0.3, classification=classification, scale=1.3)

    def solve(z: Tensor) -> tuple[Tensor, Tensor]:
        if what == "numbers":
            known = torch.ones(6, 2, dtype=torch.bool)
            known[0, 1] = False
            return solved(init, of_numbers(z, normal(6, 2, seed="y"), known))
        if what == "classes":
            return solved(init, of_classes(z, (torch.arange(6) % 2)[:, None], 3))
        return solved(init, of_yes_or_no(z, torch.arange(6) < 2))

    z = normal(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(solve, z)
    assert torch.autograd.gradgradcheck(solve, z)


def test_prototypes_need_a_bias() -> None:
    with pytest.raises(ConfigError, match="must be ridge for a head whose last layer has no bias"):
        PROTOTYPES.out(normal(2, 3), None, of_classes(normal(4, 3), (torch.arange(4) % 2)[:, None], 2))


def test_numbers_are_a_ridge_even_where_classes_are_prototypes() -> None:
    support = of_numbers(normal(9, 3), normal(9, 2))
    for one, other in zip(solved(PROTOTYPES, support), solved(RIDGE, support), strict=True):
        assert torch.equal(one, other)
