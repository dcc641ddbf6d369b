"""Colours of points on a surface, from the pictures that see them."""

import numpy as np
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree
from trimesh.ray.ray_pyembree import RayMeshIntersector

from rendering.cameras import Camera
from rendering.view_set import Mesh

FACING_POWER = 3
NOTHING_SEEN = np.uint8(255)
LEAST_COSINE = 0.05
# Rays start this share of the object's size above the surface, so that it does not hide itself.
LIFT = 2e-3
HIDDEN, VISIBLE, UNKNOWN = 0, 1, 2


def vertex_colors(mesh: Mesh, rgba: np.ndarray, camera: Camera) -> np.ndarray:
    """uint8 sRGB `[N, 3]` per vertex; see `point_colors`."""
    normals = np.asarray(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals)
    return point_colors(mesh.vertices, normals, mesh, rgba, camera)


def point_colors(
    points: np.ndarray,
    normals: np.ndarray,
    mesh: Mesh,
    rgba: np.ndarray,
    camera: Camera,
    facing_power: float = FACING_POWER,
    sight: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 sRGB `[N, 3]`: the mean of the pictures that see a point, weighted by cos^`facing_power` of the angle of view.

    `points` and unit `normals` `[N, 3]` lie on `mesh`, which also hides them from cameras. Points that no view sees take the
    colour of the nearest one that is seen; white where none is. `sight`: int8 `[V, N]` where it is known already
    (`VISIBLE`, `HIDDEN`), `UNKNOWN` where a ray must tell.
    """
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    total, weights = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    for i, image in enumerate(rgba):
        cosine = cosines(points, normals, camera[i])
        facing = np.flatnonzero(cosine > LEAST_COSINE)
        seen = facing[_seen(facing, points, normals, camera[i], rays, None if sight is None else sight[i])]
        color, alpha = _picture_at(image, camera[i], points[seen])
        weight = (cosine[seen] ** facing_power).astype(np.float32)
        total[seen] += weight[:, None] * color
        weights[seen] += weight * alpha
    known = weights > 1e-6
    if not known.any():
        return np.full((len(points), 3), NOTHING_SEEN, np.uint8)
    colors = np.zeros_like(total)
    colors[known] = total[known] / weights[known, None]
    if not known.all():
        _, nearest = cKDTree(points[known]).query(points[~known])
        colors[~known] = colors[known][nearest]
    return np.round(np.clip(colors, 0.0, 1.0) * 255).astype(np.uint8)


def vertex_sight(mesh: Mesh, normals: np.ndarray, camera: Camera) -> np.ndarray:
    """bool `[V, N]`: which vertices each camera sees."""
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    sight = np.zeros((len(camera), len(mesh.vertices)), bool)
    for i in range(len(camera)):
        facing = np.flatnonzero(cosines(mesh.vertices, normals, camera[i]) > LEAST_COSINE)
        sight[i, facing] = _seen(facing, mesh.vertices, normals, camera[i], rays, None)
    return sight


def cosines(points: np.ndarray, normals: np.ndarray, camera: Camera) -> np.ndarray:
    """Cosine `[N]` of the angle between the normals and the directions to one camera."""
    towards = camera.position - points
    return (normals * towards).sum(-1) / np.linalg.norm(towards, axis=-1)


def _seen(
    facing: np.ndarray, points: np.ndarray, normals: np.ndarray, camera: Camera, rays: RayMeshIntersector, sight: np.ndarray | None
) -> np.ndarray:
    """bool: which of the points at `facing` the camera sees; rays are cast where `sight` does not tell."""
    seen = np.zeros(len(facing), bool) if sight is None else sight[facing] == VISIBLE
    open_ = np.arange(len(facing)) if sight is None else np.flatnonzero(sight[facing] == UNKNOWN)
    lift = LIFT * float(np.ptp(rays.mesh.bounds, axis=0).max())
    start = points[facing[open_]] + lift * normals[facing[open_]]
    if len(start):
        seen[open_] = ~rays.intersects_any(start, camera.position - start)
    return seen


def _picture_at(image: np.ndarray, camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colour `[N, 3]` and trust `[N]` in [0, 1] at projected points; pixels on the outline count little."""
    height, width = image.shape[:2]
    values = image.astype(np.float32) / 255.0
    # Outline pixels mix with the background or belong to something in front; a small share is left for thin parts.
    trust = values[..., 3] * (0.02 + 0.98 * (ndimage.minimum_filter(image[..., 3], 3) > 250))
    layers = np.concatenate([values[..., :3] * trust[..., None], trust[..., None]], -1)
    layers = np.pad(layers, ((1, 1), (1, 1), (0, 0)))  # nothing is trusted beyond the frame
    image_xy, _ = camera.project(points)
    position = image_xy * [width, height] + 0.5  # the padding moves pixel centres from .5 to 1.5
    position = np.clip(np.nan_to_num(position, nan=0.0, posinf=0.0, neginf=0.0), 0.0, [width + 0.999, height + 0.999])
    column, row = np.floor(position).astype(np.int64).T
    right, down = (position - np.floor(position)).astype(np.float32).T[..., None]
    above = layers[row, column] * (1 - right) + layers[row, column + 1] * right
    below = layers[row + 1, column] * (1 - right) + layers[row + 1, column + 1] * right
    sampled = above * (1 - down) + below * down
    return sampled[:, :3], sampled[:, 3]
