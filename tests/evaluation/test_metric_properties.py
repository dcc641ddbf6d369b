"""What must hold for any pair: symmetry, invariance, monotonicity, bounds."""

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics.distribution import frechet_distance, kernel_distance
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces, volume_iou
from evaluation.metrics.image import mask_iou, psnr, ssim
from rendering.view_set import Mesh

SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SLOW = settings(max_examples=6, deadline=None, derandomize=True)
FAST = GeometrySettings(points=1500, volume_resolution=20, thresholds=(0.02, 0.05, 0.2))


def pair(seed: int, height: int = 17, width: int = 14) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.random((height, width, 3))
    return a, np.clip(a + rng.uniform(0.01, 0.5) * (rng.random(a.shape) - 0.5), 0, 1)


def lump(seed: int) -> Mesh:
    """A closed, dented, stretched and moved ball."""
    rng = np.random.default_rng(seed)
    body = trimesh.creation.icosphere(subdivisions=2)
    vertices = body.vertices * (1 + 0.3 * np.sin(body.vertices @ rng.normal(size=(3, 1)) * 2)) * rng.uniform(0.2, 0.5, 3)
    return Mesh(vertices + rng.uniform(-0.2, 0.2, 3), np.asarray(body.faces))


def moved(mesh: Mesh, matrix: np.ndarray) -> Mesh:
    return Mesh(mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], mesh.faces)


@QUICK
@given(SEEDS)
def test_picture_figures_are_symmetric_and_bounded(seed: int):
    a, b = pair(seed)
    assert psnr(a, b) == psnr(b, a) and ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert -1 <= ssim(a, b) < 1 and psnr(a, b) > 0
    masks = a[..., 0] > 0.4, b[..., 0] > 0.4
    assert mask_iou(*masks) == mask_iou(*masks[::-1]) and 0 <= mask_iou(*masks) <= 1


@QUICK
@given(SEEDS, st.integers(0, 3), st.booleans())
def test_picture_figures_do_not_depend_on_how_the_pair_is_turned(seed: int, quarters: int, mirrored: bool):
    a, b = pair(seed)
    turned = [np.rot90(x[:, ::-1] if mirrored else x, quarters) for x in (a, b)]
    assert psnr(*turned) == pytest.approx(psnr(a, b), abs=1e-9) and ssim(*turned) == pytest.approx(ssim(a, b), abs=1e-9)
    assert psnr(1 - a, 1 - b) == pytest.approx(psnr(a, b), abs=1e-9)


@QUICK
@given(SEEDS, st.floats(0.05, 0.95))
def test_less_of_the_same_error_is_better(seed: int, share: float):
    a, b = pair(seed)
    nearer = a + share * (b - a)
    assert psnr(a, nearer) == pytest.approx(psnr(a, b) - 20 * math.log10(share), abs=1e-6)
    assert ssim(a, nearer) > ssim(a, b)


@SLOW
@given(SEEDS, SEEDS)
def test_geometry_figures_change_sides_with_the_meshes(one: int, other: int):
    a, b = lump(one), lump(other)
    there, back = compare_surfaces(a, b, FAST), compare_surfaces(b, a, FAST)
    assert (there["accuracy"], there["completeness"]) == (back["completeness"], back["accuracy"])
    for name in ("chamfer", "f_score@0.05", "p95_distance", "max_distance", "volume_iou"):
        assert there[name] == pytest.approx(back[name], rel=1e-9, abs=1e-12)
    assert 0 <= there["f_score@0.02"] <= there["f_score@0.05"] <= there["f_score@0.2"] <= 1
    assert there["p95_distance"] <= there["max_distance"] and there["chamfer"] <= there["max_distance"]
    assert 0 <= there["normal_consistency"] <= 1 + 1e-9 and 0 <= there["volume_iou"] <= 1
    assert there["max_distance"] >= max(there["accuracy"], there["completeness"])


@SLOW
@given(SEEDS, st.floats(0.2, 5.0), st.tuples(*[st.floats(-3, 3)] * 3))
def test_distances_follow_scale_and_ignore_motion(seed: int, scale: float, angles: tuple[float, float, float]):
    a, b = lump(seed), lump(seed + 1)
    change = trimesh.transformations.euler_matrix(*angles)
    change[:3, :3] *= scale
    change[:3, 3] = scale * np.array([3.0, -2.0, 1.0])
    before, after = compare_surfaces(a, b, FAST), compare_surfaces(moved(a, change), moved(b, change), FAST)
    for name in ("accuracy", "completeness", "max_distance"):
        assert after[name] == pytest.approx(scale * before[name], rel=1e-6)
    assert after["normal_consistency"] == pytest.approx(before["normal_consistency"], abs=0.02)  # a point on an edge takes either side


@SLOW
@given(SEEDS, st.floats(0.02, 0.3), st.floats(1.2, 3.0))
def test_further_away_is_worse(seed: int, shift: float, factor: float):
    a = lump(seed)
    near, far = (Mesh(a.vertices + np.array([way, 0, 0]), a.faces) for way in (shift, factor * shift))
    nearer, farther = compare_surfaces(a, near, FAST), compare_surfaces(a, far, FAST)
    assert nearer["chamfer"] < farther["chamfer"] and nearer["chamfer"] <= shift + 1e-9
    assert nearer["volume_iou"] > farther["volume_iou"] - 0.02
    assert nearer["f_score@0.05"] >= farther["f_score@0.05"]


@SLOW
@given(SEEDS)
def test_the_order_of_vertices_and_triangles_means_nothing(seed: int):
    a, b, rng = lump(seed), lump(seed + 1), np.random.default_rng(seed)
    order = rng.permutation(len(b.vertices))
    shuffled = Mesh(b.vertices[order], rng.permutation(np.argsort(order)[b.faces]))
    assert volume_iou(a, shuffled, 20) == volume_iou(a, b, 20)
    before, after = compare_surfaces(a, b, FAST), compare_surfaces(a, shuffled, FAST)
    assert after["completeness"] == pytest.approx(before["completeness"], rel=1e-9)


@QUICK
@given(SEEDS, st.floats(-5, 5))
def test_distances_of_sets_are_symmetric_and_ignore_rotation(seed: int, shift: float):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(30, 4)), 1.3 * rng.normal(size=(25, 4)) + 0.2
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for distance in (frechet_distance, kernel_distance):
        value = distance(a, b)
        assert distance(b, a) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert distance(a @ rotation, b @ rotation) == pytest.approx(value, rel=1e-8, abs=1e-8)
        assert distance(rng.permutation(a), b) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx(4 * shift**2, abs=1e-8)
    assert frechet_distance(a + shift, b + shift) == pytest.approx(frechet_distance(a, b), rel=1e-7, abs=1e-8)
