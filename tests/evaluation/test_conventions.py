"""Peers' conventions against the libraries that they call, and closed forms; the table of one pair; best of n seeds."""

import math

import numpy as np
import pytest
import trimesh
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from evaluation.best_of import best_of
from evaluation.conventions.pictures import (
    hard_white,
    psnr_hard_white,
    psnr_of_mean_error,
    ssim_auto_range,
    ssim_mirrored,
    ssim_uniform,
)
from evaluation.conventions.points import chamfer_mean, chamfer_squared, chamfer_sum, own_box, used_vertices
from evaluation.conventions.table import as_markdown, mesh_rows, picture_rows
from infra.errors import UserError
from rendering.view_set import Mesh, on_white
from tests.evaluation.shapes import plain


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = gaussian_filter(rng.random((40, 36, 3)), (2, 2, 0))
    first = 0.2 + 0.5 * (first - first.min()) / np.ptp(first)
    return first, np.clip(first + rng.normal(0, 0.05, first.shape), 0, 1)


def test_ssim_of_torchmetrics_to_1_4_is_scikit_images_with_the_range_of_the_pair(pair):
    data_range = max(np.ptp(pair[0]), np.ptp(pair[1]))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    assert ssim_auto_range(*pair) == pytest.approx(structural_similarity(*pair, data_range=data_range, **settings), abs=1e-9)
    assert abs(ssim_auto_range(*pair) - structural_similarity(*pair, data_range=1.0, **settings)) > 1e-3
    plain_pair = np.full((20, 20, 3), 0.4), np.full((20, 20, 3), 0.9)
    assert ssim_auto_range(*plain_pair) is None and ssim_mirrored(*plain_pair) is None


