"""SyncDreamer's geometry protocol against closed forms and slow loops: visible points, their thinning, the IoU lattice."""

import numpy as np
import pytest
import trimesh

from evaluation.metrics.geometry import GeometrySettings, compare_surfaces, volume_iou
from evaluation.metrics.visible_points import compare_visible, depth_maps, points_of_depth, visible_points, voxel_means
from rendering.cameras import orbit
from rendering.view_set import Mesh
from tests.evaluation.shapes import plain

RING = orbit(np.arange(16) * 22.5, 30.0, 1.5, 49.13)


def box(size=(1.0, 0.6, 0.8), shift=(0.0, 0.0, 0.0)) -> Mesh:
    return plain(trimesh.creation.box(size).apply_translation(shift))


def test_depth_of_a_box_seen_from_the_front_is_flat():
    """Camera on -Y at 1.5: the face y = -0.3 is a plane of constant z-depth 1.2, of 0.6 tan-units by its size."""
    depth = depth_maps(box(), orbit(0.0, 0.0, 1.5, 60.0), 64)[0]
    assert np.abs(depth[depth > 0] - 1.2).max() < 1e-9
    # (1.0 / 1.2) and (0.8 / 1.2) of the frame's 2 tan 30 at depth 1
    rows, columns = (depth > 0).any(1).sum(), (depth > 0).any(0).sum()
    assert columns == pytest.approx(64 * (1.0 / 1.2) / (2 * np.tan(np.pi / 6)), abs=1)
    assert rows == pytest.approx(64 * (0.8 / 1.2) / (2 * np.tan(np.pi / 6)), abs=1)


def test_depth_goes_back_to_the_surface_exactly():
    points = points_of_depth(depth_maps(box(), RING, 48), RING)
    on_face = np.abs(np.abs(points) - np.array([0.5, 0.3, 0.4])).min(1)
    assert len(points) > 3000 and on_face.max() < 1e-9
    assert points[:, 2].min() > -0.41 and not (np.abs(points[:, 2] + 0.4) < 1e-9).any()  # nothing of the underside


def test_only_what_elevation_30_sees_counts():
    """A ball of radius r seen from distance d shows a cap of acos(r / d) about the way to the camera."""
    points = visible_points(plain(trimesh.creation.icosphere(subdivisions=5, radius=0.5)), RING, size_px=128)
    lowest = 0.5 * np.sin(np.radians(30.0) - np.arccos(0.5 / 1.5))
    assert lowest - 1e-3 < points[:, 2].min() < lowest + 0.03  # the last pixel before the outline
    assert points[:, 2].max() == pytest.approx(0.5, abs=0.003)
    assert np.abs(np.linalg.norm(points, axis=1) - 0.5).max() < 1.5e-3  # means of a cube lie a little inside the ball


def test_voxels_are_a_slow_loop_over_points():
    points = np.random.default_rng(0).random((500, 3))
    cubes: dict[tuple, list] = {}
    start = points.min(0) - 0.05
    for point in points:
        cubes.setdefault(tuple(((point - start) // 0.1).astype(int)), []).append(point)
    expected = np.array([np.mean(cubes[key], axis=0) for key in sorted(cubes)])
    assert np.abs(voxel_means(points, 0.1) - expected).max() < 1e-12 and len(expected) < 450
    assert len(voxel_means(np.zeros((0, 3)), 0.1)) == 0


def test_a_missing_underside_is_free_here_and_costs_in_the_default_protocol():
    whole = trimesh.creation.box((1.0, 0.6, 0.8))
    open_below = Mesh(whole.vertices, whole.faces[whole.face_normals[:, 2] > -0.5])
    seen = compare_visible(plain(whole), open_below, RING, size_px=96)
    assert seen["chamfer_visible"] < 1e-9
    everything = compare_surfaces(plain(whole), open_below, GeometrySettings(points=4000, volume_resolution=16))
    assert everything["completeness"] > 0.015


def test_visible_distance_is_the_unsquared_mean_of_both_directions():
    """Concentric balls 0.04 apart: both directions are 0.04, their sum 0.08, their squares 0.0032."""
    ball, larger = (plain(trimesh.creation.icosphere(subdivisions=4, radius=r)) for r in (0.46, 0.5))
    figures = compare_visible(ball, larger, RING, size_px=96)
    assert figures["chamfer_visible"] == pytest.approx(0.04, abs=2e-3)
    assert figures["chamfer_visible"] == pytest.approx((figures["accuracy_visible"] + figures["completeness_visible"]) / 2)
    swapped = compare_visible(larger, ball, RING, size_px=96)
    assert swapped["accuracy_visible"] == pytest.approx(figures["completeness_visible"])


def test_an_object_out_of_sight_has_no_figure():
    assert compare_visible(box(), box(shift=(50, 0, 0)), RING, size_px=32) == dict.fromkeys(
        ("accuracy_visible", "completeness_visible", "chamfer_visible")
    )


def test_iou_on_the_lattice_of_mesh2sdf_counts_its_points():
    """Lattice -1 + i / 16. A cube of side 1.01 holds i from 8 to 24 (17 points); moved by 4 steps they share 13 of 21."""
    settings = GeometrySettings(points=100, volume_resolution=32, volume_box=(-1.0, 1.0))
    cube, moved = box((1.01,) * 3), box((1.01,) * 3, (0.25, 0, 0))
    assert volume_iou(cube, moved, 32, (-1.0, 1.0)) == 13 / 21
    assert compare_surfaces(cube, moved, settings)["volume_iou"] == 13 / 21
    assert compare_surfaces(cube, moved, GeometrySettings(points=100, volume_resolution=32))["volume_iou"] != 13 / 21
    assert "-1 + i 0.0625" in settings.described()["volume_iou"]
    # What lies outside the box is not looked at.
    assert volume_iou(cube, box((1.01,) * 3, (3, 0, 0)), 32, (-1.0, 1.0)) == 0.0
    assert volume_iou(box((0.3,) * 3, (3, 0, 0)), box((0.3,) * 3, (3, 0, 0)), 32, (-1.0, 1.0)) is None
