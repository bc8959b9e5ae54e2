from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from m3tl_cli.core.contracts import ModalityInfo
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.encoder.image.timm import Timm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, timm's default
VIT = {"model": "vit_tiny_patch16_224", "options": {"depth": 3, "embed_dim": 32, "num_heads": 2}}
SMOOTH = {"options": {"act_layer": "silu"}}  # no kinks: a residual branch starts at 0, where ReLU has one


def encoder(size: tuple[int, int] = (64, 64), channels: int = 3, **changed: Any) -> Timm:
    given: dict[str, Any] = {
        "model": "resnet18", "output": "map", "stage": -3, "width": None, "weights": None, "input_size": None,
        "mean": "model", "std": "model", "norm": "group", "groups": 32, "options": {},
    }  # fmt: skip
    return Timm(**(given | changed), modality=ModalityInfo("rgb", "image", channels, size))


def tensors(net: Timm) -> dict[str, Tensor]:
    return {n: v.detach().clone() for n, v in net.net.state_dict().items()}


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("output", ["map", "vector"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (33, 50)])
@pytest.mark.parametrize("model", ["resnet18", "mobilenetv2_100", "convnext_atto", VIT["model"], "regnety_002", "mixer_s32_224"])
def test_the_signature_is_the_shape_and_every_parameter_is_read(model: str, size: tuple[int, int], output: str) -> None:
    net = encoder(size, model=model, output=output, options=VIT["options"] if model == VIT["model"] else {})
    out = net(torch.rand(2, 3, *size))
    assert net.signature.kind == output
    assert out.shape == (2, net.signature.dim, *(net.signature.grid if output == "map" else ()))
    out.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("stage", "dim", "grid"), [(-5, 64, 32), (1, 64, 16), (-3, 128, 8), (3, 256, 4), (-1, 512, 2)])
def test_the_stages_of_a_resnet_halve_the_grid(stage: int, dim: int, grid: int) -> None:
    signature = encoder(stage=stage).signature
    assert (signature.dim, signature.grid) == (dim, (grid, grid))


def test_what_lies_behind_the_stage_is_left_out() -> None:
    names = tensors(encoder(stage=-3))
    assert any(n.startswith("layer2") for n in names)
    assert not any(n.startswith(("layer3", "layer4", "fc")) for n in names)


@pytest.mark.parametrize("output", ["map", "vector"])
def test_a_projection_brings_the_features_to_a_width(output: str) -> None:
    net = encoder(output=output, width=24)
    assert net.signature.dim == 24
    assert net(torch.rand(2, 3, 64, 64)).shape[1] == 24


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    x = torch.rand(2, 3, 64, 64)
    outs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outs.append(encoder(width=8)(x))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("model", ["resnet18", "mobilenetv2_100"])
def test_maps_are_those_of_timm_on_the_image_normalised_once(model: str) -> None:
    net = encoder(model=model, norm="model")
    reference = timm.create_model(model, features_only=True, out_indices=(2,)).eval()
    # The list of timm keeps layers behind the stage of some models.
    assert reference.load_state_dict(net.net.state_dict(), strict=False).unexpected_keys == []
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net(x), reference(normalised(x))[0])


@pytest.mark.parametrize("model", ["resnet18", "mobilenetv2_100", "vit_tiny_patch16_224", "convnext_atto"])
def test_vectors_are_those_of_timm_on_the_image_normalised_once(model: str) -> None:
    mean, std = [0.5], [0.25, 0.5, 1.0]
    net = encoder(model=model, output="vector", norm="model", mean=mean, std=std)
    reference = timm.create_model(model, num_classes=0, **({"img_size": 64} if model.startswith("vit") else {})).eval()
    reference.load_state_dict(net.net.state_dict())
    x = torch.rand(2, 3, 64, 64)
    there = reference.forward_head(reference.forward_features((x - 0.5) * torch.tensor([4.0, 2.0, 1.0]).view(3, 1, 1)))
    torch.testing.assert_close(net(x), there)


def test_group_norm_is_that_of_timm() -> None:
    net = encoder(output="vector")
    reference = timm.create_model("resnet18", num_classes=0, norm_layer=timm.layers.GroupNorm)
    reference.load_state_dict(net.net.state_dict())
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net(x), reference(normalised(x)))


