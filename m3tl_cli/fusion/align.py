"""Bring the features of every modality to one place: points onto the grid of the image, maps to one resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Modality, Signature
from m3tl_cli.core.errors import DataError

# What a cell far from every point takes from all points alike; beside 1 for a point in the cell's middle.
FLOOR = 1e-3


class Alignment:
    """Turn features into maps on one grid, zero where their modality is absent.

    * map: resized bilinearly where its grid differs;
    * tokens with a place in an image: projected, see `scatter` and `spread_out`;
    * tokens without: averaged over the valid ones, a vector;
    * vector: a map of one cell, for the caller to broadcast.

    The grid is that of the finest map (the first of equals), else of the finest tokens, else one cell. Features of an absent
    modality are replaced by 0 before anything is computed from them, so NaN in them reaches neither output nor gradients.

    Args:
        inputs: What the encoders give.
        spread: Standard deviation of the kernel that spreads points over the grid, as a share of the image's side, > 0.

    Attributes:
        kind: `map` where anything has a place in an image, else `vector`.
        grid: Rows and columns of the result; (1, 1) for vectors.
        channels: Of the result, per modality.
        flat: Modalities whose result has one cell.
    """

    def __init__(self, inputs: Mapping[Modality, Signature], spread: float) -> None:
        self.inputs = dict(inputs)
        self.spread = spread
        placed = {m for m, s in inputs.items() if s.kind == "tokens" and s.grid != (1, 1)}
        maps = [s.grid for s in inputs.values() if s.kind == "map"] or [inputs[m].grid for m in inputs if m in placed]
        self.kind: Literal["vector", "map"] = "map" if maps else "vector"
        self.grid = max(maps, key=lambda grid: grid[0] * grid[1], default=(1, 1))
        # Tokens: mean in the cell, the same spread out; for their depth both too; and occupancy.
        self.channels = {m: 2 * s.dim + 3 if m in placed else s.dim for m, s in inputs.items()}
        self.flat = frozenset(m for m, s in inputs.items() if s.kind != "map" and m not in placed)

    def __call__(
        self, features: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], geometry: Mapping[str, Tensor]
    ) -> dict[Modality, Tensor]:
        """Align.

        Args:
            features: Per modality, shaped as its signature says.
            present: [B] bool per modality.
            geometry: Calibration, see `Batch.geometry`.

        Returns:
            [B, channels, h, w] per modality, [B, channels, 1, 1] for those in `flat`.

        Raises:
            DataError: If points come without the calibration that places them.
        """
        return {m: self._one(m, features[m], present[m], geometry) for m in self.inputs}

    def _one(self, modality: Modality, x: Tensor, present_B: Tensor, geometry: Mapping[str, Tensor]) -> Tensor:
        kind = self.inputs[modality].kind
        x = torch.where(present_B.view(-1, *(1,) * (x.dim() - 1)), x, x.new_zeros(()))
        if kind == "vector":
            return x[..., None, None]
        if kind == "map":
            return x if x.shape[-2:] == self.grid else F.interpolate(x, self.grid, mode="bilinear", align_corners=False)
        if modality in self.flat:
            valid = geometry.get(f"{modality}.valid", torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
            total = torch.where(valid[..., None], x, x.new_zeros(())).sum(1)
            return (total / valid.sum(1, keepdim=True).clamp(min=1))[..., None, None]
        needed = (f"{modality}.position", f"{modality}.valid", f"{modality}.extrinsics", "intrinsics")
        missing = [key for key in needed if key not in geometry]
        if missing:
            raise DataError(
                f"`geometry` must hold {', '.join(needed)} to place points in the image; {', '.join(missing)} not found.",
                hint="give the calibration, or leave the points' image size empty to pool them",
                place=modality,
            )
        position, valid, extrinsics, intrinsics = (geometry[key] for key in needed)
        cell, depth, seen = project(position, valid & present_B[:, None], extrinsics, intrinsics, self.grid)
        # At least single precision: sums of many tokens.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        tokens = torch.cat((x, torch.log1p(depth)[..., None].to(x.dtype)), -1)
        total, count = scatter(tokens, cell, seen, self.grid)
        placed = torch.cat((total / count.clamp(min=1), count.clamp(max=1), spread_out(total, count, self.spread)), -1)
        return placed.permute(0, 3, 1, 2)


def project(
    position: Tensor, valid: Tensor, extrinsics: Tensor, intrinsics: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the cell of the image's grid that each point falls in.

    Pinhole camera: c = R p + t, u = (K c)_x / c_z, v = (K c)_y / c_z.

    Args:
        position: [B, N, 3] metres in the sensor's frame.
        valid: [B, N] bool; other points may hold anything.
        extrinsics: [B, 3, 4] sensor to camera (x right, y down, z forward).
        intrinsics: [B, 3, 3] in units of the image's width and height.
        grid: Rows and columns.

    Returns:
        Row-major cell [B, N] int64, 0 where not seen; depth along the camera's axis [B, N] metres, 0 where not seen; seen [B, N]
        bool: valid, in front of the camera, and u and v in [0, 1].
    """
    rows, columns = grid
    camera = position @ extrinsics[..., :3].transpose(-1, -2) + extrinsics[..., None, :, 3]
    depth = camera[..., 2]
    # A millimetre: nearer points have no direction. Comparisons with NaN are False, so that broken points count as unseen.
    front = valid & (depth > 1e-3)
    zero = torch.zeros((), dtype=depth.dtype, device=depth.device)
    image = camera @ intrinsics.transpose(-1, -2)
    u, v = (torch.where(front, image[..., k] / torch.where(front, depth, zero + 1), zero - 1) for k in (0, 1))
    seen = front & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    row = (torch.where(seen, v, zero) * rows).long().clamp(max=rows - 1)
    column = (torch.where(seen, u, zero) * columns).long().clamp(max=columns - 1)
    return row * columns + column, torch.where(seen, depth, zero), seen


