"""Features of frozen encoders: what is read is what would be computed, once, for as long as nothing moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m3tl_cli.backbone.resnet import ResNet
from m3tl_cli.core.contracts import Batch, Modality, ModalityInfo, Pool, generator
from m3tl_cli.data.features import FeaturePool, encoder_key, precompute, without_inputs
from m3tl_cli.data.store import Array, Column, Store, StorePool
from m3tl_cli.encoder.image.conv import Conv
from m3tl_cli.encoder.points.pointnet import PointNet
from m3tl_cli.fusion.gated import Gated
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.sharing.hard import Hard
from tests.toys import regression

RGB = ModalityInfo("rgb", "image", 3, (12, 12))
LIDAR = ModalityInfo("lidar", "points", 5, (12, 12), 6)
ROWS = 10


def a_store(folder: Path) -> Store:
    columns = {
        "input.rgb": Column("uint8", (3, 12, 12)),
        "input.lidar": Column("float32", (6, 5)),
        "geometry.intrinsics": Column("float32", (3, 3)),
        "geometry.lidar.extrinsics": Column("float32", (3, 4)),
        "geometry.rgb.extrinsics": Column("float32", (3, 4)),
        "target.t": Column("float32", (1,)),
    }

    def fill(arrays: Mapping[str, Array]) -> None:
        random = np.random.default_rng(0)
        arrays["input.rgb"][:] = random.integers(0, 256, arrays["input.rgb"].shape)
        arrays["input.lidar"][:] = random.normal(0, 3, arrays["input.lidar"].shape)
        arrays["input.lidar"][..., 2] += 10
        arrays["input.lidar"][..., 4] = random.random((ROWS, 6)) < 0.8
        arrays["geometry.intrinsics"][:] = [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]
        arrays["geometry.lidar.extrinsics"][:] = np.eye(3, 4)
        arrays["geometry.rgb.extrinsics"][:] = np.eye(3, 4)
        arrays["target.t"][:] = random.normal(size=(ROWS, 1))

    return Store.create(folder / "samples", rows=ROWS, columns=columns, fill=fill)[0]


def a_pool(store: Store, rows: list[int], absent: Mapping[Modality, list[int]] | None = None) -> StorePool:
    """Rows of the store; `absent` says at which of them a modality is not there."""
    index = torch.tensor(rows)
    present = {m: ~torch.isin(index, torch.tensor((absent or {}).get(m, []), dtype=torch.long)) for m in ("rgb", "lidar")}
    return StorePool(
        store=store,
        rows=index,
        modalities={"rgb": RGB, "lidar": LIDAR},
        domain=index % 3,
        labelled={"t": index % 4 > 0},
        present=present,
    )


def a_model() -> MultiTaskModel:
    model = MultiTaskModel(
        encoders={
            "rgb": lambda: Conv(width=6, stride=4, groups=2, modality=RGB),
            "lidar": lambda: PointNet(width=4, stride=4, scale=10.0, modality=LIDAR),
        },
        fusion=lambda inputs: Gated(width=6, groups=2, spread=0.2, inputs=inputs),
        backbone=lambda inputs: ResNet(width=6, num_stages=1, blocks_per_stage=1, groups=2, inputs=inputs),
        sharing=lambda stages: Hard(num_stages=stages),
        head=lambda task, inputs: Linear(hidden=[], task=task, inputs=inputs),
        seed=0,
    )
    model.start([regression("t")])
    return model


class Counted:
    """An encoder that knows how many samples it saw, and in what batches."""

    def __init__(self, encoder: Callable[[Tensor], Tensor]) -> None:
        self.encoder = encoder
        self.batches: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.batches.append(len(x))
        return self.encoder(x)


def counted(model: MultiTaskModel, *modalities: Modality) -> dict[Modality, Counted]:
    return {m: Counted(model.encoder["shared"][m]) for m in modalities or ("rgb", "lidar")}


KEYS = {"rgb": "r", "lidar": "l"}


def loss_and_slopes(model: MultiTaskModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    rest = {n: p for n, p in model.params().items() if not n.startswith("encoder.")}
    loss = (model.outputs(model.params(), batch, ("t",))["t"] - batch.targets["t"]).square().mean()
    return loss.detach(), dict(zip(rest, torch.autograd.grad(loss, list(rest.values()), allow_unused=True), strict=True))


def dropped(batch: Batch, modality: Modality, at: list[int]) -> Batch:
    """Modality dropout: presence changes, and nothing else."""
    there = batch.present[modality].clone()
    there[at] = False
    return replace(batch, present={**batch.present, modality: there})


@pytest.mark.parametrize("stored", [("rgb", "lidar"), ("rgb",), ("lidar",)])
@pytest.mark.parametrize("dropout", [False, True])
def test_loss_and_gradient_of_the_rest_are_those_of_recomputation(stored: tuple[Modality, ...], dropout: bool, tmp_path: Path) -> None:
    model = a_model()
    pool = a_pool(a_store(tmp_path), list(range(ROWS)), {"rgb": [2, 7], "lidar": [7, 9]})
    encode = counted(model, *stored)
    (features,) = precompute([pool], encode, KEYS, batch_size=4, folder=tmp_path / "features")
    index = torch.tensor([9, 2, 0, 7, 5, 5])
    ours, theirs = features.read(index), pool.read(index)
    assert set(ours.features) == set(stored)
    assert set(ours.inputs) == {"rgb", "lidar"} - set(stored)
    if dropout:
        ours, theirs = (dropped(batch, "rgb", [0, 2]) for batch in (ours, theirs))
    loss, slopes = loss_and_slopes(model, theirs)
    found, found_slopes = loss_and_slopes(model, ours)
    torch.testing.assert_close(found, loss, rtol=1e-6, atol=0)
    assert found_slopes.keys() == slopes.keys()
    for name, slope in slopes.items():
        if slope is None:
            assert found_slopes[name] is None
        else:
            torch.testing.assert_close(found_slopes[name], slope, rtol=1e-5, atol=1e-6)


def test_a_feature_is_to_the_bit_what_the_encoder_gives_in_the_same_batches(tmp_path: Path) -> None:
    model = a_model()
    pool = a_pool(a_store(tmp_path), list(range(ROWS)), {"rgb": [3]})
    (features,) = precompute([pool], counted(model), KEYS, batch_size=ROWS - 1, folder=tmp_path / "features")
    there = torch.tensor([i for i in range(ROWS) if i != 3])
    with torch.no_grad():
        together = model.encoder["shared"]["rgb"](pool.read(there).inputs["rgb"])
        zeros = model.encoder["shared"]["rgb"](torch.zeros(1, 3, 12, 12))
    assert torch.equal(features.read(there).features["rgb"], together)
    assert torch.equal(features.read(torch.tensor([3])).features["rgb"], zeros)
    alone = model.encoder["shared"]["rgb"](pool.read(there[:1]).inputs["rgb"]).detach()
    torch.testing.assert_close(together[:1], alone, rtol=1e-6, atol=1e-6)


def test_everything_else_is_the_pools(tmp_path: Path) -> None:
    pool = a_pool(a_store(tmp_path), [8, 1, 4, 6], {"lidar": [4]})
    (features,) = precompute([pool], counted(a_model()), KEYS, batch_size=3, folder=tmp_path / "features")
    assert len(features) == 4
    assert torch.equal(features.domain, pool.domain)
    assert torch.equal(features.labelled["t"], pool.labelled["t"])
    index = torch.tensor([2, 0, 3])
    ours, theirs = features.read(index), pool.read(index)
    assert set(ours.geometry) == {
        "intrinsics", "lidar.extrinsics", "rgb.extrinsics", "lidar.position", "lidar.valid"
    }  # fmt: skip
    for part in ("geometry", "present", "targets", "labelled"):
        left, right = getattr(ours, part), getattr(theirs, part)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[k], right[k]) for k in right)
    assert torch.equal(ours.index, theirs.index)
    assert torch.equal(ours.domain, theirs.domain)
    assert not features.read(index, []).targets


def test_every_sample_is_encoded_once_for_all_pools_and_for_all_time(tmp_path: Path) -> None:
    model, store = a_model(), a_store(tmp_path)
    first, second = a_pool(store, [0, 1, 2, 3, 4], {"rgb": [1]}), a_pool(store, [3, 4, 5, 6], {"rgb": [1]})
    encode, told = counted(model), []
    pools = precompute(
        [first, second, first], encode, KEYS, batch_size=2, folder=tmp_path / "features", progress=lambda *step: told.append(step)
    )
    assert encode["rgb"].batches == [1, 2, 2, 2], "zeros; 0, 2, 3 and 4; 5 and 6"
    assert sum(encode["lidar"].batches) == 1 + 7
    assert told[:3] == [("encode rgb", 2, 6), ("encode rgb", 4, 6), ("encode rgb", 6, 6)]
    assert pools[0] is pools[2]
    assert pools[0] is not pools[1]
    with torch.no_grad():
        expected = model.encoder["shared"]["rgb"](second.read(torch.arange(4)).inputs["rgb"])
    torch.testing.assert_close(pools[1].read(torch.arange(4)).features["rgb"], expected, rtol=1e-6, atol=1e-6)
    again = counted(model)
    (_, reopened) = precompute([first, second], again, KEYS, batch_size=2, folder=tmp_path / "features")
    assert again["rgb"].batches == again["lidar"].batches == [1], "nothing but zeros, for the shape"
    assert torch.equal(reopened.read(torch.arange(4)).features["rgb"], pools[1].read(torch.arange(4)).features["rgb"])


@pytest.mark.parametrize("change", ["key", "rows", "presence"])
def test_other_content_is_stored_elsewhere(change: str, tmp_path: Path) -> None:
    model, store = a_model(), a_store(tmp_path)
    precompute([a_pool(store, [0, 1, 2])], counted(model, "rgb"), KEYS, batch_size=2, folder=tmp_path / "features")
    pool = a_pool(store, [0, 1, 3] if change == "rows" else [0, 1, 2], {"rgb": [1]} if change == "presence" else {})
    encode = counted(model, "rgb")
    keys = {"rgb": "other"} if change == "key" else KEYS
    precompute([pool], encode, keys, batch_size=2, folder=tmp_path / "features")
    assert sum(encode["rgb"].batches) == 1 + (2 if change == "presence" else 3)


def test_a_pool_that_was_closed_is_not_read(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    first, second = precompute(
        [a_pool(store, [0, 1]), a_pool(store, [2, 3])], counted(a_model()), KEYS, batch_size=2, folder=tmp_path / "features"
    )
    first.close()
    with pytest.raises(RuntimeError, match="was closed"):
        first.read(torch.tensor([0]))
    assert second.read(torch.tensor([0])).features


def test_a_sample_that_was_never_encoded_is_not_made_up(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    (features,) = precompute([a_pool(store, [0, 5])], counted(a_model()), KEYS, batch_size=2, folder=tmp_path / "features")
    for row in (3, 9):  # within the rows that are known of, and beyond
        stranger = FeaturePool(pool=a_pool(store, [0, row]), encoded=features._encoded or {})
        assert stranger.read(torch.tensor([0])).features
        with pytest.raises(RuntimeError, match=f"row {row} has no stored features"):
            stranger.read(torch.tensor([0, 1]))


def test_inputs_that_nothing_else_is_made_of_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = a_pool(a_store(tmp_path), [4, 2, 0], {"rgb": [2]})
    lean = without_inputs(pool, ("rgb", "lidar"))
    batch = lean.read(torch.arange(3))
    assert batch.inputs["rgb"].shape == (3, 0)
    assert torch.equal(batch.geometry["lidar.position"], pool.read(torch.arange(3)).geometry["lidar.position"])
    assert pool.read(torch.arange(3)).inputs["rgb"].shape == (3, 3, 12, 12), "the pool itself reads on"


class Wrapped:
    """A pool of another kind."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.domain, self.labelled = pool, pool.domain, pool.labelled

    def __len__(self) -> int:
        return len(self.domain)

    def read(self, index: Tensor, tasks: object = None) -> Batch:
        return self.pool.read(index, tasks)  # type: ignore[arg-type]


