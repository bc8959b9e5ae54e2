"""The default options, built as the program builds them: image + points -> gated -> resnet -> five heads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import ModalityInfo, Task
from tests.fusion.inputs import calibration

CONF = Path(__file__).resolve().parents[2] / "conf"
MODALITIES = {"rgb": ModalityInfo("rgb", "image", 3, (64, 64)), "lidar": ModalityInfo("lidar", "points", 5, (64, 64), 64)}
TASKS = [
    Task("semantic", "segmentation", 9, True, (32, 32)),
    Task("depth", "depth", 1, True, (32, 32)),
    Task("normals", "normals", 3, True, (32, 32)),
    Task("vehicles", "regression", 1, False),
    Task("light", "multiclass", 3, False),
]


def option(path: str, **runtime: Any) -> Any:
    node = yaml.safe_load((CONF / f"{path}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**node, **runtime)


class Network(nn.Module):
    def __init__(self, fusion: str) -> None:
        super().__init__()
        kinds = {"image": "encoder/image/conv", "points": "encoder/points/pointnet"}
        self.encoder = nn.ModuleDict({m: option(kinds[info.kind], modality=info) for m, info in MODALITIES.items()})
        self.fusion = option(f"fusion/{fusion}", inputs={m: e.signature for m, e in self.encoder.items()})
        self.backbone = option("backbone/resnet", inputs=self.fusion.signature)
        self.head = nn.ModuleDict(
            {t.name: option("heads/dense/fcn" if t.dense else "heads/vector/linear", task=t, inputs=self.backbone.signature) for t in TASKS}
        )

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor], geometry: dict[str, Tensor]) -> dict[str, Tensor]:
        features = {m: e(inputs[m]) for m, e in self.encoder.items()}
        x = self.backbone(self.fusion(features, present, geometry))
        return {t: head(x) for t, head in self.head.items()}


def batch(size: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    geometry = calibration(size, 64)
    points = torch.cat((geometry["lidar.position"], torch.rand(size, 64, 1), geometry["lidar.valid"][..., None].float()), -1)
    present = {"rgb": torch.ones(size, dtype=torch.bool), "lidar": torch.arange(size) != 1}
    return {"rgb": torch.rand(size, 3, 64, 64), "lidar": points}, present, geometry


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_every_task_gets_an_output_of_its_shape(fusion: str) -> None:
    net = Network(fusion)
    outputs = net(*batch())
    assert {t: tuple(x.shape[1:]) for t, x in outputs.items()} == {t.name: (t.num_outputs, *t.size) for t in TASKS}
    assert 100_000 < sum(p.numel() for p in net.parameters()) < 200_000


def test_every_parameter_is_reached_and_has_second_derivatives() -> None:
    net = Network("gated")
    given = batch(2)
    names, params = zip(*net.named_parameters(), strict=True)
    loss = torch.stack([x.square().mean() for x in net(*given).values()]).sum()
    grads = torch.autograd.grad(loss, params, create_graph=True)
    unreached = [n for n, g in zip(names, grads, strict=True) if not g.abs().max() > 0]
    assert not unreached
    second = torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), params)
    assert all(g.isfinite().all() for g in second)


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_functional_call_and_vmap_agree_with_the_module(fusion: str) -> None:
    net, given = Network(fusion), batch(2)
    own = {n: p.detach() for n, p in net.named_parameters()}
    plain = net(*given)
    called = functional_call(net, own, given)
    assert all(torch.equal(plain[t], called[t]) for t in plain)
    many = vmap(lambda p: functional_call(net, p, given))({n: torch.stack([p, 1.1 * p]) for n, p in own.items()})
    for t in plain:
        torch.testing.assert_close(many[t][0], plain[t], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(many[t][1], plain[t])


@pytest.mark.slow
def test_it_learns_what_only_the_points_know() -> None:
    """Log distance of a wall behind a blank image."""
    net = Network("gated")
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        inputs, present, geometry = batch(8)
        distance = torch.rand(8, 1) * 20 + 2
        across = torch.randn(2, 8, 64) * distance / 4
        position = torch.stack((distance.expand(8, 64), *across), -1)
        inputs = {"rgb": torch.zeros(8, 3, 64, 64), "lidar": torch.cat((position, inputs["lidar"][..., 3:]), -1)}
        outputs = net(inputs, {m: torch.ones_like(p) for m, p in present.items()}, {**geometry, "lidar.position": position})
        loss = (outputs["depth"][:, 0] - distance[..., None].log() + 2.3).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-25:]) / 25 < 0.3  # the best constant is off by .5; seen: .16
