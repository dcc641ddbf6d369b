"""A signed distance field and colours on the corners of a grid, as torch parameters.

The distance is seen through a blur that ties neighbours together, so that a gradient that arrives at one sample moves a smooth
piece of surface; without it the field breaks up into noise. Plain tensor code: the same on a CPU and on a GPU.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evaluation.hull import Grid

BLUR_PASSES = 2


class SdfGrid:
    """Distances in cells, positive outside, and colours.

    Attributes:
        grid: where the corners lie, X, Y, Z of them.
        raw: parameters `[1, 1, X, Y, Z]`, the distances before the blur.
        colors: parameters `[1, 3, X, Y, Z]`, logits of sRGB in [0, 1].
    """

    def __init__(self, grid: Grid, raw: Tensor, colors: Tensor) -> None:
        self.grid = grid
        self.raw, self.colors = raw.requires_grad_(True), colors.requires_grad_(True)
        self._share = 1.0 / _sum_of_neighbours(torch.ones((1, 1, *grid.shape), device=raw.device))
        self._low = torch.tensor(grid.low, dtype=torch.float32, device=raw.device)
        self._extent = torch.tensor([grid.size * (n - 1) for n in grid.shape], dtype=torch.float32, device=raw.device)

    @classmethod
    def of(cls, grid: Grid, distance_cells: np.ndarray, device: torch.device) -> "SdfGrid":
        """From distances in cells `[X, Y, Z]`, positive outside; all colours grey."""
        raw = torch.from_numpy(distance_cells.astype(np.float32)).to(device)[None, None].clone()
        return cls(grid, raw, torch.zeros((1, 3, *grid.shape), device=device))

    def distance(self) -> Tensor:
        """Blurred distances in cells `[1, 1, X, Y, Z]`, with the graph to `raw`."""
        return _Blur.apply(self.raw, self._share)  # type: ignore[no-any-return, no-untyped-call]

    def finer(self, grid: Grid) -> "SdfGrid":
        """The same field on the corners of another grid, distances in its cells."""
        where = self._places(torch.from_numpy(grid.points().astype(np.float32)).to(self.raw.device)).view(1, *grid.shape, 3)
        with torch.no_grad():
            raw = functional.grid_sample(self.distance(), where, align_corners=True, padding_mode="border") * (self.grid.size / grid.size)
            colors = functional.grid_sample(self.colors, where, align_corners=True, padding_mode="border")
        return SdfGrid(grid, raw.contiguous(), colors.contiguous())

    def at(self, values: Tensor, points: Tensor) -> Tensor:
        """`values` `[1, C, X, Y, Z]` at world points `[..., 3]` by trilinear interpolation -> `[C, ...]`."""
        found = functional.grid_sample(values, self._places(points).view(1, 1, 1, -1, 3), align_corners=True, padding_mode="border")
        return found.view(values.shape[1], *points.shape[:-1])

    def _places(self, points: Tensor) -> Tensor:
        return ((points - self._low) / self._extent * 2 - 1).flip(-1)  # grid_sample wants the last axis first


class _Blur(torch.autograd.Function):
    """Means over 3 x 3 x 3 neighbours, applied twice, normalised at the border; written out because pooling is slow on CPUs."""

    @staticmethod
    def forward(ctx, raw: Tensor, share: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(share)
        for _ in range(BLUR_PASSES):
            raw = _sum_of_neighbours(raw) * share
        return raw

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def, override]
        (share,) = ctx.saved_tensors
        for _ in range(BLUR_PASSES):  # the sum is its own adjoint
            gradient = _sum_of_neighbours(gradient * share)
        return gradient, None


def _sum_of_neighbours(x: Tensor) -> Tensor:
    for axis in (2, 3, 4):
        total, inner = x.clone(), x.shape[axis] - 1
        total.narrow(axis, 1, inner).add_(x.narrow(axis, 0, inner))
        total.narrow(axis, 0, inner).add_(x.narrow(axis, 1, inner))
        x = total
    return x
