"""The rays of a fit: one per pixel that can see the object, with the stretch of it that may hold surface."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.hull import Grid
from rendering.cameras import Camera

PROBES = 96


@dataclass(frozen=True)
class RayPool:
    """R rays in world units.

    Attributes:
        origin, direction: float32 `[R, 3]`, directions of unit length.
        near, far: float32 `[R]`, the stretch inside the dilated hull.
        target: float32 `[R, 4]`, premultiplied colour and coverage in [0, 1].
        normal: float32 `[R, 3]` unit world normals, zero where unknown; None without normals.
    """

    origin: Tensor
    direction: Tensor
    near: Tensor
    far: Tensor
    target: Tensor
    normal: Tensor | None

    def __len__(self) -> int:
        return len(self.near)

    def batch(self, index: Tensor) -> "RayPool":
        normal = None if self.normal is None else self.normal[index]
        return RayPool(self.origin[index], self.direction[index], self.near[index], self.far[index], self.target[index], normal)


def ray_pool(
    pictures: np.ndarray, camera: Camera, grid: Grid, near_surface: np.ndarray, normals: np.ndarray | None, device: torch.device
) -> RayPool:
    """All pixels whose ray enters a cell that may hold surface.

    `pictures`: premultiplied float32 `[V, h, w, 4]`; `near_surface`: bool `[X, Y, Z]` on the corners of `grid`, the hull
    and its surroundings; `normals`: world normals `[V, h, w, 3]` or None.
    """
    height, width = pictures.shape[1:3]
    kept: list[list[np.ndarray]] = []
    for i in range(len(pictures)):
        origin, direction = (rays.reshape(-1, 3).astype(np.float32) for rays in camera[i].rays(height, width))
        enter, leave = _box_stretch(origin, direction, grid)
        index = np.flatnonzero(leave > enter)
        share = (np.arange(PROBES, dtype=np.float32) + 0.5) / PROBES
        t = enter[index, None] + (leave - enter)[index, None] * share
        points = origin[index, None] + t[..., None] * direction[index, None]
        corner = np.rint((points - grid.low.astype(np.float32)) / np.float32(grid.size)).astype(np.int32)
        corner = np.clip(corner, 0, np.array(grid.shape, np.int32) - 1)
        inside = near_surface[corner[..., 0], corner[..., 1], corner[..., 2]]
        hit = inside.any(1)
        index, t, inside = index[hit], t[hit], inside[hit]
        step = (leave - enter)[index] / PROBES
        rows = np.arange(len(index))
        near = t[rows, inside.argmax(1)] - step
        far = t[rows, PROBES - 1 - inside[:, ::-1].argmax(1)] + step
        parts = [origin[index], direction[index], near, far, pictures[i].reshape(-1, 4)[index]]
        kept.append(parts if normals is None else [*parts, normals[i].reshape(-1, 3)[index]])
    tensors = [torch.from_numpy(np.concatenate(part).astype(np.float32)).to(device) for part in zip(*kept, strict=True)]
    origins, directions, nears, fars, targets = tensors[:5]
    return RayPool(origins, directions, nears, fars, targets, tensors[5] if normals is not None else None)


def _box_stretch(origin: np.ndarray, direction: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave the grid's box, in front of the camera; enter >= leave where they miss it."""
    low, high = grid.low, grid.low + grid.size * (np.array(grid.shape) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (low - origin) / direction, (high - origin) / direction
    enter = np.fmax(np.fmin(a, b).max(1), 0.0)
    return enter.astype(np.float32), np.fmax(a, b).min(1).astype(np.float32)
