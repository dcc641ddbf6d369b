"""PSNR and SSIM as others' evaluation code computes them, on one pair of RGBA pictures uint8 `[H, W, 4]`."""

import numpy as np
from scipy.ndimage import correlate1d, uniform_filter

from evaluation.metrics.image import psnr, ssim
from rendering.view_set import on_white


def ssim_auto_range(reference_rgb: np.ndarray, generated_rgb: np.ndarray) -> float | None:
    """Our SSIM of float RGB `[H, W, 3]` with the pair's own data range: the larger of the two pictures' max - min.

    torchmetrics up to 1.4 without `data_range` (SyncDreamer's eval_nvs.py). None for two plain pictures, where it divides by 0.
    """
    data_range = max(float(np.ptp(reference_rgb)), float(np.ptp(generated_rgb)))
    if data_range == 0.0:
        return None
    # Scaling both pictures scales K1 L and K2 L along, so that a range of 1 is another way to say it.
    return ssim(reference_rgb / data_range, generated_rgb / data_range)


def ssim_mirrored(reference_rgb: np.ndarray, generated_rgb: np.ndarray) -> float | None:
    """The same without leaving out a border, the pictures mirrored beyond their edges: torchmetrics from 1.6 on."""
    data_range = max(float(np.ptp(reference_rgb)), float(np.ptp(generated_rgb)))
    if data_range == 0.0:
        return None
    offsets = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (offsets / 1.5) ** 2)
    kernel /= kernel.sum()

    def blur(values: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(values, kernel, axis=0, mode="mirror"), kernel, axis=1, mode="mirror")

    return float(_similarity(reference_rgb, generated_rgb, blur, data_range).mean())


def ssim_uniform(reference: np.ndarray, generated: np.ndarray) -> float:
    """scikit-image's defaults on uint8 RGB `[H, W, 3]`: 7 x 7 uniform window, sample covariance, 3 px border (EscherNet)."""

    def blur(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, (7, 7, 1))

    return float(_similarity(reference, generated, blur, 255.0, 49 / 48)[3:-3, 3:-3].mean())


def _similarity(reference: np.ndarray, generated: np.ndarray, blur, data_range: float, correction: float = 1.0) -> np.ndarray:
    x, y = np.asarray(reference, np.float64), np.asarray(generated, np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = correction * (blur(x * x) - mean_x**2), correction * (blur(y * y) - mean_y**2)
    covariance = correction * (blur(x * y) - mean_x * mean_y)
    return (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def hard_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 RGB in which only pixels of alpha exactly 0 turn white; half-covered ones keep their colour (EscherNet)."""
    return np.where(rgba[..., 3:] == 0, np.uint8(255), rgba[..., :3])


def psnr_hard_white(reference: np.ndarray, generated: np.ndarray) -> float:
    """PSNR in dB of 8-bit pictures whose edges are not composited (EscherNet, `cv2.PSNR`)."""
    return psnr(hard_white(reference) / 255.0, hard_white(generated) / 255.0)


def psnr_of_mean_error(references: np.ndarray, generated: np.ndarray) -> float:
    """dB of the mean squared error over a whole set `[V, H, W, 4]` on white, not the mean of each view's dB (training-time figures)."""
    return psnr(on_white(references), on_white(generated))
