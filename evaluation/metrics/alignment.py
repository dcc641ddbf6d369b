"""A generated mesh moved onto the truth before it is measured. Always reported beside the figures of the mesh as it is.

Papers that align hide errors of place, size and turn, some of them without saying so; the figures of aligned meshes have names
of their own here (`chamfer_bbox_aligned`, `chamfer_icp_aligned`).
"""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from evaluation.metrics.geometry import surface_samples, without_degenerate
from infra.errors import UserError
from infra.seeds import rng_for
from rendering.cameras import turn_about_z
from rendering.view_set import Mesh

BBOX, ICP = "bbox", "icp"
ALIGNMENTS = (BBOX, ICP)
COARSE_POINTS, POINTS = 500, 4000
ROUNDS = 40
SETTLED = 1e-5

DESCRIBED = {
    BBOX: "the generated mesh's box centre and longest side brought to the truth's: errors of place and size are hidden",
    ICP: "rotation, uniform scale and shift by iterated closest points in both directions, from the mesh as it is and from its bbox "
    "alignment, the better one kept: errors of place, size and turn are hidden",
}


def aligned_name(metric: str, how: str) -> str:
    """Name of a figure measured after an alignment."""
    return f"{metric}_{how}_aligned"


def aligned(reference: Mesh, generated: Mesh, how: str, turns: int = 1, seed: int = 0) -> tuple[Mesh, np.ndarray]:
    """The generated mesh moved onto the reference, and the similarity `[4, 4]` (for column vectors) that did it.

    `how`: `bbox` or `icp` (`DESCRIBED`). With `turns` above 1, `icp` also starts from that many even turns about Z, for methods
    whose azimuth is not known. A reflection is never used. Meshes need some area. Raises UserError for another `how`.
    """
    if how not in ALIGNMENTS:
        raise UserError(f"unknown alignment '{how}'", f"choose {' or '.join(ALIGNMENTS)}")
    box = _box_alignment(reference, generated)
    matrix = box if how == BBOX else _closest_points(reference, generated, box, turns, seed)
    moved = np.asarray(generated.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return Mesh(moved, generated.faces), matrix


def _box(mesh: Mesh) -> tuple[np.ndarray, float]:
    """Centre and longest side of the box about the surface; vertices that no triangle uses do not count."""
    used = mesh.vertices[np.unique(without_degenerate(mesh).faces)]
    low, high = used.min(0).astype(np.float64), used.max(0).astype(np.float64)
    return (low + high) / 2, float((high - low).max())


def _box_alignment(reference: Mesh, generated: Mesh) -> np.ndarray:
    (centre, side), (own_centre, own_side) = _box(reference), _box(generated)
    matrix = np.eye(4)
    matrix[:3, :3] *= side / own_side
    matrix[:3, 3] = centre - own_centre * side / own_side
    return matrix


def _closest_points(reference: Mesh, generated: Mesh, box: np.ndarray, turns: int, seed: int) -> np.ndarray:
    truth, made = (
        surface_samples(without_degenerate(mesh), POINTS, rng_for(seed, "alignment samples", name))[0]
        for mesh, name in ((reference, "reference"), (generated, "generated"))
    )
    centre = np.eye(4)
    centre[:3, 3] = _box(reference)[0]
    about = [centre @ turn_about_z(360.0 * k / turns) @ np.linalg.inv(centre) for k in range(turns)]
    starts = [turn @ start for turn in about for start in (np.eye(4), box)]
    few_truth, few_made = truth[:COARSE_POINTS], made[:COARSE_POINTS]
    best = min((_refined(few_truth, few_made, start) for start in starts), key=lambda matrix: _chamfer(few_truth, _moved(few_made, matrix)))
    # What was not moved is a candidate too: an alignment never leaves a mesh further off than it came.
    return min((np.eye(4), box, _refined(truth, made, best)), key=lambda matrix: _chamfer(truth, _moved(made, matrix)))


def _refined(truth: np.ndarray, made: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Iterated closest points. Pairs of both directions count: one direction alone lets the mesh shrink onto a part of the other."""
    tree, before = cKDTree(truth), np.inf
    for _ in range(ROUNDS):
        moved = _moved(made, matrix)
        there, nearest = tree.query(moved)
        back, nearest_made = cKDTree(moved).query(truth)
        error = (np.mean(there**2) + np.mean(back**2)) / 2
        if before - error < SETTLED * before:
            break
        before = error
        sources, targets = np.concatenate([made, made[nearest_made]]), np.concatenate([truth[nearest], truth])
        matrix, _, _ = trimesh.registration.procrustes(sources, targets, reflection=False)
    return matrix


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _chamfer(a: np.ndarray, b: np.ndarray) -> float:
    return float((cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2)
