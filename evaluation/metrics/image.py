"""Fidelity of one picture to another: PSNR, foreground PSNR, SSIM and mask IoU, all in float64.

Pictures are straight-alpha sRGB uint8 `[H, W, 4]`, composited on white. Figures of a set are the arithmetic mean of
the figures of its views (mean of dB, not dB of the mean error). Identical pictures have infinite PSNR: the functions
return `inf`, tables and JSON hold `PSNR_CAP_DB`, which lies above anything 8-bit pictures of usual size can reach.
"""

import math

import numpy as np
from scipy.ndimage import correlate1d

from rendering.view_set import on_white

PSNR_CAP_DB = 100.0
IMAGE_METRICS = ("psnr", "psnr_foreground", "ssim", "mask_iou")

SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5
SSIM_MIN_SIZE_PX = 2 * SSIM_RADIUS_PX + 1
SSIM_K1, SSIM_K2 = 0.01, 0.03


def mask_of(rgba: np.ndarray) -> np.ndarray:
    """Foreground: boolean `[..., H, W]`, alpha above one half."""
    return rgba[..., 3] > 127


def psnr(reference: np.ndarray, generated: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of RGB `[H, W, 3]` in [0, 1], over all pixels or those in `mask` `[H, W]`.

    Returns `inf` for equal pictures and NaN when the mask selects no pixel. Raises ValueError when shapes differ.
    """
    _require_same_shape(reference, generated)
    squared_error = (np.asarray(reference, np.float64) - np.asarray(generated, np.float64)) ** 2
    if mask is not None:
        squared_error = squared_error[mask]
    if squared_error.size == 0:
        return math.nan
    mse = float(squared_error.mean())
    return math.inf if mse == 0.0 else -10.0 * math.log10(mse)


def ssim(reference: np.ndarray, generated: np.ndarray) -> float:
    """Mean structural similarity of RGB `[H, W, 3]` in [0, 1].

    Gaussian window of sigma 1.5 px cut to 11 x 11, population covariance, data range 1, statistics per channel, a
    border of 5 px left out of the mean (Wang et al. 2004; scikit-image's Gaussian convention).
    Raises ValueError when shapes differ or a side is under 11 px.
    """
    _require_same_shape(reference, generated)
    if min(reference.shape[:2]) < SSIM_MIN_SIZE_PX:
        raise ValueError(f"SSIM needs at least {SSIM_MIN_SIZE_PX} px on each side, got {reference.shape[1]} x {reference.shape[0]}")
    x, y = np.asarray(reference, np.float64), np.asarray(generated, np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    inner = slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
    return float(similarity[inner, inner].mean())


def _blur(values: np.ndarray) -> np.ndarray:
    offsets = np.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1)
    kernel = np.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
    kernel /= kernel.sum()
    return correlate1d(correlate1d(values, kernel, axis=0), kernel, axis=1)


def mask_iou(reference: np.ndarray, generated: np.ndarray) -> float:
    """Intersection over union of boolean masks `[H, W]`; 1 when both are empty. Raises ValueError when shapes differ."""
    _require_same_shape(reference, generated)
    union = np.count_nonzero(reference | generated)
    return 1.0 if union == 0 else np.count_nonzero(reference & generated) / union


def compare_images(reference: np.ndarray, generated: np.ndarray) -> dict[str, float | None]:
    """All `IMAGE_METRICS` of one pair of uint8 `[H, W, 4]` pictures, ready for JSON.

    PSNR is capped at `PSNR_CAP_DB`; `psnr_foreground` (pixels in the reference's mask) is None when that mask is empty.
    Raises ValueError when shapes differ or a side is under 11 px.
    """
    _require_same_shape(reference, generated)
    truth, picture = on_white(reference), on_white(generated)
    foreground = psnr(truth, picture, mask_of(reference))
    return {
        "psnr": min(psnr(truth, picture), PSNR_CAP_DB),
        "psnr_foreground": None if math.isnan(foreground) else min(foreground, PSNR_CAP_DB),
        "ssim": ssim(truth, picture),
        "mask_iou": mask_iou(mask_of(reference), mask_of(generated)),
    }


def _require_same_shape(reference: np.ndarray, generated: np.ndarray) -> None:
    if reference.shape != generated.shape:
        raise ValueError(f"pictures differ in shape: {reference.shape} and {generated.shape}")
