"""Geometry metrics against closed forms, and shells that are open, flipped, doubled or two-sided."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from evaluation.metrics.geometry import (
    GeometrySettings,
    cell_centres,
    compare_surfaces,
    face_normals,
    occupancy,
    surface_samples,
    volume_iou,
)
from rendering.view_set import Mesh
from tests.evaluation.shapes import plain

FAST = GeometrySettings(points=8_000, volume_resolution=32)


@pytest.fixture(scope="module")
def sphere() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=4, radius=1.0)


def hemisphere(body: trimesh.Trimesh) -> Mesh:
    return Mesh(body.vertices, body.faces[body.triangles_center[:, 2] > 0])


def test_concentric_spheres(sphere):
    figures = compare_surfaces(plain(sphere), plain(trimesh.creation.icosphere(subdivisions=4, radius=1.1)), FAST)
    for name in ("accuracy", "completeness", "chamfer", "p95_distance", "max_distance"):
        assert figures[name] == pytest.approx(0.1, abs=2e-3)
    assert figures["f_score@0.05"] == 0.0
    assert figures["normal_consistency"] == pytest.approx(1.0, abs=2e-3)
    assert figures["volume_iou"] == pytest.approx(1 / 1.1**3, abs=0.01)
    larger = plain(trimesh.creation.icosphere(subdivisions=4, radius=1.1))
    wide = compare_surfaces(plain(sphere), larger, GeometrySettings(2000, 16, (0.15,)))
    assert wide["f_score@0.15"] == 1.0


def test_shifted_cube():
    """Shift s = 0.1 of a unit cube: IoU (1 - s) / (1 + s), and a mean distance with three parts."""
    shift = 0.1
    cube = trimesh.creation.box((1, 1, 1))
    moved = cube.copy().apply_translation((shift, 0, 0))
    figures = compare_surfaces(plain(cube), plain(moved), GeometrySettings(50_000, 55, (0.05,)))
    ahead = shift  # the face that leads
    behind = (1 - (1 - 2 * shift) ** 3) / 6  # the face that follows lies inside: min(s, way to the nearest side)
    side = shift * shift / 2  # each of four sides juts out by a strip
    assert figures["chamfer"] == pytest.approx((ahead + behind + 4 * side) / 6, abs=5e-4)
    assert figures["f_score@0.05"] == pytest.approx(0.6650, abs=0.005)
    assert figures["volume_iou"] == pytest.approx((1 - shift) / (1 + shift), abs=0.02)
    assert figures["max_distance"] == pytest.approx(shift, abs=1e-9)


def test_half_of_a_sphere_is_accurate_but_not_complete(sphere):
    figures = compare_surfaces(plain(sphere), hemisphere(sphere), FAST)
    assert figures["accuracy"] == pytest.approx(0.0, abs=1e-9)
    # Mean distance of the lower half to the rim, half of all points: 1/2 * mean over z of |p - rim|.
    z = np.linspace(0, 1, 20001)
    rim = np.sqrt((np.sqrt(1 - z**2) - 1) ** 2 + z**2).mean() / 2
    assert figures["completeness"] == pytest.approx(rim, abs=0.015)
    assert figures["completeness"] == pytest.approx(0.27614, abs=0.015)
    swapped = compare_surfaces(hemisphere(sphere), plain(sphere), FAST)
    assert (swapped["accuracy"], swapped["completeness"]) == (figures["completeness"], figures["accuracy"])


def test_a_mesh_has_no_distance_to_itself_however_it_is_cut(sphere):
    """Two point clouds of one surface are far apart (0.5 sqrt(A / N)); points to triangles are not."""
    fine = sphere.subdivide()
    figures = compare_surfaces(plain(sphere), plain(fine), FAST)
    assert figures["chamfer"] < 1e-7 and figures["volume_iou"] == 1.0 and figures["f_score@0.01"] == 1.0


def test_distances_agree_with_dense_point_clouds(sphere):
    """Independent oracle: nearest neighbours between dense samples made by trimesh."""
    torus = trimesh.creation.torus(0.7, 0.25)
    a, b = trimesh.sample.sample_surface(sphere, 100_000, seed=1)[0], trimesh.sample.sample_surface(torus, 100_000, seed=2)[0]
    accuracy, completeness = cKDTree(a).query(b[:5_000])[0].mean(), cKDTree(b).query(a[:5_000])[0].mean()
    figures = compare_surfaces(plain(sphere), plain(torus), FAST)
    assert figures["accuracy"] == pytest.approx(accuracy, abs=0.006)
    assert figures["completeness"] == pytest.approx(completeness, abs=0.006)


def test_samples_are_uniform_by_area_not_by_triangle():
    """A square of one triangle pair left, finely cut right: both halves get the same number of points."""
    coarse = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    fine = coarse.copy().apply_translation((1, 0, 0))
    for _ in range(4):
        fine = fine.subdivide()
    points, faces = surface_samples(plain(trimesh.util.concatenate([coarse, fine])), 20_000, np.random.default_rng(0))
    assert (points[:, 0] < 1).mean() == pytest.approx(0.5, abs=0.015)
    assert ((points[:, 0] < 1) == (faces < 2)).mean() > 0.999
    assert np.abs(points[:, 2]).max() == 0 and points[:, 1].mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("change", "least"),
    [("flipped", 0.999), ("doubled", 0.999), ("two-sided", 0.999), ("unmerged", 0.999), ("hole", 0.98), ("one part flipped", 0.999)],
)
def test_volume_survives_bad_shells(sphere, change, least):
    mesh = plain(sphere)
    flipped = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    bad = {
        "flipped": flipped,
        "doubled": Mesh(np.concatenate([mesh.vertices] * 2), np.concatenate([mesh.faces, mesh.faces + len(mesh.vertices)])),
        "two-sided": Mesh(mesh.vertices, np.concatenate([mesh.faces, flipped.faces])),
        "unmerged": Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), np.arange(mesh.faces.size).reshape(-1, 3)),
        "hole": Mesh(mesh.vertices, mesh.faces[sphere.triangles_center[:, 2] < 0.906]),  # a cap of 4.7 % of the area
        "one part flipped": Mesh(
            np.concatenate([mesh.vertices, mesh.vertices + 3]), np.concatenate([mesh.faces, flipped.faces + len(mesh.vertices)])
        ),
    }[change]
    points = cell_centres(np.full(3, -1.1), np.full(3, 1.1), 32)
    truth = np.linalg.norm(points, axis=1) < 1.0
    inside = occupancy(bad, points)
    assert np.count_nonzero(inside & truth) / np.count_nonzero(inside | truth) > least - 0.01
    whole = 0.5 if change == "one part flipped" else 1.0  # the second part is as large as the first
    assert volume_iou(mesh, bad, 32) > whole * least - 0.02


def test_normal_consistency_ignores_orientation_and_sees_turned_faces(sphere):
    flipped = Mesh(sphere.vertices, sphere.faces[:, ::-1])
    assert compare_surfaces(plain(sphere), flipped, FAST)["normal_consistency"] == pytest.approx(1.0, abs=1e-6)
    plane = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    tilted = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [1, 0.5, 0.75**0.5], [0, 0.5, 0.75**0.5]]), plane.faces)  # 60 degrees about x
    assert compare_surfaces(plane, tilted, FAST)["normal_consistency"] == pytest.approx(0.5, abs=1e-9)


def test_open_planes_have_no_volume(sphere):
    plane = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    assert compare_surfaces(plane, plane, FAST)["volume_iou"] is None
    assert volume_iou(plain(sphere), plane, 32) == 0.0


def test_rigid_motion_of_both_and_scale_of_both(sphere):
    torus = trimesh.creation.torus(0.7, 0.25)
    before = compare_surfaces(plain(sphere), plain(torus), FAST)
    motion = trimesh.transformations.euler_matrix(0.3, -0.4, 1.1)
    motion[:3, 3] = 5, -2, 1
    after = compare_surfaces(plain(sphere.copy().apply_transform(motion)), plain(torus.copy().apply_transform(motion)), FAST)
    assert after["chamfer"] == pytest.approx(before["chamfer"], rel=1e-6)
    doubled = compare_surfaces(plain(sphere.copy().apply_scale(2)), plain(torus.copy().apply_scale(2)), FAST)
    assert doubled["chamfer"] == pytest.approx(2 * before["chamfer"], rel=1e-6)
    assert doubled["volume_iou"] == pytest.approx(before["volume_iou"], abs=1e-6)


def test_seed_decides_the_samples(sphere):
    torus = plain(trimesh.creation.torus(0.7, 0.25))
    first, again = (compare_surfaces(plain(sphere), torus, FAST) for _ in range(2))
    assert first == again
    assert compare_surfaces(plain(sphere), torus, GeometrySettings(8_000, 32, seed=1))["accuracy"] != first["accuracy"]


def test_degenerate_triangles_change_nothing(sphere):
    mesh = plain(sphere)
    littered = Mesh(mesh.vertices, np.concatenate([mesh.faces, [[0, 0, 1], [5, 5, 5]]]))
    assert compare_surfaces(mesh, littered, FAST) == compare_surfaces(mesh, mesh, FAST)
    assert np.isfinite(face_normals(littered)).all()
    with pytest.raises(ValueError, match="no area"):
        compare_surfaces(mesh, Mesh(mesh.vertices, np.array([[0, 0, 1]])), FAST)


def test_cells_cover_a_flat_box_once():
    centres = cell_centres(np.zeros(3), np.array([2.0, 1.0, 0.0]), 8)
    assert len(centres) == 8 * 4 * 1
    assert centres.min(0).tolist() == [0.125, 0.125, 0.0] and centres.max(0).tolist() == [1.875, 0.875, 0.0]
