"""Do views agree on colour where they see one point? Points of a view are looked up in its nearest neighbours.

The surface is the views' own hull (`hull_warp_psnr`: no truth needed) or a known depth (`overlap_psnr`). PSNR is that of the
mean squared error over all pairs of (point, neighbour): one dB figure of the set, not a mean of dB. Its height depends on the
object, on the views' spacing and on how good the surface is, so it compares only with the figure of other pictures of the
same object from the same cameras, best with that of the true ones (the ceiling).
"""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy import ndimage
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.metrics.geometry import Figures
from evaluation.metrics.image import PSNR_CAP_DB, mask_of
from rendering.cameras import Camera
from rendering.view_set import Mesh, on_white

NEIGHBOURS = 4
POINTS_PER_VIEW = 1500
# Surface seen at a flatter angle than this (cosine) is left out: there a small error of the hull is a large one in the picture.
MIN_COSINE = 0.2
# Outlines are off by about a pixel of a picture of this size (the hull's error), so that much of every mask is left out.
ERODED_AT_PX = 128
OVERLAP_METRICS = ("overlap_psnr", "overlap_psnr_truth", "overlap_psnr_ratio")


@dataclass(frozen=True)
class Agreement:
    """How well colours agree.

    Attributes:
        psnr: dB over all pairs, at most `PSNR_CAP_DB`; None where no point is seen from two views.
        of_views: dB `[V]` over the pairs that begin or end in a view; NaN where there are none. The lowest names the odd view.
        pairs: how many (point, neighbour) pairs there were.
    """

    psnr: float | None
    of_views: np.ndarray
    pairs: int

    @property
    def worst_view(self) -> int | None:
        return None if np.isnan(self.of_views).all() else int(np.nanargmin(self.of_views))


@dataclass(frozen=True)
class Pairs:
    """Surface points as seen from two views: view index and continuous pixel (row, column; centres at whole numbers) in both."""

    source: np.ndarray
    source_px: np.ndarray
    target: np.ndarray
    target_px: np.ndarray


_NO_PAIRS = Pairs(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2)))


def hull_warp_psnr(
    mesh: Mesh, rgba: np.ndarray, camera: Camera, neighbours: int = NEIGHBOURS, points_per_view: int = POINTS_PER_VIEW
) -> Agreement:
    """Agreement of pictures uint8 `[V, H, W, 4]` on the surface `mesh`, best the hull of the same views.

    Colours are straight ones: only foreground is looked up, so the background plays no part.
    """
    return agreement(rgba[..., :3].astype(np.float32) / 255.0, hull_pairs(mesh, mask_of(rgba), camera, neighbours, points_per_view))


def hull_pairs(
    mesh: Mesh, masks: np.ndarray, camera: Camera, neighbours: int = NEIGHBOURS, points_per_view: int = POINTS_PER_VIEW
) -> Pairs:
    """What two views both see of `mesh`, by boolean masks `[V, H, W]`.

    Points: where the rays of a view's foreground pixels (at most `points_per_view`, evenly picked) first meet the mesh. A
    neighbour sees such a point if the surface faces it, a shadow ray reaches it, and the point falls into its foreground. Outlines
    are eroded on both sides.
    """
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    rays, normals = RayMeshIntersector(body), np.asarray(body.vertex_normals)[mesh.faces].mean(1)
    corner, planes = np.asarray(mesh.vertices, np.float64)[mesh.faces[:, 0]], np.asarray(body.face_normals)
    lift = 2e-3 * float(np.ptp(mesh.vertices, axis=0).max())
    near = nearest_views(camera, np.asarray(mesh.vertices).mean(0), neighbours)
    masks, shape = _eroded(masks), masks.shape[1:]
    found, starts, ends = [_NO_PAIRS], [np.zeros((0, 3))], [np.zeros((0, 3))]
    for i in range(len(masks)):
        pixel = _picked(masks[i], points_per_view)
        origin, direction = camera[i].position, _directions(camera[i], pixel, shape)
        face = rays.intersects_first(np.broadcast_to(origin, direction.shape), direction)
        pixel, direction, face = pixel[face >= 0], direction[face >= 0], face[face >= 0]
        along = ((corner[face] - origin) * planes[face]).sum(-1) / (direction * planes[face]).sum(-1)
        points, normal = origin + along[:, None] * direction, normals[face]
        faces_source = -(normal * direction).sum(-1) > MIN_COSINE
        for j in near[i]:
            towards = camera[j].position - points
            seen = faces_source & ((normal * towards).sum(-1) > MIN_COSINE * np.linalg.norm(towards, axis=-1))
            there, _ = _pixels(camera[j], points, shape)
            seen &= _within(masks[j], there)
            found.append(_pairs_of(i, pixel[seen], j, there[seen]))
            starts.append(points[seen] + lift * normal[seen])
            ends.append(np.broadcast_to(camera[j].position, (int(seen.sum()), 3)))
    start, end = np.concatenate(starts), np.concatenate(ends)
    return _joined(found, ~rays.intersects_any(start, end - start) if len(start) else np.zeros(0, bool))


