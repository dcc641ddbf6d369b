"""The visual hull: the largest solid that agrees with (nearly) all masks, coloured by the pictures.

Each view says of each grid corner how far it lies inside the silhouette, in world units at that depth. The hull is the
zero level of the (votes + 1)-th smallest answer, so that up to `votes` views may contradict a point without carving it.
What lies outside a picture is unknown to that view, not empty.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from evaluation.meshing.colors import vertex_colors
from evaluation.metrics.image import mask_of
from rendering.cameras import Camera
from rendering.view_set import Mesh

COARSE_RESOLUTION = 40
MANY_VIEWS = 16
SMALLEST_PART = 0.02
UNSEEN = np.float32(1e9)


class HullFailure(Exception):
    """No surface could be made; `reason` is a class for tables, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class HullSettings:
    """How the hull is carved.

    Attributes:
        resolution: cells along the longest side of the object's box.
        votes: views that may contradict a point without carving it; None: 1 from 16 views on, else 0.
    """

    resolution: int = 64
    votes: int | None = None

    def votes_for(self, num_views: int) -> int:
        return self.votes if self.votes is not None else int(num_views >= MANY_VIEWS)


DEFAULT_SETTINGS = HullSettings()


@dataclass(frozen=True)
class Grid:
    """Corners of cubic cells: `low` `[3]` is the first corner, `size` the side of a cell, `shape` the corners per axis."""

    low: np.ndarray
    size: float
    shape: tuple[int, int, int]

    def points(self) -> np.ndarray:
        axes = [self.low[i] + np.arange(self.shape[i]) * self.size for i in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def visual_hull(rgba: np.ndarray, camera: Camera, settings: HullSettings = DEFAULT_SETTINGS) -> tuple[Mesh, np.ndarray]:
    """Hull mesh in the cameras' world (outward counter-clockwise) and its uint8 sRGB vertex colours `[N, 3]`.

    `rgba`: uint8 `[V, H, W, 4]`, straight alpha. Raises HullFailure `empty_hull` when the masks leave no solid, and
    `no_common_centre` when the cameras do not look at a common region.
    """
    mesh = hull_mesh(rgba, camera, settings)
    return mesh, vertex_colors(mesh, rgba, camera)


def hull_mesh(rgba: np.ndarray, camera: Camera, settings: HullSettings = DEFAULT_SETTINGS) -> Mesh:
    """The hull alone, without colours; see `visual_hull`."""
    if not mask_of(rgba).any():
        raise HullFailure("empty_hull", "no picture has any foreground")
    depths_px = np.stack([silhouette_depth_px(image[..., 3]) for image in rgba])
    votes = settings.votes_for(len(rgba))
    grid = _object_grid(depths_px, camera, votes, settings.resolution)
    return _surface(carve(depths_px, camera, grid, votes), grid)


def silhouette_depth_px(alpha: np.ndarray) -> np.ndarray:
    """Signed distance `[H, W]` in pixels from pixel centres to the silhouette of uint8 alpha `[H, W]`, positive inside.

    Partly covered pixels place the edge within the pixel: coverage a puts it a - 0.5 from the centre.
    """
    coverage = alpha.astype(np.float32) / 255.0
    inside = alpha > 127
    if inside.all() or not inside.any():
        return np.full(alpha.shape, UNSEEN if inside.all() else -UNSEEN, np.float32)
    edge = (inside ^ ndimage.binary_erosion(inside, border_value=1)) | (~inside & ndimage.binary_dilation(inside))
    distance, (row, column) = ndimage.distance_transform_edt(~edge, return_indices=True)
    return (np.where(inside, distance, -distance) + coverage[row, column] - 0.5).astype(np.float32)


def carve(depths_px: np.ndarray, camera: Camera, grid: Grid, votes: int) -> np.ndarray:
    """The field `[X, Y, Z]` on the grid's corners, in world units, positive inside.

    Exact near the surface; corners found to lie more than three cells outside are not looked at again.
    """
    points = grid.points()
    smallest = np.full((votes + 1, len(points)), UNSEEN, np.float32)
    seen = np.zeros(len(points), np.int32)
    active = np.arange(len(points))
    for depth_px, one in zip(depths_px, (camera[i] for i in range(len(camera))), strict=True):
        value, in_frame = _depth_in_world(depth_px, one, points[active])
        seen[active] += in_frame
        for k in range(votes + 1):  # insertion into the sorted list of the smallest answers
            current = smallest[k, active]
            smallest[k, active], value = np.minimum(current, value), np.maximum(current, value)
        active = active[smallest[votes, active] > -3 * grid.size]
    field = smallest[votes]
    # A point that (nearly) no view has in its frame is not known to be solid.
    needed = min(len(camera), max(votes + 2, len(camera) // 8))
    field[(field > 0) & (seen < needed)] = -grid.size
    return np.minimum(field, 4 * grid.size).reshape(grid.shape)


def _depth_in_world(depth_px: np.ndarray, camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One view's answer `[N]` in world units, and which points are in its frame; `UNSEEN` outside the frame."""
    height, width = depth_px.shape
    image_xy, z_depth = camera.project(points)
    column, row = image_xy[:, 0] * width - 0.5, image_xy[:, 1] * height - 0.5
    in_frame = (z_depth > 0) & (column >= -0.5) & (column <= width - 0.5) & (row >= -0.5) & (row <= height - 0.5)
    value = np.full(len(points), UNSEEN, np.float32)
    sampled = ndimage.map_coordinates(depth_px, [row[in_frame], column[in_frame]], order=1, mode="nearest")
    value[in_frame] = sampled * (z_depth[in_frame] / (camera.intrinsics[0] * width))
    return value, in_frame


def _object_grid(depths_px: np.ndarray, camera: Camera, votes: int, resolution: int) -> Grid:
    """A grid that fits the object, found on a coarse one over all that the cameras see together."""
    centre, half = _common_region(camera)
    coarse = Grid(centre - half, 2 * half / COARSE_RESOLUTION, (COARSE_RESOLUTION + 1,) * 3)
    # A part thinner than a coarse cell may miss every corner, so everything within a cell's diagonal counts.
    near = np.argwhere(carve(depths_px, camera, coarse, votes) > -np.sqrt(3) / 2 * coarse.size)
    if len(near) == 0:
        raise HullFailure("empty_hull", "the masks contradict each other everywhere")
    low, high = coarse.low + near.min(0) * coarse.size, coarse.low + near.max(0) * coarse.size
    size = max(float((high - low).max()), coarse.size) / resolution
    counts = np.ceil((high - low) / size).astype(int) + 2
    return Grid(low - size, size, (int(counts[0]) + 1, int(counts[1]) + 1, int(counts[2]) + 1))


def _common_region(camera: Camera) -> tuple[np.ndarray, float]:
    """The point nearest to all optical axes, and the half side of a cube about it that fills the widest picture."""
    forward = camera.c2w[:, :3, 2] / np.linalg.norm(camera.c2w[:, :3, 2], axis=-1, keepdims=True)
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.sum(0)
    if len(camera) < 2 or np.linalg.cond(normal) > 1e6:
        raise HullFailure("no_common_centre", "the optical axes are parallel or there is one view only")
    centre = np.linalg.solve(normal, (across @ camera.position[:, :, None]).sum(0))[:, 0]
    distance = np.linalg.norm(camera.position - centre, axis=-1)
    return centre, float(np.max(0.5 * distance / camera.intrinsics[:, :2].min(-1)))


def _surface(field: np.ndarray, grid: Grid) -> Mesh:
    """Marching cubes on the parts that are large enough, inner cavities (which no silhouette shows) filled."""
    labels, count = ndimage.label(field > 0, structure=np.ones((3, 3, 3)))
    if count == 0:
        raise HullFailure("empty_hull", "the masks leave no solid")
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.isin(labels, 1 + np.flatnonzero(sizes >= SMALLEST_PART * sizes.max()))
    field = np.where((field > 0) & ~kept, -field, field)
    cavity = ndimage.binary_fill_holes(kept) & ~kept
    field = np.where(cavity, np.maximum(np.abs(field), 0.1 * grid.size), field)
    closed = np.pad(field, 1, constant_values=-grid.size)
    vertices, faces, _, _ = marching_cubes(closed, level=0.0, gradient_direction="ascent")
    return Mesh((grid.low + (vertices - 1) * grid.size).astype(np.float32), faces.astype(np.int32))
