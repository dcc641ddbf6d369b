"""Chamfer distances as others' evaluation code computes them, on one pair of meshes in one frame.

All start from points; they differ in which points, in the power, in what is done with the two directions, and in the scale.
"""

import numpy as np
from scipy.spatial import cKDTree

from evaluation.metrics.geometry import surface_samples, without_degenerate
from infra.seeds import rng_for
from rendering.view_set import Mesh


def two_ways(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from every point of `[N, 3]` to the nearest of `[M, 3]`, and the other way: `[N]`, `[M]`."""
    return cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]


def chamfer_mean(a: np.ndarray, b: np.ndarray) -> float:
    """(mean + mean) / 2, not squared: SyncDreamer, EscherNet, TTT3R."""
    there, back = two_ways(a, b)
    return float((there.mean() + back.mean()) / 2)


def chamfer_sum(a: np.ndarray, b: np.ndarray) -> float:
    """mean + mean, not squared: point-cloud-utils, LASA's chamfer_L1."""
    there, back = two_ways(a, b)
    return float(there.mean() + back.mean())


def chamfer_squared(a: np.ndarray, b: np.ndarray) -> float:
    """mean of squares + mean of squares: PyTorch3D's default, LASA's chamfer_L2."""
    there, back = two_ways(a, b)
    return float((there**2).mean() + (back**2).mean())


def sampled(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    """`count` area-uniform points `[count, 3]`."""
    return surface_samples(without_degenerate(mesh), count, rng_for(seed, "convention samples"))[0]


def used_vertices(mesh: Mesh) -> np.ndarray:
    """Vertices `[N, 3]` that triangles use; how densely they lie is the modeller's whim (EscherNet takes them for points)."""
    return np.asarray(mesh.vertices, np.float64)[np.unique(mesh.faces)]


def own_box(mesh: Mesh, side: float = 1.0) -> Mesh:
    """The mesh with its own box centred and of that longest side: hides errors of place and size."""
    points = used_vertices(mesh)
    low, high = points.min(0), points.max(0)
    return Mesh((np.asarray(mesh.vertices, np.float64) - (low + high) / 2) * side / float((high - low).max()), mesh.faces)


def scaled(mesh: Mesh, factor: float) -> Mesh:
    """The mesh times a factor: an object that fills [-1, 1] instead of [-0.5, 0.5] has twice the distances."""
    return Mesh(np.asarray(mesh.vertices, np.float64) * factor, mesh.faces)
