"""Alignments undo what they are for, nothing else, and never leave a mesh further off than it came."""

import numpy as np
import pytest
import trimesh

from evaluation.metrics.alignment import aligned, aligned_name
from evaluation.metrics.directions import is_better
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces
from infra.errors import UserError
from rendering.view_set import Mesh
from tests.evaluation.shapes import plain
from tests.evaluation.traced import chair

FAST = GeometrySettings(points=3000, volume_resolution=24)


@pytest.fixture(scope="module")
def truth() -> Mesh:
    return plain(chair())


def moved(mesh: Mesh, matrix: np.ndarray) -> Mesh:
    return Mesh(mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], mesh.faces)


def similarity(scale: float, angles: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    matrix = trimesh.transformations.euler_matrix(*angles)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = shift
    return matrix


def test_the_box_alignment_undoes_place_and_size_exactly(truth: Mesh):
    change = similarity(0.7, (0, 0, 0), (0.2, -0.1, 0.3))
    made = moved(truth, change)
    assert compare_surfaces(truth, made, FAST)["chamfer"] > 0.1  # the default protocol sees the error ...
    back, matrix = aligned(truth, made, "bbox")
    assert np.abs(matrix @ change - np.eye(4)).max() < 1e-9
    assert compare_surfaces(truth, back, FAST)["chamfer"] < 1e-9  # ... and a shared box hides it


def test_stray_vertices_do_not_count_for_the_box(truth: Mesh):
    littered = Mesh(np.concatenate([truth.vertices, [[9.0, 9, 9]]]), truth.faces)
    assert np.abs(aligned(truth, littered, "bbox")[1] - np.eye(4)).max() < 1e-9


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_closest_points_find_a_small_motion(truth: Mesh, scale: float):
    change = similarity(scale, (0.15, -0.1, 0.2), (0.05, 0.04, -0.06))
    back, matrix = aligned(truth, moved(truth, change), "icp")
    assert np.abs(matrix @ change - np.eye(4)).max() < 0.02
    assert compare_surfaces(truth, back, FAST)["chamfer"] < 0.006
    assert np.linalg.det(matrix[:3, :3]) > 0


def test_a_large_turn_needs_starts_about_the_vertical(truth: Mesh):
    change = similarity(0.9, (0, 0, np.radians(130.0)), (0.1, 0, 0))
    made = moved(truth, change)
    assert compare_surfaces(truth, aligned(truth, made, "icp")[0], FAST)["chamfer"] > 0.01
    back, matrix = aligned(truth, made, "icp", turns=8)
    assert np.abs(matrix @ change - np.eye(4)).max() < 0.02
    assert compare_surfaces(truth, back, FAST)["chamfer"] < 0.006


def test_a_mirrored_mesh_stays_wrong(truth: Mesh):
    """The arm is on the other side; only a reflection could mend that."""
    mirrored = Mesh(truth.vertices * np.array([-1.0, 1, 1]), truth.faces[:, ::-1])
    back, matrix = aligned(truth, mirrored, "icp", turns=4)
    assert np.linalg.det(matrix[:3, :3]) > 0
    assert compare_surfaces(truth, back, FAST)["chamfer"] > 0.01


def test_half_a_mesh_does_not_shrink_onto_the_rest():
    """Closest points of one direction alone would let a mesh collapse; a good mesh must stay as it is."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    half = Mesh(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0])
    back, matrix = aligned(plain(ball), half, "icp")
    assert 0.8 < np.cbrt(np.linalg.det(matrix[:3, :3])) < 1.6
    before = compare_surfaces(plain(ball), half, FAST)["chamfer"]
    assert compare_surfaces(plain(ball), back, FAST)["chamfer"] < before + 0.002


def test_a_perfect_mesh_stays_where_it_is(truth: Mesh):
    back, _ = aligned(truth, truth, "icp")
    assert compare_surfaces(truth, back, FAST)["chamfer"] < 2e-3
    assert np.array_equal(aligned(truth, truth, "icp")[1], aligned(truth, truth, "icp")[1])


def test_names_and_unknown_alignments(truth: Mesh):
    assert is_better(aligned_name("chamfer", "icp"), 0.1, 0.2) and is_better(aligned_name("volume_iou", "bbox"), 0.2, 0.1)
    with pytest.raises(UserError, match="bbox or icp"):
        aligned(truth, truth, "best")
