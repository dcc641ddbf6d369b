"""Consistency without truth: every way to spoil a set of views must show in the figure that is made for it."""

import numpy as np
import pytest
import trimesh

from evaluation.hull import HullFailure, HullSettings, visual_hull
from evaluation.metrics.geometry import DEFAULT_SETTINGS
from evaluation.metrics.hull_consistency import HULL_METRICS, Consistency, hull_consistency
from evaluation.metrics.image import PSNR_CAP_DB, mask_of
from evaluation.metrics.visible_points import depth_maps
from evaluation.metrics.warp import agreement, depth_pairs, hull_pairs, hull_warp_psnr, nearest_views, overlap_figures, overlap_psnr
from rendering.cameras import Camera, turn_about_z
from rendering.view_set import Mesh, on_white
from tests.evaluation.bumpy import bumpy_ball, shaken
from tests.evaluation.shapes import photograph, plain, rig

SIZE_PX = 72
CELLS = 40


@pytest.fixture(scope="module")
def body() -> trimesh.Trimesh:
    return bumpy_ball()


@pytest.fixture(scope="module")
def clean(body: trimesh.Trimesh) -> np.ndarray:
    return photograph(body, rig(), SIZE_PX, 2)


@pytest.fixture(scope="module")
def ceiling(clean: np.ndarray) -> Consistency:
    return hull_consistency(clean, rig(), resolution=CELLS)


@pytest.fixture(scope="module")
def depth(body: trimesh.Trimesh) -> np.ndarray:
    return depth_maps(plain(body), rig(), SIZE_PX)


def test_true_views_agree(ceiling: Consistency):
    figures = ceiling.figures()
    assert tuple(figures) == HULL_METRICS
    assert figures["hull_silhouette_iou"] > 0.97 and figures["hull_silhouette_iou_min"] > 0.93 and figures["hull_warp_psnr"] > 20
    assert figures["hull_silhouette_iou_min"] == ceiling.silhouette_iou.min()
    assert ceiling.warp.pairs > 32 * 1000


def test_shaken_views_lose_in_shape_and_colour_by_how_much_they_are_shaken(clean: np.ndarray, ceiling: Consistency):
    little, much = (hull_consistency(shaken(clean, sigma_px, 0.04), rig(), resolution=CELLS).figures() for sigma_px in (1.0, 2.5))
    for name in HULL_METRICS:
        assert ceiling.figures()[name] > little[name] > much[name]
    assert ceiling.figures()["hull_warp_psnr"] > little["hull_warp_psnr"] + 3
    assert ceiling.figures()["hull_silhouette_iou"] > little["hull_silhouette_iou"] + 0.03


def test_one_mirrored_view_is_named_by_shape_and_by_colour(clean: np.ndarray, ceiling: Consistency):
    views = clean.copy()
    views[9] = views[9][:, ::-1]
    spoiled = hull_consistency(views, rig(), resolution=CELLS)
    assert spoiled.worst_silhouette == 9 and spoiled.warp.worst_view == 9
    assert spoiled.silhouette_iou[9] < ceiling.silhouette_iou.min() - 0.03
    # The mean hardly shows it: this is what the minimum is for.
    assert ceiling.figures()["hull_silhouette_iou"] - spoiled.figures()["hull_silhouette_iou"] < 0.01
    assert spoiled.figures()["hull_warp_psnr"] < ceiling.figures()["hull_warp_psnr"] - 1


def test_recoloured_views_show_in_the_colours_alone(clean: np.ndarray, ceiling: Consistency):
    views = clean.copy()
    views[::4, ..., :3] = views[::4][..., [2, 0, 1]]
    spoiled = hull_consistency(views, rig(), resolution=CELLS)
    assert np.array_equal(spoiled.silhouette_iou, ceiling.silhouette_iou)
    assert spoiled.warp.psnr < ceiling.warp.psnr - 6
    others = np.arange(32) % 4 != 0
    assert spoiled.warp.of_views[::4].mean() < spoiled.warp.of_views[others].mean() - 2


