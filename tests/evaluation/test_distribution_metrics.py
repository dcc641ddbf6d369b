"""FID, KID and IS against closed forms, scipy's matrix square root and slow loops; and which way each metric is good."""

import math
import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm

from evaluation.metrics.directions import LOWER_IS_BETTER, is_better
from evaluation.metrics.distribution import (
    SmallSampleWarning,
    frechet_distance,
    inception_score,
    kernel_distance,
    small_sample_note,
)


def drawn(seed: int, count: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """`count` points whose sample mean is exactly `mean` and whose sample covariance is exactly `root @ root.T`."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, ddof=1).reshape(len(mean), -1))).T
    return mean + x @ root.T


def test_frechet_distance_of_numbers_is_its_closed_form():
    a, b = drawn(0, 500, np.array([1.0]), np.array([[2.0]])), drawn(1, 300, np.array([4.0]), np.array([[0.5]]))
    assert frechet_distance(a, b) == pytest.approx((4 - 1) ** 2 + (2 - 0.5) ** 2, rel=1e-10)


def test_frechet_distance_of_gaussians_agrees_with_scipy():
    rng = np.random.default_rng(2)
    roots = [rng.normal(size=(6, 6)) for _ in range(2)]
    means = [rng.normal(size=6) for _ in range(2)]
    a, b = drawn(3, 400, means[0], roots[0]), drawn(4, 250, means[1], roots[1])
    covariance = [root @ root.T for root in roots]
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariance[0] + covariance[1] - 2 * sqrtm(covariance[0] @ covariance[1]).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_diagonal_covariances_have_a_closed_form_and_sets_have_no_distance_to_themselves():
    a, b = drawn(5, 200, np.zeros(3), np.diag([1.0, 2, 3])), drawn(6, 200, np.array([0, 0, 2.0]), np.diag([2.0, 2, 1]))
    assert frechet_distance(a, b) == pytest.approx(4 + 1 + 0 + 4, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(a, np.random.default_rng(0).permutation(a)) == pytest.approx(0.0, abs=1e-10)


def test_few_pictures_give_the_right_number_and_a_warning_with_the_counts():
    """12 and 9 points in 40 dimensions: the covariances have rank 11 and 8."""
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(12, 40)), 1.5 * rng.normal(size=(9, 40)) + 0.3
    with pytest.warns(SmallSampleWarning, match="12 and 9 pictures .* rank 8 at most in 40 dimensions"):
        value = frechet_distance(a, b)
    # Oracle: eigenvalues of the product of both covariances, which is what the square root's trace sums.
    shared = np.sqrt(np.clip(np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real, 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * shared
    assert value == pytest.approx(expected, rel=1e-6)
    # What the warning is about: more pictures of the same two distributions are much nearer to each other.
    many = frechet_distance(rng.normal(size=(4000, 40)), 1.5 * rng.normal(size=(4000, 40)) + 0.3)
    assert value > 2 * many
    assert many == pytest.approx(40 * (0.3**2 + 0.5**2), rel=0.1)


def test_enough_pictures_give_no_warning():
    assert small_sample_note(41, 50, 40) == "" and "rank 39" in small_sample_note(40, 50, 40)
    rng = np.random.default_rng(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(rng.normal(size=(50, 8)), rng.normal(size=(60, 8)))


def test_kernel_distance_is_the_double_loop(monkeypatch):
    monkeypatch.setattr("evaluation.metrics.distribution.BLOCK", 4)
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(10, 5)) + 0.4

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    within_a = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / (7 * 6)
    within_b = sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / (10 * 9)
    across = sum(kernel(x, y) for x in a for y in b) / (7 * 10)
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across, rel=1e-12)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-12)


def test_kernel_distance_is_unbiased_however_few_the_pictures():
    rng = np.random.default_rng(10)
    values = [kernel_distance(rng.normal(size=(6, 3)), rng.normal(size=(6, 3))) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0  # an estimate that is never below zero is biased: its true value here is zero


def test_inception_score_of_known_probabilities():
    assert inception_score(np.eye(5)) == pytest.approx(5.0)  # sure of every picture, all classes alike
    assert inception_score(np.full((8, 5), 0.2)) == pytest.approx(1.0)  # nothing recognised
    assert inception_score(np.tile(np.eye(5)[2], (8, 1))) == pytest.approx(1.0)  # all pictures alike
    # Two kinds of pictures, three quarters of the first: exp of the entropy of the mean.
    p = np.eye(2)[[0, 0, 0, 1]]
    assert inception_score(p) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    # Parts: the first two rows are alike (1), the last two are not (2).
    assert inception_score(p, splits=2) == pytest.approx((1 + 2) / 2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "one width"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "two pictures"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_wrong_features_are_refused(a, b, message):
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=message):
            distance(a, b)


def test_what_is_no_probability_is_refused():
    for wrong in (np.zeros((3, 2)), np.array([[1.5, -0.5]]), np.ones(4) / 4):
        with pytest.raises(ValueError, match="probabilities"):
            inception_score(wrong)
    with pytest.raises(ValueError, match="parts"):
        inception_score(np.eye(3), splits=4)


def test_directions():
    assert is_better("chamfer", 0.01, 0.02) and not is_better("chamfer", 0.02, 0.01)
    assert is_better("psnr", 30.0, 20.0) and not is_better("psnr", 20.0, 20.0)
    assert is_better("f_score@0.05", 0.9, 0.8) and is_better("kid", -0.1, 0.0)
    assert not is_better("psnr", math.nan, 1.0) and not is_better("lpips", math.nan, 1.0)
    assert {"lpips", "fid", "chamfer_icp_aligned", "chamfer_visible", "max_distance"} <= LOWER_IS_BETTER
    higher = {"ssim", "mask_iou", "clip_similarity", "inception_score", "volume_iou", "normal_consistency", "hull_warp_psnr"}
    assert not LOWER_IS_BETTER & (higher | {"overlap_psnr_ratio", "hull_silhouette_iou", "volume_iou_bbox_aligned"})
