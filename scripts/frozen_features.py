"""What an epoch costs with the stored outputs of a frozen encoder, against running the encoder again.

    .venv/bin/python scripts/frozen_features.py             # about a minute on one quiet thread

Images of noise; MobileNetV2 of timm at random weights, frozen, pooled to a vector; behind it the default fusion and backbone and one
linear head, trained by AdamW in batches of 64. Both read their batches from a memory-mapped store and train the same parts from the same
start; the one that recomputes keeps the encoder out of the graph, as a frozen encoder is. Making the store is one pass of the encoder,
which the first epoch pays. Target: at most .1 in CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from _timing import compare
from torch.nn import functional as F

from m3tl_cli.backbone.resnet import ResNet
from m3tl_cli.core.contracts import ModalityInfo, Pool, Task
from m3tl_cli.data.features import encoder_key, precompute
from m3tl_cli.data.store import Array, Column, Store, StorePool
from m3tl_cli.encoder.image.timm import Timm
from m3tl_cli.fusion.gated import Gated
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.sharing.hard import Hard

BATCH = 64
TASK = Task("number", "regression", num_outputs=1, dense=False, mean=(0.0,), std=(1.0,))


def a_pool(folder: Path, samples: int, pixels: int) -> StorePool:
    """Images of noise with a random number each."""

    def fill(arrays: Mapping[str, Array]) -> None:
        random = np.random.default_rng(0)
        arrays["input.image"][:] = random.integers(0, 256, arrays["input.image"].shape, dtype=np.uint8)
        arrays["target.number"][:] = random.normal(size=(samples, 1))

    columns = {"input.image": Column("uint8", (3, pixels, pixels)), "target.number": Column("float32", (1,))}
    store, _ = Store.create(folder / "samples", rows=samples, columns=columns, fill=fill)
    everywhere = torch.ones(samples, dtype=torch.bool)
    return StorePool(
        store=store,
        rows=torch.arange(samples),
        modalities={"image": ModalityInfo("image", "image", 3, (pixels, pixels))},
        domain=torch.zeros(samples, dtype=torch.long),
        labelled={"number": everywhere},
        present={"image": everywhere},
    )


def a_model(pixels: int) -> MultiTaskModel:
    """Frozen MobileNetV2, and the default parts behind it."""
    model = MultiTaskModel(
        encoders={
            "image": lambda: Timm(
                model="mobilenetv2_100", output="vector", stage=-1, width=None, weights=None, input_size=None, mean="model", std="model",
                norm="model", groups=32, options={}, modality=ModalityInfo("image", "image", 3, (pixels, pixels)),
            )
        },
        fusion=lambda inputs: Gated(width=48, groups=8, spread=0.06, inputs=inputs),
        backbone=lambda inputs: ResNet(width=48, num_stages=3, blocks_per_stage=1, groups=8, inputs=inputs),
        sharing=lambda stages: Hard(num_stages=stages),
        head=lambda task, inputs: Linear(hidden=[], task=task, inputs=inputs),
        seed=0,
    )  # fmt: skip
    model.start([TASK])
    model.encoder.requires_grad_(False).eval()
    return model


def epoch(model: MultiTaskModel, pool: Pool, losses: list[float]) -> Callable[[], None]:
    """One pass over a pool, in an order of its own; the loss of its last batch is kept."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer, device = torch.optim.AdamW(params, lr=1e-3), params[0].device
    order = torch.Generator().manual_seed(0)

    def train() -> None:
        for index in torch.randperm(len(pool), generator=order).split(BATCH):
            batch = pool.read(index).to(device)
            loss = F.mse_loss(model(batch, ("number",))["number"], batch.targets["number"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())

    return train


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        pool = a_pool(Path(folder), asked.samples, asked.pixels)
        models = {name: a_model(asked.pixels).to(asked.device) for name in ("recomputed", "stored")}
        encoder = models["stored"].encoder["shared"]["image"]
        (features,) = precompute(
            [pool], {"image": lambda x: encoder(x.to(asked.device))}, {"image": encoder_key(encoder.state_dict(), {})},
            batch_size=BATCH, folder=Path(folder) / "features",
        )  # fmt: skip
        losses: dict[str, list[float]] = {name: [] for name in models}
        print(f"{asked.samples} images of {asked.pixels} x {asked.pixels} pixels on {asked.device}, {encoder.signature.dim} features each")
        compare(
            {name: epoch(models[name], p, losses[name]) for name, p in (("recomputed", pool), ("stored", features))},
            repetitions=asked.repetitions,
        )
        apart = max(abs(a - b) / a for a, b in zip(losses["recomputed"], losses["stored"], strict=True))
        print(f"losses of the last batches differ by at most {apart:.1e} of their size, over {len(losses['stored'])} epochs")


if __name__ == "__main__":
    main()
