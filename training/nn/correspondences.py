"""Where a point of one view lies in another: rotating cameras by homography, posed cameras by depth (MVDiffusion §4.1).

Points are in picture units as in `docs/conventions.md`: x in image widths, y in image heights, the centre of the first of
W pixels is at 0.5 / W. Cameras are OpenCV, camera-to-world. Axis letters: B scenes, V views, S pairs of views, N points.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Correspondences(Protocol):
    """Pairs of views and the map between them.

    Attributes:
        neighbours: long `[V, L]`, for each view the views it looks at; -1 = none.
    """

    neighbours: Tensor

    def locate(self, points: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Points of views `source` `[S]` as seen in views `target` `[S]`.

        Args:
            points: `[B, S, N, 2]`, anywhere in the plane of the source pictures.

        Returns:
            points `[B, S, N, 2]` in the target pictures (perhaps outside of [0, 1]), and bool `[B, S, N]`, False where there is
            no such point (behind the camera, unknown depth).
        """
        ...


def ring_neighbours(views: int) -> Tensor:
    """`[V, 2]`: the views before and after each one of a closed ring (MVDiffusion §3)."""
    steps = torch.arange(views)
    return torch.stack([(steps - 1) % views, (steps + 1) % views], 1)


def intrinsics(fov_x_deg: float, fov_y_deg: float) -> Tensor:
    """`[3, 3]` camera matrix in picture units with the principal point in the middle."""
    focal = 0.5 / torch.tan(torch.deg2rad(torch.tensor([fov_x_deg, fov_y_deg])) / 2)
    return torch.tensor([[float(focal[0]), 0.0, 0.5], [0.0, float(focal[1]), 0.5], [0.0, 0.0, 1.0]])


class Homographies:
    """Cameras that share one centre and only turn, as in a panorama: K_target R_target^-1 R_source K_source^-1."""

    def __init__(self, camera: Tensor, rotation: Tensor, neighbours: Tensor) -> None:
        """`camera` `[B, V, 3, 3]` in picture units; `rotation` camera-to-world `[B, V, 3, 3]`; `neighbours` `[V, L]`."""
        self.camera, self.rotation, self.neighbours = camera, rotation, neighbours

    def locate(self, points: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        towards = self.rotation[:, target].mT @ self.rotation[:, source]
        map_between = self.camera[:, target] @ towards @ torch.linalg.inv(self.camera[:, source])
        return _divided(_homogeneous(points) @ map_between.mT)


class DepthAndPose:
    """Posed cameras and a depth map per view: unproject with the source's depth, project into the target."""

    def __init__(self, camera: Tensor, pose: Tensor, depth: Tensor, neighbours: Tensor) -> None:
        """`camera` `[B, V, 3, 3]` in picture units; `pose` camera-to-world `[B, V, 4, 4]`; `depth` along the optical axis
        `[B, V, H, W]`, 0 or not finite = nothing there; `neighbours` `[V, L]`."""
        self.camera, self.pose, self.neighbours = camera, pose, neighbours
        known = torch.isfinite(depth) & (depth > 0)
        self.depth = torch.where(known, depth, 0.0)

    def locate(self, points: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        scenes, pairs, count, _ = points.shape
        # The nearest depth: a mean over an edge lies on neither surface.
        maps = self.depth[:, source].flatten(0, 1)[:, None]
        places = points.reshape(scenes * pairs, 1, count, 2) * 2.0 - 1.0
        depth = F.grid_sample(maps, places.to(maps), mode="nearest", padding_mode="zeros", align_corners=False)
        depth = depth.reshape(scenes, pairs, count, 1)
        rays = _homogeneous(points) @ torch.linalg.inv(self.camera[:, source]).mT
        world = (rays * depth) @ self.pose[:, source, :3, :3].mT + self.pose[:, source, None, :3, 3]
        seen = (world - self.pose[:, target, None, :3, 3]) @ self.pose[:, target, :3, :3]
        found, in_front = _divided(seen @ self.camera[:, target].mT)
        return found, in_front & (depth[..., 0] > 0)


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], -1)


def _divided(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective division; False where the point is not in front of the camera."""
    in_front = seen[..., 2] > 1e-6
    depth = torch.where(in_front, seen[..., 2], 1.0)
    return torch.where(in_front[..., None], seen[..., :2] / depth[..., None], 0.0), in_front