def test_group_norm_takes_over_weight_and_activation() -> None:
    torch.manual_seed(5)
    mine = encoder(model="mobilenetv2_100", output="vector", groups=8).net
    torch.manual_seed(5)
    before = timm.create_model("mobilenetv2_100", num_classes=0)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in mine.modules())
    for (name, ours), (_, theirs) in zip(mine.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(mine.bn1(x), F.relu6(F.group_norm(x, 8)))
    assert mine.blocks[1][0].bn3.num_groups == 8  # 24 channels


def test_images_are_resized_by_their_shorter_side() -> None:
    net = encoder((32, 48), input_size=64)
    assert net.signature.grid == (8, 12)
    x = torch.rand(2, 3, 32, 48)
    large = encoder((64, 96))
    large.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), large(F.interpolate(x, (64, 96), mode="bilinear")))


def test_a_constant_image_stays_constant_when_made_smaller() -> None:
    net = encoder((100, 100), input_size=32)
    small = encoder((32, 32))
    small.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(torch.full((1, 3, 100, 100), 0.3)), small(torch.full((1, 3, 32, 32), 0.3)))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_image_of_other_colours_has_the_average_mean(channels: int) -> None:
    net = encoder(channels=channels)
    assert net(torch.rand(2, channels, 64, 64)).shape == (2, 128, 8, 8)
    torch.testing.assert_close(net.mean.flatten(), torch.tensor([sum(MEAN) / 3]))


@pytest.mark.parametrize("norm", ["model", "group"])
def test_samples_do_not_see_each_other_while_training(norm: str) -> None:
    net = encoder(norm=norm).double().train()
    x = torch.rand(4, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-9, atol=1e-9)


def test_training_leaves_the_statistics_of_batch_norm_as_they_were() -> None:
    parent = nn.ModuleList([encoder(norm="model", options={"drop_path_rate": 0.5})])
    net = parent[0]
    before = {n: b.clone() for n, b in net.named_buffers()}
    start = net.net.bn1.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        parent.train()
        net(torch.rand(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    assert net.training
    assert net.net.layer1.training
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert any("running_var" in n for n in before)
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())
    assert not torch.equal(net.net.bn1.weight, start)


@pytest.mark.parametrize(
    "changed",
    [{"stage": 1, **SMOOTH}, {"stage": 1, "norm": "model", **SMOOTH}, {"output": "vector", **VIT}],
    ids=["group", "batch", "attention"],
)
def test_second_derivatives_agree_with_finite_differences(changed: dict[str, Any]) -> None:
    net = encoder((32, 32), **changed).double()
    params = {n: p.detach() for n, p in net.named_parameters()}
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    target = torch.randn_like(net(x))
    direction = {n: torch.randn_like(p) for n, p in params.items()}

    def slope(at: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda p: (functional_call(net, p, x) * target).mean())(at)

    def moved(step: float) -> dict[str, Tensor]:
        return {n: p + step * direction[n] for n, p in params.items()}

    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    first = torch.autograd.grad((functional_call(net, leaves, x) * target).mean(), list(leaves.values()), create_graph=True)
    along = sum((g * direction[n]).sum() for n, g in zip(leaves, first, strict=True))
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)])
    # So small that no maximum of the pooling changes places: measured, 1e-9 between the two.
    ahead, behind = slope(moved(1e-8)), slope(moved(-1e-8))
    measured = torch.cat([((ahead[n] - behind[n]) / 2e-8).flatten() for n in params])
    assert exact.norm() > 0
    assert (exact - measured).norm() < 1e-6 * exact.norm()


def test_runs_under_vmap_over_parameters() -> None:
    net = encoder(stage=1)
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    x = torch.rand(2, 3, 64, 64)
    out = vmap(lambda p: functional_call(net, p, x))(stacked)
    torch.testing.assert_close(out[0], net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["a.safetensors", "a.pt", "a.pth", "a.th", "a.bin", "folder", "nested"])