def test_views_in_the_wrong_order_show(clean: np.ndarray, ceiling: Consistency):
    """Rolled by one view: the object turned, but for the seam of every ring of elevations."""
    spoiled = hull_consistency(np.roll(clean, 1, axis=0), rig(), resolution=CELLS)
    assert spoiled.worst_silhouette % 8 == 0
    assert spoiled.figures()["hull_silhouette_iou_min"] < ceiling.figures()["hull_silhouette_iou_min"] - 0.05
    assert spoiled.warp.psnr < ceiling.warp.psnr - 3


def test_a_turn_common_to_all_cameras_changes_nothing(clean: np.ndarray):
    hull, _ = visual_hull(clean, rig(), HullSettings(CELLS))
    turn = turn_about_z(77.0)
    turn[:3, 3] = 5, -3, 2
    camera = Camera(turn @ rig().c2w, rig().intrinsics)
    moved = Mesh(hull.vertices @ turn[:3, :3].T + turn[:3, 3], hull.faces)
    before, after = hull_warp_psnr(hull, clean, rig()), hull_warp_psnr(moved, clean, camera)
    assert after.psnr == pytest.approx(before.psnr, abs=0.02)
    assert after.pairs == pytest.approx(before.pairs, rel=0.002)


def test_on_the_true_surface_the_warp_has_only_the_error_of_looking_up(body: trimesh.Trimesh, clean: np.ndarray, ceiling: Consistency):
    true = hull_warp_psnr(plain(body), clean, rig())
    assert true.psnr > ceiling.warp.psnr + 4


def test_one_colour_agrees_perfectly_and_empty_views_have_no_figure(body: trimesh.Trimesh, clean: np.ndarray):
    views = clean.copy()
    views[..., :3] = 90
    assert hull_warp_psnr(plain(body), views, rig()).psnr == PSNR_CAP_DB
    empty = hull_warp_psnr(plain(body), np.zeros_like(clean), rig())
    assert empty.psnr is None and empty.pairs == 0 and empty.worst_view is None and np.isnan(empty.of_views).all()
    with pytest.raises(HullFailure):
        hull_consistency(np.zeros_like(clean), rig())


def test_hidden_points_are_no_pairs():
    """A ball before a wall: views beside the wall see of the ball what their neighbours behind it do not."""
    wall = trimesh.creation.box((0.9, 0.05, 0.9)).apply_translation((0, 0.2, 0))
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.2).apply_translation((0, -0.2, 0))
    wall.visual.face_colors, ball.visual.face_colors = (255, 0, 0, 255), (0, 0, 255, 255)
    both = trimesh.util.concatenate([wall, ball])
    views = photograph(both, rig(), 64, 1)
    for pairs in (hull_pairs(plain(both), mask_of(views), rig()), depth_pairs(depth_maps(plain(both), rig(), 64), rig())):
        blue = [
            views[(view, *np.round(pixel).astype(int).T)][:, 2] > 127
            for view, pixel in ((pairs.source, pairs.source_px), (pairs.target, pairs.target_px))
        ]
        assert blue[0].sum() > 1000
        assert (blue[0] != blue[1]).mean() < 0.01  # the outline of the ball on the wall, within half a pixel


def test_known_colours_give_the_closed_form(body: trimesh.Trimesh, depth: np.ndarray):
    """Two views in two greys, 0.4 and 0.6: every pair differs by 0.2, 13.979 dB."""
    camera, two = rig()[[8, 9]], np.zeros((2, SIZE_PX, SIZE_PX, 4), np.uint8)
    two[..., 3] = 255
    two[0, ..., :3], two[1, ..., :3] = 102, 153
    for score in (overlap_psnr(two, depth[[8, 9]], camera), hull_warp_psnr(plain(body), two, camera)):
        assert score.psnr == pytest.approx(-20 * np.log10(0.2), abs=1e-4) and score.pairs > 100
        assert np.abs(score.of_views - score.psnr).max() < 1e-9


