"""Distances between two sets of pictures, and the diversity of one, from features that a network has found.

The formulas only: which network the features come from decides what the figures mean (`evaluation.metrics.learned`), and
figures from different networks or from different numbers of pictures do not compare. All in float64.
"""

import warnings

import numpy as np

BLOCK = 2048


class SmallSampleWarning(UserWarning):
    """There are too few pictures for the figure to mean much."""


def frechet_distance(a: np.ndarray, b: np.ndarray, warn: bool = True) -> float:
    """Squared Fréchet distance of the Gaussians with the mean and sample covariance (n - 1) of `[N, D]` and `[M, D]`.

    With Inception's 2048 features this is FID (Heusel et al. 2017): |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)).
    Warns (unless told not to) with `small_sample_note` where a covariance cannot have full rank. Raises ValueError for sets
    of fewer than two, other widths, or values that are not finite.
    """
    a, b = _checked(a, b)
    if warn and (note := small_sample_note(len(a), len(b), a.shape[1])):
        warnings.warn(note, SmallSampleWarning, stacklevel=2)
    root_a, root_b = _root(a), _root(b)
    # A = Ra' Ra and B = Rb' Rb, so that A B has the eigenvalues of (Ra Rb')'(Ra Rb'): the square roots are singular values
    # of Ra Rb', which also holds for covariances without full rank, where a matrix square root is unstable.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(float(distance), 0.0)


def small_sample_note(count_a: int, count_b: int, dimensions: int) -> str:
    """Why a Fréchet distance of so few pictures is doubtful; empty where both covariances can have full rank."""
    if min(count_a, count_b) > dimensions:
        return ""
    return (
        f"{count_a} and {count_b} pictures give covariances of rank {min(count_a, count_b) - 1} at most in {dimensions} dimensions: "
        "the Fréchet distance is biased upwards; compare it only at equal counts, or read kid"
    )


def _root(features: np.ndarray) -> np.ndarray:
    """R `[min(N, D), D]` with R' R the sample covariance."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of `[N, D]` and `[M, D]` under the kernel (x . y / D + 1)^3.

    With Inception's features this is KID (Binkowski et al. 2018), over all pictures instead of random subsets. Unbiased for
    any number of pictures, so it may be a little below zero. Raises ValueError as `frechet_distance`.
    """
    a, b = _checked(a, b)
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_diagonal(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_diagonal(b)) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(((a[i : i + BLOCK] @ b.T / a.shape[1] + 1) ** 3).sum() for i in range(0, len(a), BLOCK)))


def _kernel_diagonal(a: np.ndarray) -> float:
    return float((((a**2).sum(1) / a.shape[1] + 1) ** 3).sum())


def inception_score(probabilities: np.ndarray, splits: int = 1) -> float:
    """exp of the mean KL divergence of each picture's class probabilities `[N, C]` from their mean (Salimans et al. 2016).

    Between 1 (all pictures alike, or nothing recognised) and C. With several `splits` the mean over consecutive parts, as the
    paper's 10 parts of 5000. Raises ValueError where rows are no probabilities or a part would be empty.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any() or not np.allclose(p.sum(1), 1.0, atol=1e-3):
        raise ValueError(f"class probabilities [N, C] whose rows sum to 1 are needed, got an array of shape {p.shape}")
    if not 1 <= splits <= len(p):
        raise ValueError(f"{len(p)} pictures cannot be cut into {splits} parts")
    return float(np.mean([_score(part) for part in np.array_split(p, splits)]))


def _score(p: np.ndarray) -> float:
    ratio = np.divide(p, p.mean(0), out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(1).mean()))


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"two arrays of features [N, D] of one width are needed, got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"two pictures a side are needed at least, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features are not finite")
    return a, b