def test_weights_come_back_from_a_file(form: str, tmp_path: Path) -> None:
    first = encoder(norm="model")
    state = tensors(first)
    if form == "nested":
        path = tmp_path / "b.pth"
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": v.half() for n, v in state.items()}}, path)
    elif form.endswith(".safetensors") or form == "folder":
        path = tmp_path if form == "folder" else tmp_path / form
        save_file(state, tmp_path / "a.safetensors")
        (tmp_path / "notes.txt").write_text("not weights")
    else:
        path = tmp_path / form
        torch.save(state, path)
    second = encoder(norm="model", weights=str(path))
    assert second.loaded is not None
    assert set(second.loaded.loaded) == set(state)
    assert (second.loaded.new, second.loaded.dropped) == ((), {})
    x = torch.rand(2, 3, 64, 64)
    if form == "nested":
        torch.testing.assert_close(second(x), first(x), rtol=1e-2, atol=1e-2)
    else:
        assert torch.equal(second(x), first(x))


def test_tensors_that_do_not_fit_are_told(tmp_path: Path) -> None:
    state = tensors(encoder(norm="model"))
    del state["layer2.1.bn2.bias"]
    state["fc.bias"] = torch.zeros(10)
    state["bn1.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "a.pt")
    torch.manual_seed(9)
    net = encoder(norm="model", weights=str(tmp_path / "a.pt"))
    assert net.loaded is not None
    assert net.loaded.new == ("bn1.weight", "layer2.1.bn2.bias")
    assert net.loaded.dropped == {"fc.bias": "unknown", "bn1.weight": "7, not 64"}
    new, dropped = "bn1.weight, layer2.1.bn2.bias", "bn1.weight (7, not 64), fc.bias (unknown)"  # bn1 keeps its place in the file
    assert str(net.loaded) == f"{len(state) - 2} loaded; 2 new: {new}; 2 dropped: {dropped}"
    assert torch.equal(net.net.bn1.weight, torch.ones(64))


def test_places_of_a_transformer_are_brought_to_another_size(tmp_path: Path) -> None:
    state = tensors(encoder(output="vector", **VIT))
    torch.save(state, tmp_path / "a.pt")
    net = encoder((96, 96), output="vector", weights=str(tmp_path / "a.pt"), **VIT)
    assert net.loaded is not None
    assert (net.loaded.new, net.loaded.dropped) == ((), {})
    assert net.net.pos_embed.shape == (1, 37, 32)
    torch.testing.assert_close(net.net.pos_embed[:, 0], state["pos_embed"][:, 0])


def test_the_first_layer_is_brought_to_another_number_of_colours(tmp_path: Path) -> None:
    state = tensors(encoder(norm="model"))
    torch.save(state, tmp_path / "a.pt")
    net = encoder(channels=1, norm="model", weights=str(tmp_path / "a.pt"))
    assert net.loaded is not None
    assert net.loaded.new == ()
    torch.testing.assert_close(net.net.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))  # a grey image is R = G = B


def test_weights_trained_with_group_norm_load_into_group_norm(tmp_path: Path) -> None:
    first = encoder()
    save_file(tensors(first), tmp_path / "a.safetensors")
    second = encoder(weights=str(tmp_path / "a.safetensors"))
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(first(x), second(x))