def test_pairs_by_depth_are_the_same_points(depth: np.ndarray):
    """Both ends of a pair, taken back to space through the depth of their own view, meet."""
    camera, pairs = rig(), depth_pairs(depth, rig(), 4, 200)
    assert len(pairs.source) > 5000
    rng = np.random.default_rng(0)
    gaps = []
    for k in rng.integers(0, len(pairs.source), 300):
        ends = []
        for view, pixel in ((pairs.source[k], pairs.source_px[k]), (pairs.target[k], pairs.target_px[k])):
            row, column = np.floor(pixel).astype(int)
            v, u = pixel - (row, column)
            cells = depth[view, row : row + 2, column : column + 2]
            z = np.array([1 - v, v])[: len(cells)] @ cells @ np.array([1 - u, u])[: cells.shape[1]]
            fx, fy, cx, cy = camera.intrinsics[view]
            local = np.array([((pixel[1] + 0.5) / SIZE_PX - cx) / fx, ((pixel[0] + 0.5) / SIZE_PX - cy) / fy, 1.0]) * z
            ends.append(camera.c2w[view, :3, :3] @ local + camera.c2w[view, :3, 3])
        gaps.append(np.linalg.norm(ends[0] - ends[1]))
    assert np.median(gaps) < 2e-3 and max(gaps) < 0.04


def test_overlap_ratio_is_one_for_the_truth_and_falls_with_inconsistency(clean: np.ndarray, depth: np.ndarray):
    figures, score = overlap_figures(clean, clean, depth, rig())
    assert figures["overlap_psnr_ratio"] == 1.0 and figures["overlap_psnr"] == figures["overlap_psnr_truth"] > 22
    ratios = [overlap_figures(clean, shaken(clean, sigma), depth, rig())[0]["overlap_psnr_ratio"] for sigma in (1.0, 3.0)]
    assert 1.0 > ratios[0] > ratios[1]
    odd = clean.copy()
    odd[13, ..., :3] = 255 - odd[13, ..., :3]
    figures, score = overlap_figures(clean, odd, depth, rig())
    assert score.worst_view == 13 and figures["overlap_psnr_ratio"] < 0.9
    assert overlap_psnr(clean, depth, rig()).psnr == figures["overlap_psnr_truth"]


def test_views_that_share_nothing_have_no_overlap(clean: np.ndarray, depth: np.ndarray):
    figures, score = overlap_figures(clean, clean, np.zeros_like(depth), rig())
    assert set(figures.values()) == {None} and score.psnr is None
    with pytest.raises(ValueError, match="shape"):
        overlap_figures(clean, clean[:4], depth, rig())
    assert agreement(on_white(clean), depth_pairs(np.zeros_like(depth), rig())).pairs == 0


def test_neighbours_are_the_nearest_by_angle():
    near = nearest_views(rig(), np.zeros(3), 4)
    outward = rig().position / np.linalg.norm(rig().position, axis=1, keepdims=True)
    for i in range(32):
        angles = np.degrees(np.arccos(np.clip(outward @ outward[i], -1, 1)))
        assert i not in near[i] and angles[near[i]].max() <= np.sort(angles)[4] + 1e-6
    assert nearest_views(rig()[:3], np.zeros(3), 4).shape == (3, 2)


def test_the_default_settings_of_geometry_did_not_move():
    """Figures of this protocol are compared over months."""
    assert DEFAULT_SETTINGS.metric_names() == (
        "accuracy",
        "completeness",
        "chamfer",
        "f_score@0.01",
        "f_score@0.02",
        "f_score@0.05",
        "normal_consistency",
        "p95_distance",
        "max_distance",
        "volume_iou",
    )
