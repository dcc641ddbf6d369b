"""Fidelity of one surface to another: distances, F-scores, normals and the overlap of the solids.

Distances are plain (not squared) and in the unit of the vertices. Points are drawn uniformly by area from one surface
and measured to the triangles of the other, so two samplings of one surface are 0 apart: no sampling floor. Papers measure to
points drawn from the other surface instead; `distance="points"` does so and tells the floor that this adds.
"""

from dataclasses import dataclass
from typing import Any

import igl
import numpy as np
import trimesh
from scipy.spatial import cKDTree

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.view_set import Mesh

Figures = dict[str, float | None]
TRIANGLE, POINTS = "triangle", "points"
FLOOR = "chamfer_floor"


@dataclass(frozen=True)
class GeometrySettings:
    """How surfaces are compared.

    Attributes:
        points: samples per surface.
        volume_resolution: cells along the longest side of the joint bounding box for `volume_iou`.
        thresholds: distances at which F-scores are reported.
        seed: of the surface samples.
        distance: `triangle` measures samples of one surface to the triangles of the other; `points` to samples of the other,
            as many, which adds the sampling floor (reported as `chamfer_floor`).
        volume_box: low and high end of a cube on whose lattice `volume_iou` counts, `volume_resolution` points a side from the
            low end on (as mesh2sdf lays them: the high end is left out); None: cells of the joint bounding box.
    """

    points: int = 100_000
    volume_resolution: int = 128
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    seed: int = 0
    distance: str = TRIANGLE
    volume_box: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.distance not in (TRIANGLE, POINTS):
            raise UserError(f"unknown distance '{self.distance}'", f"choose {TRIANGLE} or {POINTS}")
        if self.volume_box is not None and not self.volume_box[0] < self.volume_box[1]:
            raise UserError(f"the volume box {self.volume_box} is empty", "give its low and its high end, such as (-1, 1)")

    def metric_names(self) -> tuple[str, ...]:
        scores = tuple(f"f_score@{t:g}" for t in self.thresholds)
        floor = (FLOOR,) if self.distance == POINTS else ()
        names = ("accuracy", "completeness", "chamfer", *floor, *scores)
        return (*names, "normal_consistency", "p95_distance", "max_distance", "volume_iou")

    def described(self) -> dict[str, Any]:
        """The settings in words, for result files."""
        to, floor = "the nearest triangle", "none: points are measured to triangles"
        if self.distance == POINTS:
            to, floor = "the nearest of as many points of the other surface", f"{FLOOR}: 0.5 sqrt(area / points), mean of both directions"
        cells = "cell centres over the joint bounding box"
        if self.volume_box is not None:
            low, high = self.volume_box
            cells = f"the points {low:g} + i {(high - low) / self.volume_resolution:g} of the cube [{low:g}, {high:g}]^3"
        return {
            "points": self.points,
            "seed": self.seed,
            "volume_resolution": self.volume_resolution,
            "distance": f"area-uniform points to {to}, not squared",
            "sampling_floor": floor,
            "chamfer": "mean of accuracy (generated to reference) and completeness (reference to generated)",
            "normal_consistency": "mean |cos| between the face normals at both ends, mean of both directions",
            "p95_distance": "the larger of the two directions' 95th percentiles",
            "max_distance": "the larger of the two directions' maxima",
            "volume_iou": f"|fast winding number| > 0.5 at {cells}",
        }


DEFAULT_SETTINGS = GeometrySettings()


