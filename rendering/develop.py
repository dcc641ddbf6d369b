"""From what Cycles wrote for one view (linear, premultiplied, multilayer EXR) to 8-bit pictures and passes.

NumPy and OpenEXR only: the Blender child loads this file by its path.
"""

from typing import Any

import numpy as np
import OpenEXR

LAYER = "ViewLayer."
# Blender's depth where a ray meets nothing is 1e10.
FARTHEST = 1e9
SMALLEST_NORMAL = 0.05


def _srgb_table() -> np.ndarray:
    """The sRGB transfer function at 65536 linear values, rounded to 8 bits (IEC 61966-2-1)."""
    linear = np.arange(65536) / 65535.0
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255.0).astype(np.uint8)


SRGB = _srgb_table()


def read_layers(path: str) -> dict[str, np.ndarray]:
    """Pass name -> float32 `[H, W]` or `[H, W, C]`; the three channels of a vector pass are put together."""
    found: dict[str, Any] = {}
    with OpenEXR.File(path) as file:
        for name, channel in file.channels().items():
            found[name.removeprefix(LAYER)] = np.asarray(channel.pixels, np.float32)
    if "Normal.X" in found:
        found["Normal"] = np.stack([found.pop(f"Normal.{axis}") for axis in "XYZ"], -1)
    if "Depth.Z" in found:
        found["Depth"] = found.pop("Depth.Z")
    return found


def straight(premultiplied: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Linear premultiplied `[H, W, 3]` and alpha `[H, W]` -> sRGB uint8, zero where alpha is."""
    colour = np.clip(premultiplied / np.maximum(alpha, 1e-6)[..., None], 0.0, 1.0)
    return SRGB[(colour * 65535.0 + 0.5).astype(np.uint16)] * (alpha > 0)[..., None].astype(np.uint8)


def developed(layers: dict[str, np.ndarray], passes: list[str], world_to_camera: np.ndarray) -> dict[str, np.ndarray]:
    """`rgba` uint8 `[H, W, 4]` (sRGB, straight alpha) and the asked passes, as `rendering.view_set.ViewSet` holds them.

    Args:
        layers: as `read_layers` gives them.
        world_to_camera: 3x3 rotation into OpenCV camera axes.
    """
    combined = layers["Combined"]
    alpha = np.clip(combined[..., 3], 0.0, 1.0)
    levels = np.rint(alpha * 255.0).astype(np.uint8)
    seen = levels > 0
    arrays = {"rgba": np.concatenate([straight(combined[..., :3], np.where(seen, alpha, 0.0)), levels[..., None]], -1)}
    if "depth" in passes:
        depth = layers["Depth"]
        arrays["depth"] = np.where(seen & (depth > 0) & (depth < FARTHEST), depth, 0.0).astype(np.float32)
    if "normal" in passes:
        # Samples of a pixel are averaged in world space, and pixels at the rim hold only a part of a vector.
        normal = layers["Normal"] @ np.asarray(world_to_camera, np.float32).T
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        arrays["normal"] = np.where(seen[..., None] & (length > SMALLEST_NORMAL), normal / np.maximum(length, 1e-9), 0.0).astype(np.float32)
    if "albedo" in passes:
        arrays["albedo"] = straight(layers["albedo"][..., :3], np.where(seen, alpha, 0.0))
    return arrays


def noise_db(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of one picture, estimated from two that differ by their noise only: uint8 `[H, W, 4]`, over the foreground.

    The mean square of their difference is twice the variance of each.
    """
    seen = (one[..., 3] > 0) | (other[..., 3] > 0)
    if not seen.any():
        return float("inf")
    first, second = (picture[seen].astype(np.float64) / 255.0 for picture in (one, other))
    variance = ((first[:, :3] * first[:, 3:] - second[:, :3] * second[:, 3:]) ** 2).mean() / 2
    return float(-10 * np.log10(max(variance, 1e-12)))
