"""Ways in which published figures differ by factors for one and the same pair, each with what ours does about it.

More of them: test_image_metrics.py (background share, straight alpha, constant pictures, SSIM's window), test_geometry_metrics.py
(vertices for samples, swapped directions, bad shells), test_visible_points.py, test_alignment.py.
"""

import math

import numpy as np
import pytest
import trimesh

from evaluation.metrics.geometry import (
    FLOOR,
    GeometrySettings,
    compare_surfaces,
    sampling_floor,
    surface_samples,
    volume_iou,
)
from evaluation.metrics.image import compare_images, mask_of, psnr, ssim
from evaluation.statistics import mean_known
from infra.errors import UserError
from rendering.view_set import Mesh, on_white
from tests.evaluation.shapes import plain


def ball(radius: float = 1.0, subdivisions: int = 4) -> Mesh:
    return plain(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))


def flat(value: float) -> np.ndarray:
    return np.full((16, 16, 3), value)


def test_the_mean_of_decibels_is_not_the_decibels_of_the_mean():
    """Mean squared errors 0.01 and 0.0001: 20 and 40 dB, whose mean is 30; their mean error has 22.97 dB."""
    of_views = [psnr(flat(0.5), flat(0.6)), psnr(flat(0.5), flat(0.51))]
    assert mean_known(of_views) == pytest.approx(30.0)
    assert psnr(np.concatenate([flat(0.5)] * 2), np.concatenate([flat(0.6), flat(0.51)])) == pytest.approx(22.967, abs=1e-3)


def test_colour_that_alpha_hides_counts_nowhere():
    """Garbage under alpha 0, as some encoders leave it, in both pictures and all figures."""
    rng = np.random.default_rng(0)
    truth, made = np.zeros((2, 24, 24, 4), np.uint8)
    truth[6:18, 6:18], made[6:18, 7:19] = (200, 90, 30, 255), (190, 90, 40, 255)
    dirty = [rgba.copy() for rgba in (truth, made)]
    for rgba in dirty:
        hidden = rgba[..., 3] == 0
        rgba[hidden, :3] = rng.integers(0, 256, (int(hidden.sum()), 3))
    assert compare_images(*dirty) == compare_images(truth, made)
    assert np.array_equal(on_white(dirty[0]), on_white(truth)) and np.array_equal(mask_of(dirty[0]), mask_of(truth))


def test_alpha_is_straight_not_premultiplied():
    """Grey 100 at alpha 0.2 on white is 0.2 * 100 + 0.8 * 255 = 224; read as premultiplied it would be 100 + 204, clipped."""
    rgba = np.full((1, 1, 4), (100, 100, 100, 51), np.uint8)
    assert on_white(rgba)[0, 0] * 255 == pytest.approx(np.full(3, 0.2 * 100 + 0.8 * 255))
    # Pixels of small alpha are neither cut to white nor kept whole, as a test for alpha 0 would do.
    faint = np.full((1, 1, 4), (0, 0, 0, 1), np.uint8)
    assert on_white(faint)[0, 0, 0] == pytest.approx(254 / 255)


def test_ssim_has_a_fixed_range_and_leaves_the_border_out():
    """A range taken from the pair would make faint pictures look very different, and two constant ones NaN."""
    rng = np.random.default_rng(1)
    a, b = 0.5 + 1e-3 * rng.random((2, 24, 24, 3))
    assert ssim(a, b) > 0.99
    assert ssim(flat(0.25), flat(0.25)) == pytest.approx(1.0)
    # Only windows that lie inside the picture count: what is in the corner pixel reaches one of them.
    x, y = np.full((2, 31, 31, 3), 0.5)
    y[0, 0] = 1.0
    inner = 1 - ssim(x, y)
    y[0, 0], y[15, 15] = 0.5, 1.0
    assert inner < 0.005 * (1 - ssim(x, y))


@pytest.mark.parametrize("points", [1000, 4000])
def test_two_samplings_of_one_surface_are_half_the_root_of_area_by_points_apart(points: int):
    """The floor of point-to-point distances; to triangles there is none."""
    sphere = ball()
    settings = GeometrySettings(points=points, volume_resolution=8, distance="points")
    figures = compare_surfaces(sphere, sphere, settings)
    floor = 0.5 * math.sqrt(4 * math.pi / points)
    assert sampling_floor(sphere, points) == pytest.approx(floor, rel=2e-3)
    for name in ("accuracy", "completeness", "chamfer"):
        assert figures[name] == pytest.approx(floor, rel=0.06)
    assert figures[FLOOR] == pytest.approx(floor, rel=2e-3)
    exact = compare_surfaces(sphere, sphere, GeometrySettings(points=points, volume_resolution=8))
    assert exact["chamfer"] < 1e-9 and FLOOR not in exact