def test_any_pool_will_do(tmp_path: Path) -> None:
    model, store = a_model(), a_store(tmp_path)
    pool = a_pool(store, [7, 1, 2, 5], {"rgb": [1]})
    (plain,) = precompute([pool], counted(model), KEYS, batch_size=2, folder=tmp_path / "a")
    (wrapped,) = precompute([Wrapped(pool)], counted(model), KEYS, batch_size=2, folder=tmp_path / "b")
    index = torch.tensor([3, 1])
    for modality in ("rgb", "lidar"):
        assert torch.equal(wrapped.read(index).features[modality], plain.read(index).features[modality])
    assert set(wrapped.read(index).inputs) == set()


@pytest.mark.parametrize(("kept", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_features_are_stored_in_single_precision_or_more(kept: torch.dtype, expected: torch.dtype, tmp_path: Path) -> None:
    pool = a_pool(a_store(tmp_path), [0, 1])
    (features,) = precompute([pool], {"rgb": lambda x: x.mean((2, 3)).to(kept)}, KEYS, batch_size=2, folder=tmp_path / "features")
    assert features.read(torch.arange(2)).features["rgb"].dtype == expected


def test_the_cache_is_where_features_lie_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))
    precompute([a_pool(a_store(tmp_path), [0, 1])], counted(a_model(), "rgb"), KEYS, batch_size=2)
    assert len([p for p in (tmp_path / "cache" / "features").iterdir() if p.is_dir()]) == 1


def test_the_key_of_an_encoder_follows_weights_statistics_and_config() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    key = encoder_key(net.state_dict(), {"a": 1})
    assert key == encoder_key(dict(reversed(net.state_dict().items())), {"a": 1})
    assert key != encoder_key(net.state_dict(), {"a": 2})
    net.train()(torch.randn(4, 2, generator=generator("x")))
    moved = encoder_key(net.state_dict(), {"a": 1})
    assert moved != key
    with torch.no_grad():
        net[0].bias[0] += 1e-6
    assert encoder_key(net.state_dict(), {"a": 1}) != moved
    assert encoder_key({n: v.reshape(-1) for n, v in net.state_dict().items()}, {"a": 1}) != encoder_key(net.state_dict(), {"a": 1})
