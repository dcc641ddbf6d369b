"""Pictures as the fit sees them: fewer pixels, premultiplied so that colours of nothing do not bleed in."""

import numpy as np
from PIL import Image


def shrunk(rgba: np.ndarray, longest_px: int) -> np.ndarray:
    """Premultiplied float32 `[V, h, w, 4]` in [0, 1], averaged over areas so that the longest side is at most `longest_px`.

    `rgba`: uint8 `[V, H, W, 4]`, straight alpha. Pictures that are small enough keep their size.
    """
    values = premultiplied(rgba)
    return resized(values, longest_px)


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    """uint8 `[..., 4]` with straight alpha -> float32 `[..., 4]` in [0, 1], colour times alpha."""
    values = rgba.astype(np.float32) / 255.0
    values[..., :3] *= values[..., 3:]
    return values


def resized(values: np.ndarray, longest_px: int) -> np.ndarray:
    """Area averages of float32 `[V, H, W, C]`, the longest side at most `longest_px`."""
    height, width = values.shape[1:3]
    factor = longest_px / max(height, width)
    if factor >= 1.0:
        return values
    size = max(round(width * factor), 1), max(round(height * factor), 1)

    def one(layer: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(np.ascontiguousarray(layer)).resize(size, Image.Resampling.BOX))

    return np.stack([np.stack([one(view[..., c]) for c in range(values.shape[-1])], -1) for view in values])
