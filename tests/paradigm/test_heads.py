"""Heads of new tasks through the real model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.core.contracts import Batch, ModalityInfo, Name, Part, Signature, Task, TaskName, generator
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.fusion.base import Fusion
from m3tl_cli.head_init.base import HeadInit, Support
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.family import Family
from m3tl_cli.head_init.random import Random
from m3tl_cli.head_init.similar import Similar
from m3tl_cli.head_init.zero_out import ZeroOut
from m3tl_cli.heads.dense.fcn import FCN
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.paradigm.heads import chosen_donors, start_heads
from m3tl_cli.selftest import Point, Quadratic
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.task.base import TaskKind
from m3tl_cli.task.binary_map import BinaryMap
from m3tl_cli.task.depth import Depth
from m3tl_cli.task.multiclass import Multiclass
from m3tl_cli.task.normals import Normals
from m3tl_cli.task.regression import Regression
from m3tl_cli.task.regression_map import RegressionMap
from m3tl_cli.task.segmentation import Segmentation

SIZE, GRID, WIDTH = (8, 12), (4, 6), 6
RGB = ModalityInfo("rgb", "image", 3, GRID)
TASKS = {
    t.name: t
    for t in (
        Task("height", "regression_map", 1, True, SIZE, mean=(0.0,), std=(1.0,)),
        Task("slope", "regression_map", 1, True, SIZE, mean=(0.0,), std=(1.0,)),
        Task("depth", "depth", 1, True, SIZE, mean=(20.0,), std=(10.0,)),
        Task("normals", "normals", 3, True, SIZE),
        Task("edges", "binary_map", 1, True, SIZE),
        Task("surfaces", "segmentation", 3, True, SIZE, classes=("a", "b", "c")),
        Task("coarse", "segmentation", 3, True, (5, 7), classes=("a", "b", "c")),
        Task("count", "regression", 2, False, mean=(0.0, 0.0), std=(1.0, 1.0)),
        Task("speed", "regression", 2, False, mean=(0.0, 0.0), std=(1.0, 1.0)),
        Task("light", "multiclass", 3, False, classes=("a", "b", "c")),
    )
}
MAKE: dict[str, Any] = {
    "regression_map": lambda t: RegressionMap(task=t, loss="mse", delta=1.0),
    "depth": lambda t: Depth(task=t, loss="log_mse"),
    "normals": lambda t: Normals(task=t),
    "binary_map": lambda t: BinaryMap(task=t, pos_weight=1.0, threshold=0.5),
    "segmentation": lambda t: Segmentation(task=t, label_smoothing=0.0),
    "regression": lambda t: Regression(task=t, loss="mse", delta=1.0),
    "multiclass": lambda t: Multiclass(task=t, label_smoothing=0.0),
}
KINDS: dict[TaskName, TaskKind] = {name: MAKE[t.kind](t) for name, t in TASKS.items()}
RIDGE = ClosedForm(ridge=1e-3, classification="ridge", scale=1.0)


class Pixels(Encoder):
    """Images as they are."""

    signature = Signature("map", 3, GRID)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Only(Fusion):
    """The only modality."""

    def __init__(self, inputs: Mapping[str, Signature]) -> None:
        super().__init__()
        self.signature = inputs["rgb"]

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        return features["rgb"]


class OneLayer(Backbone):
    def __init__(self, inputs: Signature) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.Tanh())])
        self.signature = Signature("map", WIDTH, GRID)


def a_head(task: Task, inputs: Signature) -> FCN | Linear:
    if task.dense:
        return FCN(width=7, kernel=1, groups=1, task=task, inputs=inputs)
    return Linear(hidden=[9], task=task, inputs=inputs)


def a_model(*tasks: TaskName) -> MultiTaskModel:
    model = MultiTaskModel(
        encoders={"rgb": Pixels},
        fusion=Only,
        backbone=OneLayer,
        head=a_head,
        sharing=lambda num_stages: Hard(num_stages=num_stages),
        seed=0,
    )
    model.start([TASKS[t] for t in tasks])
    return model.double()


def random(*shape: int, seed: object = 0) -> Tensor:
    return torch.randn(shape, generator=generator("heads", seed, shape), dtype=torch.float64)


def a_part(tasks: Sequence[TaskName], size: int = 5, seed: int = 0) -> Part:
    """Random images and labels of every task, one sample of which has none, and some holes."""
    targets: dict[TaskName, Tensor] = {}
    holes = torch.rand(size, *SIZE, generator=generator("holes", seed)) < 0.2
    for name in tasks:
        task = TASKS[name]
        shape = (size, *(task.size or (1,)))
        if task.classes or task.kind == "binary_map":
            targets[name] = torch.randint(max(len(task.classes), 2), shape if task.dense else shape[:1], generator=generator(name, seed))
            if task.size == SIZE:
                targets[name] = targets[name].masked_fill(holes, -1)
        elif task.kind == "normals":
            targets[name] = nn.functional.normalize(random(size, 3, *SIZE, seed=name), dim=1).masked_fill(holes[:, None], float("nan"))
        elif task.dense:
            targets[name] = (random(*shape, seed=(name, seed)) + 2).exp().masked_fill(holes, float("nan"))
        else:
            targets[name] = random(size, task.num_outputs, seed=(name, seed))
    everywhere = torch.ones(size, dtype=torch.bool)
    labelled = everywhere.clone()
    labelled[1] = False
    rows = torch.arange(size)
    images = {"rgb": random(size, 3, *GRID, seed=("images", seed))}
    batch = Batch(images, {}, {"rgb": everywhere}, {}, targets, dict.fromkeys(tasks, labelled), rows, torch.zeros_like(rows))
    return Part(batch, tuple(tasks))


def given(model: MultiTaskModel, params: Mapping[Name, Tensor], task: TaskName, part: Part) -> Tensor:
    """Loss on the part."""
    output = model.outputs(params, part.batch, (task,))[task]
    return KINDS[task].loss(output, part.batch.targets[task], part.batch.labelled[task])


@pytest.mark.parametrize("name", TASKS)
def test_the_features_of_a_head_lead_to_its_output(name: TaskName) -> None:
    model, part = a_model(name), a_part([name])
    params = {n: 1.1 * p for n, p in model.params().items()} | {"inner.rate": torch.ones(1)}
    features = model.head_features(params, part.batch, name)
    head: Any = model.head[name]
    rows = features @ params[f"head.{name}.out.weight"].flatten(1).T + params[f"head.{name}.out.bias"]
    if TASKS[name].size != (5, 7):  # resized, so not to be undone exactly
        torch.testing.assert_close(head.rows(model.outputs(params, part.batch, (name,))[name]), rows)
    gradient = torch.autograd.grad(features.sum(), model.params()["backbone.shared.stages.0.0.weight"])
    assert gradient[0].any()


@pytest.mark.parametrize("name", TASKS)
def test_zeros_predict_the_prior_and_leave_everything_else_alone(name: TaskName) -> None:
    model, part = a_model(*(t for t in ("height", "light") if t != name)), a_part([name])
    model.add_task(TASKS[name])
    found = start_heads(model, model.params(), KINDS, ZeroOut(), [part], frozenset({name}))
    changed = {n for n, p in found.items() if p is not model.params()[n]}
    assert changed == {f"head.{name}.out.weight", f"head.{name}.out.bias"}
    assert {n: p.shape for n, p in found.items()} == {n: p.shape for n, p in model.params().items()}
    output = model.outputs(found, part.batch, (name,))[name]
    prior = KINDS[name].prior(part.batch.targets[name], part.batch.labelled[name]).to(output.dtype)
    torch.testing.assert_close(output, prior.reshape(1, -1, *[1] * (output.ndim - 2)).expand_as(output), rtol=0, atol=1e-6)
    assert given(model, found, name, part).isfinite()


@pytest.mark.parametrize("name", TASKS)
def test_a_closed_form_fits_the_support_better_than_the_prior(name: TaskName) -> None:
    # More features than rows: what it is given can be learned by heart.
    model, part = a_model(name), a_part([name], size=3)
    closed, zeros = (start_heads(model, model.params(), KINDS, init, [part], frozenset({name})) for init in (RIDGE, ZeroOut()))
    assert given(model, closed, name, part) < given(model, zeros, name, part)


@pytest.mark.parametrize("name", ["height", "depth", "normals", "count"])
def test_what_a_linear_layer_can_tell_is_found_exactly(name: TaskName) -> None:
    """Targets that another last layer puts out on the same features, some unknown."""
    model, part, query = a_model(name), a_part([name], 12), a_part([name], 4, seed=1)
    kind, phi = KINDS[name], model.params()
    planted = {n: random(*p.shape, seed=n) / 3 if n.startswith(f"head.{name}.out.") else p for n, p in phi.items()}
    batches = []
    for given_part in (part, query):
        truth = kind.decode(model.outputs(planted, given_part.batch, (name,))[name]).detach()
        old = given_part.batch.targets[name]
        given_part.batch.targets[name] = torch.where(old.isnan(), old, truth)  # type: ignore[index]
        batches.append(given_part)
    exact = ClosedForm(ridge=1e-10, classification="ridge", scale=1.0)
    found = start_heads(model, phi, KINDS, exact, [batches[0]], frozenset({name}))
    limit = 1e-6 if name != "normals" else 0.2  # a unit normal is no linear function of the output
    assert given(model, found, name, batches[1]) < limit < given(model, phi, name, batches[1])


@pytest.mark.parametrize("name", TASKS)
def test_gradients_reach_the_network_below_and_agree_with_finite_differences(name: TaskName) -> None:
    model, support, query = a_model(name), a_part([name], 3), a_part([name], 2, seed=1)
    weight = model.params()["backbone.shared.stages.0.0.weight"].detach().requires_grad_()

    def loss(weight: Tensor) -> Tensor:
        phi = {n: p.detach() for n, p in model.params().items()} | {"backbone.shared.stages.0.0.weight": weight}
        return given(model, start_heads(model, phi, KINDS, RIDGE, [support], frozenset({name})), name, query)

    assert torch.autograd.gradcheck(loss, weight, atol=1e-4)
    assert torch.autograd.grad(loss(weight), weight)[0].any()


def test_a_second_derivative_agrees_with_finite_differences() -> None:
    model, support, query = a_model("count"), a_part(["count"], 3), a_part(["count"], 2, seed=1)
    bias = model.params()["backbone.shared.stages.0.0.bias"].detach().requires_grad_()

    def loss(bias: Tensor) -> Tensor:
        phi = {n: p.detach() for n, p in model.params().items()} | {"backbone.shared.stages.0.0.bias": bias}
        return given(model, start_heads(model, phi, KINDS, RIDGE, [support], frozenset({"count"})), "count", query)

    assert torch.autograd.gradgradcheck(loss, bias)


def test_without_gradients_the_new_head_is_a_plain_start() -> None:
    model, part = a_model("count", "height"), a_part(["count", "height"])
    with torch.no_grad():
        found = start_heads(model, model.params(), KINDS, RIDGE, [part], frozenset({"count", "height"}))
    assert not any(p.requires_grad for n, p in found.items() if p is not model.params()[n])


def test_parts_add_up_and_those_of_others_are_not_read() -> None:
    model = a_model("count", "light")
    whole, first, second = a_part(["count"], 6), a_part(["count"], 6), a_part(["count"], 6)
    for part, kept in ((first, slice(0, 3)), (second, slice(3, 6))):
        mask = torch.zeros(6, dtype=torch.bool)
        mask[kept] = True
        part.batch.labelled["count"] = part.batch.labelled["count"] & mask  # type: ignore[index]
    other = Part(a_part(["light"]).batch, ("light",))
    one = start_heads(model, model.params(), KINDS, RIDGE, [whole], frozenset({"count"}))
    two = start_heads(model, model.params(), KINDS, RIDGE, [first, other, second], frozenset({"count"}))
    for name in ("head.count.out.weight", "head.count.out.bias"):
        torch.testing.assert_close(two[name], one[name])


@pytest.mark.parametrize("init", [Random(), ZeroOut(), RIDGE, Similar(then="closed_form", ridge=0.3, classification="ridge", scale=1.0)])
@pytest.mark.parametrize("how", ["no part", "no sample", "no pixel"])
def test_a_task_without_labels_starts_at_zero(init: HeadInit, how: str) -> None:
    model, part = a_model("height", "slope"), a_part(["height", "slope"])
    if how == "no sample":
        part.batch.labelled["height"] = torch.zeros(5, dtype=torch.bool)  # type: ignore[index]
    if how == "no pixel":
        part.batch.targets["height"] = torch.full((5, *SIZE), float("nan"))  # type: ignore[index]
    found = start_heads(model, model.params(), KINDS, init, [] if how == "no part" else [part], frozenset({"height"}))
    assert not found["head.height.out.weight"].any()
    assert not found["head.height.out.bias"].any()


def test_a_random_head_is_the_constructed_one() -> None:
    model, part = a_model("height"), a_part(["height"])
    found = start_heads(model, model.params(), KINDS, Random(), [part], frozenset({"height"}))
    assert all(torch.equal(found[n], p) for n, p in model.params().items())


def test_zero_heads_of_normals_have_a_loss_and_a_gradient() -> None:
    # A cosine of a vector of zeros would be undefined: the kind adds a prior normal.
    model, part = a_model("normals"), a_part(["normals"])
    found = start_heads(model, model.params(), KINDS, ZeroOut(), [], frozenset({"normals"}))
    weight = found["head.normals.out.weight"].requires_grad_()
    (gradient,) = torch.autograd.grad(given(model, found, "normals", part), weight)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_resized_labels_are_averaged_over_their_known_pixels() -> None:
    model, part = a_model("coarse"), a_part(["coarse"])
    whole = part.batch.targets["coarse"].clone()
    whole[:] = 2
    part.batch.targets["coarse"] = whole.masked_fill(torch.rand(whole.shape, generator=generator("rare")) < 0.5, -1)  # type: ignore[index]
    seen: list[Support] = []

    class Watch(ZeroOut):
        needs_features = True

        def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
            seen.append(support)
            return super().out(weight_OD, bias_O, support)

    start_heads(model, model.params(), KINDS, Watch(), [part], frozenset({"coarse"}))
    torch.testing.assert_close(seen[0].ideal_NO, torch.tensor([-1.0, -1.0, 1.0]).double().expand_as(seen[0].ideal_NO))
    assert seen[0].known_NO.all()
    assert len(seen[0].features_ND) <= 4 * 24


FAMILY = Family(then="zero_out", ridge=0.3, classification="ridge", scale=1.0)
SIMILAR = Similar(then="closed_form", ridge=0.1, classification="ridge", scale=1.0)


def test_a_family_is_the_same_kind_first_then_the_same_head() -> None:
    model = a_model("depth", "height", "slope", "light")
    fresh = frozenset({"slope", "light"})
    donors = chosen_donors(model, model.params(), KINDS, FAMILY, [], fresh)
    assert donors == {"slope": "height"}  # light has a head like no other here
    without = chosen_donors(model, model.params(), KINDS, FAMILY, [], fresh, ["depth", "light"])
    assert without == {"slope": "depth"}
    assert chosen_donors(model, model.params(), KINDS, ZeroOut(), [], fresh) == {}

    class Other(FCN):
        pass

    model.head["height"].__class__ = Other
    assert chosen_donors(model, model.params(), KINDS, FAMILY, [], fresh) == {"slope": "depth"}


def test_hidden_layers_of_the_donor_are_copied_and_its_last_layer_is_not() -> None:
    model, part = a_model("height", "slope"), a_part(["slope"])
    found = start_heads(model, model.params(), KINDS, FAMILY, [part], frozenset({"slope"}))
    for name, tensor in model.params().items():
        if name.startswith("head.slope.hidden."):
            donor = name.replace("slope", "height")
            assert torch.equal(found[name], model.params()[donor])
            assert found[name] is not found[donor]  # or a gradient of the one would be that of both
            (gradient,) = torch.autograd.grad(found[name].sum(), model.params()[donor])
            assert torch.equal(gradient, torch.ones_like(tensor))
    assert not found["head.slope.out.weight"].any()


def test_the_last_layer_is_solved_under_the_hidden_layers_of_the_donor() -> None:
    model, part = a_model("height", "slope"), a_part(["slope"])
    closed = Family(then="closed_form", ridge=1e-3, classification="ridge", scale=1.0)
    found = start_heads(model, model.params(), KINDS, closed, [part], frozenset({"slope"}))
    phi = model.params()
    own = {n: phi[n.replace("slope", "height")] if n.startswith("head.slope.hidden.") else p for n, p in phi.items()}
    expected = start_heads(model, own, KINDS, RIDGE, [part], frozenset({"slope"}))
    torch.testing.assert_close(found["head.slope.out.weight"], expected["head.slope.out.weight"])


@pytest.mark.parametrize("donor", ["height", "depth", "edges"])
def test_the_similar_head_is_the_one_whose_features_hold_the_answer(donor: TaskName) -> None:
    model, part = a_model("height", "depth", "edges", "slope"), a_part(["slope"], 8)
    features = model.head_features(model.params(), part.batch, donor).detach()
    planted = features @ random(7, 4, seed="planted")  # four pixels of each cell
    targets = nn.functional.pixel_shuffle(planted.reshape(8, *GRID, 4).movedim(-1, 1), 2)[:, 0]
    part.batch.targets["slope"] = targets + 0.05 * random(8, *SIZE, seed="noise")  # type: ignore[index]
    arguments = (model, model.params(), KINDS, SIMILAR, [part], frozenset({"slope"}))
    assert chosen_donors(*arguments) == {"slope": donor}
    assert torch.equal(start_heads(*arguments)["head.slope.hidden.0.weight"], model.params()[f"head.{donor}.hidden.0.weight"])


def test_without_labels_the_similar_head_is_that_of_the_family() -> None:
    model = a_model("depth", "height", "slope")
    assert chosen_donors(model, model.params(), KINDS, SIMILAR, [], frozenset({"slope"})) == {"slope": "height"}


def test_what_cannot_be_started_is_refused_in_words() -> None:
    model, part = a_model("height"), a_part(["height"])
    with pytest.raises(ConfigError, match="must be of the model; found gone"):
        start_heads(model, model.params(), KINDS, ZeroOut(), [part], frozenset({"gone"}))
    model.head["height"].out = nn.Sequential(nn.Conv2d(7, 4, 3))  # type: ignore[union-attr]
    model.refresh()
    with pytest.raises(ConfigError, match="`out` of a head must be one linear layer"):
        start_heads(model, model.params(), KINDS, ZeroOut(), [part], frozenset({"height"}))
    with pytest.raises(ConfigError, match="needs a model with heads; found Point"):
        start_heads(
            Point(["a"]),
            {"head.a.out.weight": torch.ones(1, 1)},
            {"a": Quadratic(task=Task("a", "quadratic", 1, False))},
            ZeroOut(),
            [],
            frozenset({"a"}),
        )


def test_maps_of_another_size_than_the_labels_rows_are_refused_in_words() -> None:
    model, part = a_model("height"), a_part(["height"])
    part.batch.inputs["rgb"] = random(5, 3, 5, 6)  # type: ignore[index]
    with pytest.raises(ConfigError, match="a row for each of the 120 rows of its labels; found 150"):
        start_heads(model, model.params(), KINDS, RIDGE, [part], frozenset({"height"}))


def test_autocast_ends_before_the_solve_and_the_comparison() -> None:
    seen: list[bool] = []

    class Watch(Similar):
        def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().out(weight_OD, bias_O, support)

        def misfit(self, support: Support) -> float:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().misfit(support)

    model, part = a_model("height", "depth", "slope"), a_part(["slope"])
    init = Watch(then="closed_form", ridge=0.3, classification="ridge", scale=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        start_heads(model, model.params(), KINDS, init, [part], frozenset({"slope"}))
    assert seen == [False] * 3


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("classification", ["ridge", "prototypes"])
def test_in_low_precision_the_solve_is_in_float32(name: TaskName, classification: Any) -> None:
    init = ClosedForm(ridge=0.3, classification=classification, scale=1.0)
    model, part, fresh = a_model(name).float(), a_part([name]), frozenset({name})
    part.batch.inputs["rgb"] = part.batch.inputs["rgb"].float()  # type: ignore[index]
    plain = start_heads(model, model.params(), KINDS, init, [part], fresh)
    with torch.autocast("cpu", torch.bfloat16):
        low = start_heads(model, model.params(), KINDS, init, [part], fresh)
    for found in (plain, low):
        assert {n: p.dtype for n, p in found.items()} == dict.fromkeys(model.params(), torch.float32)
        assert all(p.isfinite().all() for p in found.values())
    kept = f"head.{name}.out.weight"
    assert (low[kept] - plain[kept]).norm() < 0.2 * plain[kept].norm()  # what bfloat16 features differ by
