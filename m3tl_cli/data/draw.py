"""Show an input to a person: an image as it is, points in the camera's view, a row of a table as bars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, ModalityInfo

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]."""

FARTHEST = 50.0  # metres; points at this range and beyond have the coldest colour
DARK = 24  # grey level of the canvas
BAR, STRIP = 6, 48  # pixels: width of a bar; height of the strip


def draw_modality(info: ModalityInfo, batch: Batch, row: int) -> Picture:
    """Draw one modality of one sample.

    Args:
        info: Which modality. An image has 1 or 3 channels (of others the first is shown).
        batch: Holds it.
        row: Position in the batch.

    Returns:
        uint8 [H, W, 3]; the empty dark canvas where the sample lacks the modality.
    """
    if info.kind == "image":
        return _image(batch.inputs[info.name][row]) if batch.present[info.name][row] else _canvas(*info.size)
    if info.kind == "points":
        canvas = _canvas(*info.size)
        if batch.present[info.name][row]:
            _points(canvas, *project(info, batch, row))
        return canvas
    bars = _canvas(STRIP, BAR * info.channels)
    if batch.present[info.name][row]:
        _bars(bars, batch.inputs[info.name][row])
    return bars


def project(info: ModalityInfo, batch: Batch, row: int) -> tuple[Tensor, Tensor]:
    """Project points on the image plane.

    Returns:
        Column and row [M, 2] in pixels (pixel i covers [i, i + 1)) and range in metres [M] of those valid points that lie before
        the camera and inside the image, farthest first.
    """
    points = batch.geometry[f"{info.name}.position"][row].float()
    valid = batch.geometry[f"{info.name}.valid"][row]
    extrinsics = batch.geometry[f"{info.name}.extrinsics"][row].float()
    camera = points @ extrinsics[:, :3].T + extrinsics[:, 3]
    plane = camera @ batch.geometry["intrinsics"][row].float().T
    place = plane[:, :2] / plane[:, 2:].clamp(min=1e-6) * torch.tensor([info.size[1], info.size[0]], device=plane.device)
    limit = torch.tensor([info.size[1], info.size[0]], device=plane.device)
    inside = valid & (plane[:, 2] > 1e-6) & (place >= 0).all(dim=1) & (place < limit).all(dim=1)
    metres = points[inside].norm(dim=1)
    order = metres.argsort(descending=True)
    return place[inside][order], metres[order]


def _canvas(height: int, width: int) -> Picture:
    return np.full((height, width, 3), DARK, dtype=np.uint8)


def _image(image: Tensor) -> Picture:
    shown = image.detach().float().cpu()
    if len(shown) != 3:
        shown = shown[:1].expand(3, -1, -1)
    picture: Picture = (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return picture


def _points(canvas: Picture, place: Tensor, metres: Tensor) -> None:
    """Paint a square per point, the nearest last: red near, green, blue far."""
    radius = max(1, round(min(canvas.shape[:2]) / 64))
    share = (metres / FARTHEST).clamp(0, 1).cpu()
    colours = torch.stack([1 - 2 * share, 1 - (2 * share - 1).abs(), 2 * share - 1], dim=1).clamp(0, 1)
    paint = (55 + 200 * colours).round().to(torch.uint8).numpy()
    for (u, v), colour in zip(place.cpu().long().tolist(), paint, strict=True):
        canvas[max(v - radius, 0) : v + radius + 1, max(u - radius, 0) : u + radius + 1] = colour


def _bars(canvas: Picture, values: Tensor) -> None:
    """Paint a bar per column, up from the middle for positive and down for negative values, squashed so that +-3 fill the strip."""
    middle = canvas.shape[0] // 2
    for i, share in enumerate((values.detach().float().cpu().nan_to_num() / 3).clamp(-1, 1).tolist()):
        end = middle - round(share * middle)
        low, high = min(middle, end), max(middle, end)
        canvas[low : high + 1, i * BAR : (i + 1) * BAR - 1] = (240, 160, 60) if share >= 0 else (90, 150, 240)
