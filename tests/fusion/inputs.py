"""Features of an image, points, a table and a second image, with calibration, for every test of fusions."""

from __future__ import annotations

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Signature

SIGNATURES = {
    "rgb": Signature("map", 6, (8, 10)),
    "lidar": Signature("tokens", 5, (8, 10)),
    "table": Signature("vector", 4),
    "thermal": Signature("map", 3, (4, 5)),
}


def calibration(batch: int, points: int = 7, modality: str = "lidar") -> dict[str, Tensor]:
    """A sensor with x forward, y left, z up, in the camera's place; the camera sees 90 degrees."""
    sensor_to_camera = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    position = torch.stack((torch.rand(batch, points) * 20 + 1, torch.randn(batch, points), torch.randn(batch, points)), -1)
    return {
        f"{modality}.position": position,
        f"{modality}.valid": torch.rand(batch, points) > 0.2,
        f"{modality}.extrinsics": sensor_to_camera.expand(batch, 3, 4),
        "intrinsics": torch.tensor([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]).expand(batch, 3, 3),
    }


def features(names: list[str], batch: int, points: int = 7) -> dict[str, Tensor]:
    """Random features as `SIGNATURES` says."""
    shapes = {"vector": lambda s: (s.dim,), "tokens": lambda s: (points, s.dim), "map": lambda s: (s.dim, *s.grid)}
    return {m: torch.randn(batch, *shapes[SIGNATURES[m].kind](SIGNATURES[m])) for m in names}


def everywhere(names: list[str], batch: int) -> dict[str, Tensor]:
    """Nothing is absent."""
    return {m: torch.ones(batch, dtype=torch.bool) for m in names}