def test_ssim_of_torchmetrics_from_1_6_by_scipys_own_gaussian(pair):
    x, y = pair

    def mean(values):
        return gaussian_filter(values, (1.5, 1.5, 0), truncate=5 / 1.5, mode="mirror")

    data_range = max(np.ptp(x), np.ptp(y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance, spread = mean(x * y) - mean(x) * mean(y), mean(x * x) + mean(y * y) - mean(x) ** 2 - mean(y) ** 2
    whole = (2 * mean(x) * mean(y) + c1) * (2 * covariance + c2) / ((mean(x) ** 2 + mean(y) ** 2 + c1) * (spread + c2))
    assert ssim_mirrored(x, y) == pytest.approx(whole.mean(), abs=1e-9)


def test_ssim_of_eschernet_is_scikit_images_default(pair):
    x, y = ((picture * 255).round().astype(np.uint8) for picture in pair)
    assert ssim_uniform(x, y) == pytest.approx(structural_similarity(x, y, channel_axis=2), abs=1e-9)


def test_edges_that_are_not_composited():
    truth = np.array([[[10, 20, 30, 0], [10, 20, 30, 128], [10, 20, 30, 255]]], np.uint8)
    assert hard_white(truth).tolist() == [[[255, 255, 255], [10, 20, 30], [10, 20, 30]]]
    made = truth.copy()
    made[..., 3] = (0, 0, 255)  # the half-covered pixel is gone: 245, 235, 225 off in one of three pixels
    mse = (245**2 + 235**2 + 225**2) / 9 / 255**2
    assert psnr_hard_white(truth, made) == pytest.approx(-10 * math.log10(mse))


def test_decibels_of_the_mean_error():
    """Errors of 51 and of 5.1 of 255, squared 0.04 and 0.0004: 16.95 dB together, 23.98 dB as a mean of both."""
    truth = np.zeros((2, 4, 4, 4), np.uint8)
    truth[..., 3] = 255
    made = truth.copy()
    made[0, ..., :3], made[1, ..., :3] = 51, 5
    expected = -10 * math.log10((0.04 + (5 / 255) ** 2) / 2)
    assert psnr_of_mean_error(truth, made) == pytest.approx(expected, abs=1e-4)


def test_chamfers_of_two_planes():
    """Two grids of points h apart: mean h, sum 2 h, squares 2 h^2."""
    grid = np.stack([*np.meshgrid(np.arange(9) / 8, np.arange(9) / 8), np.zeros((9, 9))], -1).reshape(-1, 3)
    above = grid + (0, 0, 0.05)
    assert chamfer_mean(grid, above) == pytest.approx(0.05) and chamfer_sum(grid, above) == pytest.approx(0.1)
    assert chamfer_squared(grid, above) == pytest.approx(2 * 0.05**2)
    box = own_box(Mesh(grid * 3 + 7, np.array([[0, 8, 80]])), 2.0)
    assert used_vertices(box).min(0)[:2] == pytest.approx(-1) and used_vertices(box).max(0)[:2] == pytest.approx(1)
    assert len(used_vertices(box)) == 3


def test_the_table_of_one_pair_shows_the_factors():
    """A ball and the same ball shifted by 0.05 and 5 % larger."""
    truth = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    made = truth.copy()
    made.apply_scale(1.05)
    made.apply_translation((0.05, 0, 0))
    rows = {(row["figure"], row["convention"]): row["value"] for row in mesh_rows(plain(truth), plain(made), resolution=32, lattice=32)}

    def chamfer(words: str) -> float:
        return next(value for (figure, text), value in rows.items() if figure == "Chamfer" and text.startswith(words))

    points = chamfer("points to points")
    assert chamfer("points to triangles") < points < 1.1 * chamfer("points to triangles")
    assert chamfer("sum of both") == pytest.approx(2 * points) and chamfer("object in [-1, 1]") == pytest.approx(2 * points)
    assert chamfer("the same with 2,048") > 1.05 * points and chamfer("floor") == pytest.approx(0.5 * math.sqrt(math.pi / 2048), rel=0.1)
    assert chamfer("vertices, each") == pytest.approx(0.0, abs=1e-9)  # own boxes hide the shift and the size
    iou = [value for (figure, _), value in rows.items() if figure == "Volume IoU"]
    assert iou[0] == pytest.approx(iou[1], abs=0.05) and iou[2] == 1.0


def test_the_table_of_pictures_and_its_text():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 256, (2, 24, 24, 4), dtype=np.uint8)
    truth[..., 3] = 0
    truth[:, 8:16, 8:16, 3] = 255
    made = truth.copy()
    made[:, 8:16, 8:16, :3] ^= 32
    rows = picture_rows(list(truth), list(made))
    values = [row["value"] for row in rows]
    assert values[0] - values[1] == pytest.approx(10 * math.log10(9), abs=0.01)  # the object fills a ninth of the frame
    text = as_markdown([*rows, {"figure": "SSIM", "convention": "y", "used_by": "z", "value": None}])
    assert len(text.splitlines()) == len(rows) + 3 and text.endswith("| SSIM | y | z | - |") and f"{values[0]:.2f}" in text
    with pytest.raises(UserError, match="several sizes"):
        picture_rows(list(truth), [made[0], made[1, :20]])
    same = picture_rows([truth[0]], [truth[0]])
    assert same[0]["value"] == 100.0 and np.array_equal(on_white(truth[0]), on_white(truth[0]))


def test_best_of_n_seeds():
    first, second = {"a": 10.0, "b": 20.0, "c": None}, {"a": 30.0, "b": 10.0, "c": 5.0}
    told = best_of([first, second], "psnr")
    assert told["mean"]["mean"] == pytest.approx((20 + 15 + 5) / 3) and told["best"]["mean"] == pytest.approx(25.0)
    assert told["best_seed"] == {"a": 1, "b": 0} and told["incomplete"] == ["c"] and told["seed_means"] == [15.0, 15.0]
    assert told["seed_std"] == pytest.approx((20 / math.sqrt(2) + 10 / math.sqrt(2)) / 2)
    assert best_of([first, second], "lpips")["best"]["mean"] == pytest.approx(10.0)  # lower is better
    alone = best_of([first], "psnr")
    assert alone["best"]["mean"] == 15.0 and alone["seed_std"] is None and best_of([], "psnr")["seeds"] == 0


def test_best_of_n_grows_with_n_for_pure_luck():
    """Standard normal figures: the expected best of 2 is 1 / sqrt(pi), of 4 it is 1.0294; the mean stays 0."""
    rng = np.random.default_rng(0)
    seeds = [{str(i): float(v) for i, v in enumerate(rng.normal(size=2000))} for _ in range(4)]
    assert best_of(seeds[:2], "psnr")["best"]["mean"] == pytest.approx(1 / math.sqrt(math.pi), abs=0.06)
    assert best_of(seeds, "psnr")["best"]["mean"] == pytest.approx(1.0294, abs=0.06)
    assert best_of(seeds, "psnr")["mean"]["mean"] == pytest.approx(0.0, abs=0.05)
