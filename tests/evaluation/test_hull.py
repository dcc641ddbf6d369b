"""The visual hull on shapes whose answer is known: volume, place, colours, and contradicting or missing views."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from evaluation.hull import Grid, HullFailure, HullSettings, carve, silhouette_depth_px, visual_hull
from evaluation.metrics.consistency import silhouette_iou
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces, occupancy, surface_samples
from rendering.cameras import Camera, orbit
from rendering.view_set import Mesh
from tests.evaluation.shapes import colored_box, photograph, plain, rig

SETTINGS = GeometrySettings(points=5_000, volume_resolution=40)
SMALL = HullSettings(resolution=40)


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=3, radius=0.5)


@pytest.fixture(scope="module")
def ball_views(ball) -> np.ndarray:
    return photograph(ball, rig(), 48)


def volume(mesh: Mesh) -> float:
    return float(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume)


def test_hull_of_a_sphere_is_the_sphere(ball, ball_views):
    mesh, colors = visual_hull(ball_views, rig(), SMALL)
    figures = compare_surfaces(plain(ball), mesh, SETTINGS)
    assert figures["volume_iou"] > 0.95 and figures["chamfer"] < 0.006
    body = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert body.is_watertight and body.volume > 0  # triangles face outward
    assert colors.shape == mesh.vertices.shape and colors.dtype == np.uint8


def test_hull_contains_the_object_where_no_vote_is_given():
    """Without votes the hull of exact masks is a superset: here of a box, whose flat top no camera sees edge-on."""
    box = colored_box()
    views = photograph(box, rig(), 48)
    mesh, _ = visual_hull(views, rig(), HullSettings(resolution=48, votes=0))
    figures = compare_surfaces(plain(box), mesh, SETTINGS)
    assert volume(mesh) > box.volume
    assert figures["volume_iou"] > 0.75 and figures["chamfer"] < 0.03
    assert occupancy(mesh, 0.93 * surface_samples(plain(box), 2000, np.random.default_rng(0))[0]).all()


def test_colours_stay_on_their_side():
    mesh, colors = visual_hull(photograph(colored_box(), rig(), 64), rig(), HullSettings(resolution=48, votes=0))
    expected = {(1, -1): (220, 20, 20), (1, 1): (20, 220, 20), (0, 1): (20, 20, 220), (0, -1): (220, 220, 20)}
    inner = np.abs(mesh.vertices[:, 2]) < 0.2
    for (axis, sign), color in expected.items():
        edge, other = (0.5, 0.3)[axis], (0.3, 0.5)[axis]
        side = inner & (sign * mesh.vertices[:, axis] > edge - 0.02) & (np.abs(mesh.vertices[:, 1 - axis]) < 0.7 * other)
        assert side.sum() > 50
        assert np.abs(np.median(colors[side].astype(int), axis=0) - color).max() <= 3
        assert (np.abs(colors[side].astype(int) - color).max(1) < 40).mean() > 0.9
    top = mesh.vertices[:, 2] > 0.4
    assert np.median(colors[top], axis=0).min() > 240


def test_hidden_colours_do_not_shine_through():
    """A blue ball in the shadow of a red wall: from the front only red is seen, and the ball's front stays blue."""
    wall = trimesh.creation.box((0.9, 0.05, 0.9)).apply_translation((0, -0.4, 0))
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.2).apply_translation((0, 0.25, 0))
    wall.visual.face_colors, ball.visual.face_colors = (200, 0, 0, 255), (0, 0, 200, 255)
    mesh, colors = visual_hull(photograph(trimesh.util.concatenate([wall, ball]), rig(), 64), rig(), HullSettings(64, votes=0))
    of_ball = np.linalg.norm(mesh.vertices - [0, 0.25, 0], axis=1) < 0.24
    assert of_ball.sum() > 100
    assert (colors[of_ball, 2] > 150).mean() > 0.9


def test_one_vote_bears_one_wrong_view(ball, ball_views):
    wrong = ball_views.copy()
    wrong[5] = 0
    mesh, _ = visual_hull(wrong, rig(), replace(SMALL, votes=1))
    assert compare_surfaces(plain(ball), mesh, SETTINGS)["volume_iou"] > 0.94
    with pytest.raises(HullFailure) as failure:
        visual_hull(wrong, rig(), replace(SMALL, votes=0))
    assert failure.value.reason == "empty_hull"


def test_votes_default_to_one_from_16_views_on():
    assert [HullSettings().votes_for(n) for n in (4, 15, 16, 32)] == [0, 0, 1, 1]
    assert HullSettings(votes=3).votes_for(4) == 3


def test_empty_masks_are_a_named_failure(ball_views):
    with pytest.raises(HullFailure) as failure:
        visual_hull(np.zeros_like(ball_views), rig(), SMALL)
    assert failure.value.reason == "empty_hull"


def test_contradicting_masks_are_a_named_failure(ball_views):
    """Specks that wander: no two views agree on any point."""
    views = np.zeros_like(ball_views)
    for i in range(len(views)):
        row, column = 2 + (7 * i) % 44, 2 + (13 * i) % 44
        views[i, row : row + 2, column : column + 2] = 255
    with pytest.raises(HullFailure) as failure:
        visual_hull(views, rig(), SMALL)
    assert failure.value.reason == "empty_hull"