def test_weights_trained_with_batch_norm_keep_their_statistics_or_are_refused(tmp_path: Path) -> None:
    torch.save(tensors(encoder(norm="model")), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="`norm` must be model") as caught:
        encoder(weights=str(tmp_path / "a.pt"))
    assert caught.value.hint == "encoder.image.norm=model"


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(tensors(encoder(model="convnext_atto")), tmp_path / "a.pt")
    with pytest.raises(
        DataError,
        match=r"model `resnet18`.*found 0 loaded; 60 new: conv1.weight, bn1.weight, bn1.bias and 57 more; 44 dropped: stem.0.weight",
    ):
        encoder(norm="model", weights=str(tmp_path / "a.pt"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/m3tl-unpickled"),))


@pytest.mark.parametrize("what", ["garbage.pt", "garbage.safetensors", "evil.pt", "number.pt", "empty.pt"])
def test_a_file_that_is_not_tensors_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / what
    if what.startswith("garbage"):
        path.write_bytes(b"nothing of the kind")
    else:
        torch.save({"evil.pt": Evil(), "number.pt": 3, "empty.pt": {}}[what], path)
    with pytest.raises(DataError, match="`weights` must"):
        encoder(weights=str(path))
    assert not Path("/tmp/m3tl-unpickled").exists()


@pytest.mark.parametrize(
    ("changed", "words", "place"),
    [
        ({"model": "resnet81"}, "nearest: .*resnet18", "model"),
        ({"model": "resnet18.nowhere"}, "tag", "model"),
        ({"options": {"wings": 2}}, "wings", "options"),
        ({"options": {"num_classes": 10}}, r"take encoder.image.options.num_classes out", "options"),
        ({"stage": 5}, r"\[-5, 5\).*found 5", "stage"),
        ({"stage": -6}, r"\[-5, 5\).*found -6", "stage"),
        ({"mean": [0.5, 0.5]}, "1 or 3 numbers; found 2", "mean"),
        ({"std": []}, "1 or 3 numbers; found 0", "std"),
        ({"model": "inception_v4", "stage": -1}, "64 x 64 pixels.*input_size=299", "input_size"),
        ({"model": VIT["model"], "options": {"img_size": 96}}, "64 x 64 pixels", "input_size"),
        ({"weights": "/nowhere/a.pt"}, "found no file `/nowhere/a.pt`.*null for a random start", "weights"),
        ({"weights": "resnet"}, "found `resnet`", "weights"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(changed: dict[str, Any], words: str, place: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        encoder(**changed)
    assert caught.value.place == f"encoder.image.{place}"


def test_a_folder_with_no_weights_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder without one"):
        encoder(weights=str(tmp_path))
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(ConfigError, match=r"2 of them: a.pt, b.pt"):
        encoder(weights=str(tmp_path))


def test_weights_of_the_hub_come_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder(norm="model")
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tensors(first), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    second = encoder(norm="model", weights="hub")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(("offline", "words"), [(True, "HF_HUB_OFFLINE forbids"), (False, "127.0.0.1:9 cannot be reached")])
def test_weights_that_are_not_at_hand_are_told_at_once(offline: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=words) as caught:
        encoder(norm="model", weights="hub")
    assert f"model.safetensors of timm/resnet18.a1_in1k in the cache {tmp_path}" in caught.value.message
    assert caught.value.hint == "encoder.image.weights=/path/model.safetensors, or null for a random start"


def test_a_model_without_weights_on_the_hub_is_told() -> None:
    with pytest.raises(ConfigError, match="`regnetz_005`; found hub, which has none"):
        encoder(model="regnetz_005", weights="hub")


@pytest.mark.slow
@pytest.mark.parametrize(("pretrained", "low", "high"), [(True, 0.784, 0.824), (False, 0.2, 0.36)])
def test_real_weights_give_the_linear_probe_of_their_readme(pretrained: bool, low: float, high: float, shared_data: Path) -> None:
    stored = np.load(shared_data / "cifar10_lossless" / "cifar10_lossless_first4000_train.npz")
    images = torch.from_numpy(stored["x"][:1500]).permute(0, 3, 1, 2) / 255.0
    label = torch.from_numpy(stored["y"][:1500]).long()
    file = shared_data / "weights_mobilenetv2" / "mobilenetv2_100_features_fp16.pth"
    net = encoder(
        (32, 32), model="mobilenetv2_100", output="vector", norm="model", input_size=128, mean=[0.5], std=[0.5],
        options={"pad_type": "same"}, weights=str(file) if pretrained else None,
    )  # fmt: skip
    if pretrained:
        assert net.loaded is not None
        assert (len(net.loaded.loaded), net.loaded.new, net.loaded.dropped) == (312, (), {})
    with torch.no_grad():
        feature = torch.cat([net(part) for part in images.split(100)]).double()
    feature = feature - feature[:1000].mean(0)
    train, test = feature[:1000], feature[1000:]
    # Ridge regression on the classes, in its dual form; 1,000 is the best of the powers of ten for both starts.
    weight = torch.linalg.solve(train @ train.T + 1000 * torch.eye(1000).double(), F.one_hot(label[:1000], 10).double() - 0.1)
    accuracy = (test @ train.T @ weight).argmax(1).eq(label[1000:]).double().mean().item()
    assert low < accuracy < high