def scatter(tokens: Tensor, cell: Tensor, seen: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sum the tokens of each cell.

    Args:
        tokens: [B, N, D].
        cell: [B, N] row-major cell.
        seen: [B, N] bool; other tokens count nowhere.
        grid: h and w.

    Returns:
        Sum of the tokens [B, h, w, D], and how many there were [B, h, w, 1].
    """
    batch, _, dim = tokens.shape
    cells = grid[0] * grid[1]
    row = (cell + cells * torch.arange(batch, device=cell.device)[:, None]).flatten()
    counted = torch.cat((torch.where(seen[..., None], tokens, tokens.new_zeros(())), seen[..., None].to(tokens.dtype)), -1)
    total = torch.index_add(tokens.new_zeros(batch * cells, dim + 1), 0, row, counted.flatten(0, 1))
    total = total.view(batch, *grid, dim + 1)
    return total[..., :-1], total[..., -1:]


def spread_out(total: Tensor, count: Tensor, spread: float) -> Tensor:
    """Fill every cell with the mean of the tokens around it, weighted by a Gaussian of the distance between cells.

    Normalised convolution (Knutsson and Westin, CVPR 1993) with the kernel exp(-d^2 / (2 spread^2)) + `FLOOR`: the few hundred cells
    that no point hits get the values of the nearest ones, and cells far from all the mean of all. Its cost does not grow with the
    number of points.

    Args:
        total: [B, h, w, D] sums.
        count: [B, h, w, 1] numbers of tokens.
        spread: Standard deviation as a share of the image's side.

    Returns:
        [B, h, w, D]; 0 where a sample has no token at all.
    """
    both = torch.cat((total, count), -1)
    batch, rows, columns, dim = both.shape
    # Batched products, as `matmul` would fold these into thin ones that take ten times as long on a CPU.
    blurred = torch.bmm(_gaussian(rows, spread, both).expand(batch, rows, rows), both.reshape(batch, rows, columns * dim))
    blurred = torch.bmm(_gaussian(columns, spread, both).expand(batch * rows, columns, columns), blurred.view(batch * rows, columns, dim))
    blurred = blurred.view(both.shape) + FLOOR * both.sum((1, 2), keepdim=True)
    weight = blurred[..., -1:]
    return blurred[..., :-1] / torch.where(weight > 0, weight, torch.ones_like(weight))


def _gaussian(size: int, spread: float, like: Tensor) -> Tensor:
    # [size, size], symmetric: weight of one row (or column) of the grid for another.
    place = torch.arange(size, dtype=like.dtype, device=like.device) / size
    return torch.exp(-0.5 * ((place[:, None] - place) / spread) ** 2)