def test_out_of_frame_is_unknown_not_empty(ball):
    """One camera so near that the frame cuts the ball: it must not carve what it cannot see."""
    camera = rig()
    near = orbit(0.0, 0.0, 0.9, 30.0)
    camera = Camera(np.concatenate([camera.c2w, near.c2w]), np.concatenate([camera.intrinsics, near.intrinsics]))
    views = photograph(ball, camera, 48)
    assert (views[-1, 0, :, 3] > 0).any()
    mesh, _ = visual_hull(views, camera, replace(SMALL, votes=0))
    assert compare_surfaces(plain(ball), mesh, SETTINGS)["volume_iou"] > 0.93


def test_place_and_size_of_the_object_do_not_matter(ball):
    """Cameras elsewhere, another unit of length: the grid finds the object."""
    scale, centre = 37.0, np.array([100.0, -20.0, 5.0])
    moved = ball.copy().apply_scale(scale).apply_translation(centre)
    camera = orbit(np.tile(np.arange(8) * 45.0, 2), np.repeat([0.0, 45.0], 8), 1.5 * scale, 60.0)
    camera.c2w[:, :3, 3] += centre
    mesh, _ = visual_hull(photograph(moved, camera, 48), camera, SMALL)
    figures = compare_surfaces(plain(moved), mesh, SETTINGS)
    assert figures["volume_iou"] > 0.9 and figures["chamfer"] < 0.02 * scale


def test_four_views_make_a_coarse_hull(ball):
    camera = orbit([0, 90, 180, 270], [20, -10, 20, -10], 1.5, 60.0)
    mesh, _ = visual_hull(photograph(ball, camera, 48), camera, SMALL)
    assert compare_surfaces(plain(ball), mesh, SETTINGS)["volume_iou"] > 0.6


def test_parallel_cameras_are_a_named_failure(ball_views):
    camera = orbit([0.0, 0.0], [10.0, 10.0], 1.5, 60.0)
    with pytest.raises(HullFailure) as failure:
        visual_hull(ball_views[:2], camera, SMALL)
    assert failure.value.reason == "no_common_centre"


def test_separate_parts_stay_and_specks_go():
    left = trimesh.creation.icosphere(subdivisions=3, radius=0.2).apply_translation((-0.3, 0, 0))
    right = trimesh.creation.icosphere(subdivisions=3, radius=0.2).apply_translation((0.3, 0, 0))
    speck = trimesh.creation.icosphere(subdivisions=2, radius=0.025).apply_translation((0, 0, 0.4))
    mesh, _ = visual_hull(photograph(trimesh.util.concatenate([left, right, speck]), rig(), 64), rig(), HullSettings(64, votes=0))
    assert len(trimesh.Trimesh(mesh.vertices, mesh.faces).split(only_watertight=False)) == 2
    assert mesh.vertices[:, 2].max() < 0.3


def test_carving_skips_only_what_is_far_outside(ball_views):
    """Against a slow sort of all views' answers: the same wherever the field is near the surface."""
    camera, depths = rig(), np.stack([silhouette_depth_px(view[..., 3]) for view in ball_views])
    grid = Grid(np.full(3, -0.42), 0.035, (25, 25, 25))  # within every frame
    field = carve(depths, camera, grid, votes=1).ravel()
    points, answers = grid.points(), []
    for depth, one in zip(depths, (camera[i] for i in range(32)), strict=True):
        xy, z = one.project(points)
        column, row = xy[:, 0] * 48 - 0.5, xy[:, 1] * 48 - 0.5
        c0, r0 = np.clip(np.floor(column).astype(int), 0, 46), np.clip(np.floor(row).astype(int), 0, 46)
        u, v = column - c0, row - r0
        value = (1 - v) * ((1 - u) * depth[r0, c0] + u * depth[r0, c0 + 1]) + v * ((1 - u) * depth[r0 + 1, c0] + u * depth[r0 + 1, c0 + 1])
        answers.append(value * z / (one.intrinsics[0] * 48))
    slow = np.sort(np.stack(answers), axis=0)[1]
    near = slow > -3 * grid.size
    assert near.sum() > 5000 and (~near).sum() > 500
    assert np.abs(field - np.minimum(slow, 4 * grid.size))[near].max() < 1e-4
    assert (field[~near] < 0).all()


def test_silhouette_depth_of_a_half_plane_is_subpixel():
    alpha = np.zeros((4, 16), np.uint8)
    alpha[:, 10:] = 255
    alpha[:, 9] = 64  # a quarter covered: the edge lies at 9.75
    depth = silhouette_depth_px(alpha)
    centres = np.arange(16) + 0.5
    assert np.abs(depth[0] - (centres - 9.75))[[7, 8, 9]].max() < 0.01
    assert np.abs(depth[0] - (centres - 9.75)).max() < 0.3
    assert (silhouette_depth_px(np.full((4, 4), 255, np.uint8)) > 100).all()


def test_silhouette_iou_names_the_odd_view(ball, ball_views):
    mesh = plain(ball)
    assert silhouette_iou(mesh, ball_views, rig()).min() > 0.95
    shifted = ball_views.copy()
    shifted[7] = np.roll(shifted[7], 8, axis=1)
    scores = silhouette_iou(mesh, shifted, rig())
    assert scores.argmin() == 7 and scores[7] < 0.8
    assert np.abs(silhouette_iou(mesh, ball_views, rig(), max_size_px=20) - 1).max() < 0.12
