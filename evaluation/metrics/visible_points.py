"""Chamfer distance over what a ring of cameras sees, as SyncDreamer's `eval_mesh.py` measures it (the "GSO-30" tables).

A mesh is turned into depth maps from the protocol's cameras, these back into points, and the points of all maps thinned to one
per voxel. Undersides and insides that no camera sees do not count. Both meshes go the same way here; SyncDreamer reads the
truth's maps from depth PNGs of 16 bit instead, and its own points lie half a pixel off, on both sides alike.
"""

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.metrics.geometry import Figures
from rendering.cameras import Camera
from rendering.view_set import Mesh

SIZE_PX = 256
VOXEL = 0.01
VISIBLE_METRICS = ("accuracy_visible", "completeness_visible", "chamfer_visible")


def compare_visible(reference: Mesh, generated: Mesh, camera: Camera, size_px: int = SIZE_PX, voxel: float = VOXEL) -> Figures:
    """`VISIBLE_METRICS`: mean distances between the visible points of two meshes in one frame, not squared; the mean of both ways.

    None where a mesh is seen by no camera.
    """
    truth, made = (visible_points(mesh, camera, size_px, voxel) for mesh in (reference, generated))
    if len(truth) == 0 or len(made) == 0:
        return dict.fromkeys(VISIBLE_METRICS)
    accuracy, completeness = float(cKDTree(truth).query(made)[0].mean()), float(cKDTree(made).query(truth)[0].mean())
    return dict(zip(VISIBLE_METRICS, (accuracy, completeness, (accuracy + completeness) / 2), strict=True))


def visible_points(mesh: Mesh, camera: Camera, size_px: int = SIZE_PX, voxel: float = VOXEL) -> np.ndarray:
    """Points `[N, 3]` of a mesh that cameras `[V]` see through the centres of `size_px` x `size_px` pixels, one per voxel."""
    return voxel_means(points_of_depth(depth_maps(mesh, camera, size_px), camera), voxel)


def depth_maps(mesh: Mesh, camera: Camera, size_px: int) -> np.ndarray:
    """Planar z-depth `[V, size_px, size_px]` of the nearest surface, 0 where there is none."""
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    depth = np.zeros((len(camera), size_px * size_px))
    for map_, one in zip(depth, (camera[i] for i in range(len(camera))), strict=True):
        origins, directions = (values.reshape(-1, 3) for values in one.rays(size_px, size_px))
        faces = rays.intersects_first(origins, directions)
        hit = np.flatnonzero(faces >= 0)
        # Embree counts in single precision; the distance along the ray is taken from the triangle's plane.
        normal, towards = normals[faces[hit]], (directions[hit])
        along = ((corners[faces[hit], 0] - origins[hit]) * normal).sum(-1) / (towards * normal).sum(-1)
        map_[hit] = along * (towards @ one.c2w[:3, 2])
    return depth.reshape(len(camera), size_px, size_px)


def points_of_depth(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """World points `[N, 3]` of planar z-depth `[V, H, W]`, pixel centres at 0.5; pixels of depth 0 give none."""
    found = []
    for map_, one in zip(depth, (camera[i] for i in range(len(camera))), strict=True):
        origins, directions = one.rays(*map_.shape)
        seen = map_ > 0
        along = map_[seen] / (directions[seen] @ one.c2w[:3, 2])
        found.append(origins[seen] + along[:, None] * directions[seen])
    return np.concatenate(found)


def voxel_means(points: np.ndarray, size: float) -> np.ndarray:
    """The mean `[M, 3]` of the points `[N, 3]` in each cube of side `size`, the grid beginning half a cube below the lowest point.

    Open3D's `voxel_down_sample`, in the order of the cubes.
    """
    if len(points) == 0:
        return points
    cell = np.floor((points - (points.min(0) - size / 2)) / size).astype(np.int64)
    _, index, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index.reshape(-1), points[:, axis], len(count)) for axis in range(3)], -1)
    return sums / count[:, None]