def overlap_psnr(
    rgba: np.ndarray, depth: np.ndarray, camera: Camera, neighbours: int = NEIGHBOURS, points_per_view: int = POINTS_PER_VIEW
) -> Agreement:
    """Agreement of pictures uint8 `[V, H, W, 4]` on the surface whose planar z-depth `[V, H, W]` is known (0: nothing there)."""
    return agreement(on_white(rgba), depth_pairs(depth, camera, neighbours, points_per_view))


def overlap_figures(
    truth: np.ndarray, generated: np.ndarray, depth: np.ndarray, camera: Camera, neighbours: int = NEIGHBOURS
) -> tuple[Figures, Agreement]:
    """`OVERLAP_METRICS` of generated pictures on the true surface, and their agreement view by view (MVDiffusion, Tang et al. 2023).

    Both sets uint8 `[V, H, W, 4]` with the depth `[V, H, W]` of the truth. The ratio generated / truth of the dB figures is 1 where
    generated views agree as well as true ones; all are None where no point is seen twice.
    """
    if truth.shape != generated.shape or truth.shape[:3] != depth.shape:
        raise ValueError(f"pictures and depths differ in shape: {truth.shape}, {generated.shape}, {depth.shape}")
    pairs = depth_pairs(depth, camera, neighbours)
    ceiling, made = agreement(on_white(truth), pairs), agreement(on_white(generated), pairs)
    if made.psnr is None or not ceiling.psnr:
        return dict.fromkeys(OVERLAP_METRICS), made
    return dict(zip(OVERLAP_METRICS, (made.psnr, ceiling.psnr, made.psnr / ceiling.psnr), strict=True)), made


def depth_pairs(depth: np.ndarray, camera: Camera, neighbours: int = NEIGHBOURS, points_per_view: int = POINTS_PER_VIEW) -> Pairs:
    """What two views both see by their z-depths `[V, H, W]`: a point's depth there is the one stored, within a pixel's width."""
    masks = _eroded(depth > 0)
    picked = [_picked(mask, points_per_view) for mask in masks]
    points = []
    for i, pixel in enumerate(picked):
        direction = _directions(camera[i], pixel, depth.shape[1:])
        along = depth[i][tuple(pixel.T)] / (direction @ camera[i].c2w[:3, 2])
        points.append(camera[i].position + along[:, None] * direction)
    everything = np.concatenate(points)
    if len(everything) == 0:
        return _NO_PAIRS
    found = [_NO_PAIRS]
    for i, near in enumerate(nearest_views(camera, everything.mean(0), neighbours)):
        for j in near:
            there, z_depth = _pixels(camera[j], points[i], depth.shape[1:])
            stored = ndimage.map_coordinates(depth[j], np.nan_to_num(there).T, order=1, mode="nearest")
            width = z_depth / (camera[j].intrinsics[0] * depth.shape[2])
            seen = _within(masks[j], there) & (np.abs(z_depth - stored) < width)
            found.append(_pairs_of(i, picked[i][seen], j, there[seen]))
    return _joined(found, np.ones(sum(len(pairs.source) for pairs in found), bool))