def surface_samples(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` points `[count, 3]` uniform by area, and the index `[count]` of the triangle each lies on."""
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    cumulative = np.cumsum(np.linalg.norm(_cross(corners), axis=-1))
    faces = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right").clip(max=len(mesh.faces) - 1)
    root, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = corners[faces].transpose(1, 0, 2)
    return (1 - root) * a + root * (1 - v) * b + root * v * c, faces


def face_normals(mesh: Mesh) -> np.ndarray:
    """Unit normals `[F, 3]`, counter-clockwise outward; zero for triangles without area."""
    cross = _cross(np.asarray(mesh.vertices, np.float64)[mesh.faces])
    length = np.linalg.norm(cross, axis=-1, keepdims=True)
    return np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)


def _cross(corners: np.ndarray) -> np.ndarray:
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def without_degenerate(mesh: Mesh) -> Mesh:
    """Float64 vertices; triangles without area removed (they have no normal and no share in area or volume)."""
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    return Mesh(vertices, faces[np.linalg.norm(_cross(vertices[faces]), axis=-1) > 0])


def compare_surfaces(reference: Mesh, generated: Mesh, settings: GeometrySettings = DEFAULT_SETTINGS) -> Figures:
    """All `settings.metric_names()` of a pair of meshes in one frame; `volume_iou` is None where neither encloses a volume.

    With `distance="points"` normals are those at the nearest point. Meshes need finite vertices and some area
    (`evaluation.mesh_io.check_mesh`); raises ValueError otherwise.
    """
    reference, generated = without_degenerate(reference), without_degenerate(generated)
    if len(reference.faces) == 0 or len(generated.faces) == 0:
        raise ValueError("a mesh has no area")
    if settings.distance == POINTS:
        to_reference, cos_to_reference, to_generated, cos_to_generated = _between_points(reference, generated, settings)
    else:
        # One stream for both directions, so that swapping the meshes swaps accuracy and completeness exactly.
        to_reference, cos_to_reference = _distances(generated, reference, settings)
        to_generated, cos_to_generated = _distances(reference, generated, settings)
    accuracy, completeness = float(to_reference.mean()), float(to_generated.mean())
    figures: Figures = {"accuracy": accuracy, "completeness": completeness, "chamfer": (accuracy + completeness) / 2}
    if settings.distance == POINTS:
        figures[FLOOR] = (sampling_floor(reference, settings.points) + sampling_floor(generated, settings.points)) / 2
    for threshold in settings.thresholds:
        figures[f"f_score@{threshold:g}"] = _f_score(to_reference, to_generated, threshold)
    figures["normal_consistency"] = float((cos_to_reference.mean() + cos_to_generated.mean()) / 2)
    figures["p95_distance"] = float(max(np.percentile(to_reference, 95), np.percentile(to_generated, 95)))
    figures["max_distance"] = float(max(to_reference.max(), to_generated.max()))
    figures["volume_iou"] = volume_iou(reference, generated, settings.volume_resolution, settings.volume_box)
    return figures


def _distances(source: Mesh, target: Mesh, settings: GeometrySettings) -> tuple[np.ndarray, np.ndarray]:
    """Distance and |cos of the normals| from samples of `source` to the nearest triangle of `target`, both `[points]`."""
    points, faces = surface_samples(source, settings.points, rng_for(settings.seed, "surface samples"))
    squared, nearest, _ = igl.point_mesh_squared_distance(points, target.vertices, target.faces)
    cosine = np.abs((face_normals(source)[faces] * face_normals(target)[nearest]).sum(-1))
    return np.sqrt(np.maximum(squared, 0.0)), cosine


def _between_points(reference: Mesh, generated: Mesh, settings: GeometrySettings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distances and |cos| to the reference's samples, then to the generated mesh's, each `[points]`."""
    # A stream for each side: the same draws on the same mesh would hide the floor that other samples would show.
    points, faces = zip(
        surface_samples(reference, settings.points, rng_for(settings.seed, "surface samples", "reference")),
        surface_samples(generated, settings.points, rng_for(settings.seed, "surface samples", "generated")),
        strict=True,
    )
    normals = face_normals(reference)[faces[0]], face_normals(generated)[faces[1]]
    to_reference, there = cKDTree(points[0]).query(points[1])
    to_generated, back = cKDTree(points[1]).query(points[0])
    cosines = np.abs((normals[1] * normals[0][there]).sum(-1)), np.abs((normals[0] * normals[1][back]).sum(-1))
    return to_reference, cosines[0], to_generated, cosines[1]


def sampling_floor(mesh: Mesh, points: int) -> float:
    """Mean distance to the nearest of `points` area-uniform samples from elsewhere on the same surface: 0.5 sqrt(area / points).

    The mean of the nearest-neighbour distance of a planar Poisson process; two samplings of one surface seem this far apart.
    """
    area = np.linalg.norm(_cross(np.asarray(mesh.vertices, np.float64)[mesh.faces]), axis=-1).sum() / 2
    return float(0.5 * np.sqrt(area / points))


def _f_score(to_reference: np.ndarray, to_generated: np.ndarray, threshold: float) -> float:
    precision, recall = float((to_reference < threshold).mean()), float((to_generated < threshold).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def occupancy(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """Boolean `[N]`: which points `[N, 3]` lie inside; holes, flipped, duplicated and two-sided shells do no harm."""
    solid = _without_doubles(without_degenerate(mesh))
    if len(solid.faces) == 0:
        return np.zeros(len(points), bool)
    vertices, faces = _finely_cut(solid)
    return np.abs(igl.fast_winding_number(vertices, faces, np.ascontiguousarray(points, np.float64))) > 0.5


def _finely_cut(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The same surface in triangles of sides up to a twentieth of its size: long ones make libigl's tree several times slower."""
    longest = float(np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0).max()) / 20
    vertices, faces = trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, longest, max_iter=12)
    return vertices, np.ascontiguousarray(faces, np.int64)


def _without_doubles(mesh: Mesh) -> Mesh:
    """Coincident vertices merged and coincident triangles kept once: front and back of a two-sided shell would cancel."""
    vertices, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = index.reshape(-1)[mesh.faces]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return Mesh(vertices, np.ascontiguousarray(faces[np.sort(first)], np.int64))


def volume_iou(reference: Mesh, generated: Mesh, resolution: int = 128, box: tuple[float, float] | None = None) -> float | None:
    """Intersection over union of the solids; None where neither encloses a point that is looked at.

    Points are the centres of cubic cells over the joint bounding box, or with `box` the lattice `box[0] + i (box[1] - box[0]) /
    resolution`, i < resolution, on every axis, where mesh2sdf's `compute(size=resolution)` has its values for the box (-1, 1).
    """
    if box is None:
        corners = np.concatenate([reference.vertices[np.unique(reference.faces)], generated.vertices[np.unique(generated.faces)]])
        points = cell_centres(corners.min(0), corners.max(0), resolution)
    else:
        axis = box[0] + np.arange(resolution) * (box[1] - box[0]) / resolution
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    inside_reference, inside_generated = occupancy(reference, points), occupancy(generated, points)
    union = np.count_nonzero(inside_reference | inside_generated)
    return None if union == 0 else np.count_nonzero(inside_reference & inside_generated) / union


def cell_centres(low: np.ndarray, high: np.ndarray, resolution: int) -> np.ndarray:
    """Centres `[N, 3]` of cubic cells that cover a box, `resolution` of them along its longest side."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    size = (high - low).max() / resolution
    counts = np.maximum(np.ceil((high - low) / size - 1e-9).astype(int), 1)
    start = (low + high) / 2 - counts * size / 2
    axes = [start[i] + (np.arange(counts[i]) + 0.5) * size for i in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