def test_the_floor_of_a_unit_cube_object_is_as_large_as_published_errors():
    """A unit cube has area 6: 2048 points give 0.027, 100,000 give 0.0039. MVDiffusion++ reports a Chamfer distance of 0.0165."""
    cube = plain(trimesh.creation.box((1, 1, 1)))
    assert sampling_floor(cube, 2048) > 0.0165 > 4 * sampling_floor(cube, 100_000)


def test_points_and_triangles_agree_where_the_floor_is_small():
    torus = plain(trimesh.creation.torus(0.7, 0.25))
    by_points = compare_surfaces(ball(), torus, GeometrySettings(points=10_000, volume_resolution=8, distance="points"))
    by_triangles = compare_surfaces(ball(), torus, GeometrySettings(points=10_000, volume_resolution=8))
    for name in ("accuracy", "completeness", "chamfer", "p95_distance"):
        assert by_points[name] == pytest.approx(by_triangles[name], abs=by_points[FLOOR])
    assert by_points["normal_consistency"] == pytest.approx(by_triangles["normal_consistency"], abs=0.02)


def test_half_a_shape_has_one_bad_direction_by_points_too():
    sphere = trimesh.creation.icosphere(subdivisions=4)
    half = Mesh(sphere.vertices, sphere.faces[sphere.triangles_center[:, 2] > 0])
    figures = compare_surfaces(plain(sphere), half, GeometrySettings(points=10_000, volume_resolution=8, distance="points"))
    assert figures["accuracy"] < 2 * figures[FLOOR] and figures["completeness"] > 0.25


def test_ours_is_the_unsquared_mean_in_units_of_the_object():
    """Balls of radius 1 and 1.1: mean 0.1, sum 0.2, mean of squares 0.01; in the unit cube (radius 0.5) all distances halve."""
    settings = GeometrySettings(points=5000, volume_resolution=8)
    inner, outer = ball(1.0), ball(1.1)
    figures = compare_surfaces(inner, outer, settings)
    assert figures["chamfer"] == pytest.approx(0.1, abs=2e-3)
    assert figures["chamfer"] == pytest.approx((figures["accuracy"] + figures["completeness"]) / 2)
    halved = compare_surfaces(Mesh(inner.vertices / 2, inner.faces), Mesh(outer.vertices / 2, outer.faces), settings)
    assert halved["chamfer"] == pytest.approx(figures["chamfer"] / 2, rel=1e-6)
    points, _ = surface_samples(outer, 5000, np.random.default_rng(0))
    assert np.mean((np.linalg.norm(points, axis=1) - 1) ** 2) == pytest.approx(0.01, abs=6e-4)  # what a squared distance would say


def test_overlapping_parts_are_one_solid():
    """Two unit balls half a radius apart, in one mesh: the union, not the sum or the difference of both."""
    near = ball().vertices + np.array([0.5, 0, 0])
    both = Mesh(np.concatenate([ball().vertices, near]), np.concatenate([ball().faces, ball().faces + len(near)]))
    lens = math.pi * (2 - 0.5) ** 2 * (0.5**2 + 4 * 0.5) / (12 * 0.5)  # volume that both share
    union = 2 * 4 / 3 * math.pi - lens
    assert volume_iou(both, ball(), 48) == pytest.approx(4 / 3 * math.pi / union, abs=0.01)


def test_unknown_settings_are_refused():
    with pytest.raises(UserError, match="triangle or points"):
        GeometrySettings(distance="vertices")
    with pytest.raises(UserError, match="box"):
        GeometrySettings(volume_box=(1.0, -1.0))


def test_every_convention_is_told():
    told = GeometrySettings(distance="points", volume_box=(-1.0, 1.0), volume_resolution=64).described()
    assert "not squared" in told["distance"] and "points of the other" in told["distance"]
    assert FLOOR in told["sampling_floor"] and "[-1, 1]^3" in told["volume_iou"]
    assert GeometrySettings().described()["sampling_floor"].startswith("none")