def agreement(rgb: np.ndarray, pairs: Pairs) -> Agreement:
    """PSNR of float RGB `[V, H, W, 3]` in [0, 1] over the pairs, bilinear between pixels."""
    rgb = np.asarray(rgb, np.float64)
    squared = ((_colours(rgb, pairs.source, pairs.source_px) - _colours(rgb, pairs.target, pairs.target_px)) ** 2).mean(-1)
    views, count = len(rgb), len(squared)
    if count == 0:
        return Agreement(None, np.full(views, np.nan), 0)
    both = np.concatenate([pairs.source, pairs.target])
    shares = np.bincount(both, minlength=views)
    errors = np.bincount(both, np.concatenate([squared, squared]), views)
    mean = np.divide(errors, shares, out=np.full(views, np.nan), where=shares > 0)
    return Agreement(float(_db(squared.mean())), _db(mean), count)


def nearest_views(camera: Camera, centre: np.ndarray, count: int) -> np.ndarray:
    """For each view the `count` others `[V, count]` with the smallest angle as seen from `centre` `[3]`; fewer where there are fewer."""
    outward = camera.position - centre
    outward = outward / np.linalg.norm(outward, axis=-1, keepdims=True)
    cosine = outward @ outward.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(camera) - 1)]


def _db(mse: np.ndarray) -> np.ndarray:
    return np.minimum(-10.0 * np.log10(np.maximum(mse, 1e-30)), PSNR_CAP_DB)


def _eroded(masks: np.ndarray) -> np.ndarray:
    margin = max(1, round(max(masks.shape[1:]) / ERODED_AT_PX))
    around = np.ones((1, 2 * margin + 1, 2 * margin + 1), bool)
    return ndimage.binary_erosion(masks, around, border_value=0)


def _picked(mask: np.ndarray, count: int) -> np.ndarray:
    """Row and column `[N, 2]` of at most `count` pixels of a mask, evenly spread in reading order."""
    pixels = np.argwhere(mask)
    return pixels if len(pixels) <= count else pixels[np.linspace(0, len(pixels) - 1, count).round().astype(int)]


def _directions(camera: Camera, pixel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unit directions `[N, 3]` of one camera through pixels (row, column)."""
    height, width = shape
    xy = (pixel[:, ::-1] + 0.5) / (width, height)
    plane = (xy - camera.intrinsics[2:]) / camera.intrinsics[:2]
    world = np.concatenate([plane, np.ones((len(plane), 1))], 1) @ camera.c2w[:3, :3].T
    return world / np.linalg.norm(world, axis=-1, keepdims=True)


def _pixels(camera: Camera, points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column `[N, 2]` of points in one view (NaN behind it), and their z-depth `[N]`."""
    height, width = shape
    xy, z_depth = camera.project(points)
    return np.where(z_depth[:, None] > 0, xy[:, ::-1] * (height, width) - 0.5, np.nan), z_depth


def _within(mask: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Whether the nearest pixel of (row, column) `[N, 2]` is in the mask `[H, W]`."""
    known = np.isfinite(pixel).all(1)
    nearest = np.round(np.where(known[:, None], pixel, -1.0)).astype(int)
    inside = known & (nearest >= 0).all(1) & (nearest < mask.shape).all(1)
    rows, columns = np.where(inside[:, None], nearest, 0).T
    return inside & mask[rows, columns]


def _pairs_of(i: int, pixel: np.ndarray, j: int, there: np.ndarray) -> Pairs:
    return Pairs(np.full(len(pixel), i), pixel.astype(np.float64), np.full(len(there), j), there)


def _joined(found: list[Pairs], keep: np.ndarray) -> Pairs:
    parts = [(p.source, p.source_px, p.target, p.target_px) for p in found]
    return Pairs(*(np.concatenate(column)[keep] for column in zip(*parts, strict=True)))


def _colours(rgb: np.ndarray, view: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """RGB `[N, 3]`, bilinear."""
    where = np.concatenate([view[None].astype(np.float64), pixel.T])
    return np.stack([ndimage.map_coordinates(rgb[..., channel], where, order=1, mode="nearest") for channel in range(3)], -1)
