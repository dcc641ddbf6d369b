"""Pictures of one camera as another field of view would frame them: cropped to a narrower one, padded to a wider one."""

import numpy as np
from PIL import Image

from rendering.cameras import Camera


def framing_scale(from_fov_deg: float, to_fov_deg: float) -> float:
    """The share of the picture's side that the other field of view sees; above 1 where it sees more.

    From 60 to 49.134 degrees 0.7918: 405.4 of 512 px (MVDiffusion++ on SyncDreamer's pictures).
    """
    return float(np.tan(np.radians(to_fov_deg) / 2) / np.tan(np.radians(from_fov_deg) / 2))


def refit(rgba: np.ndarray, scale: float, size_px: int) -> np.ndarray:
    """The central `scale` of a square uint8 picture `[H, H, 4]`, resized to `size_px`; what lies outside is empty.

    Resized once, with Pillow's antialiased bicubic filter on premultiplied colours; exact crops of the right size are copied.
    Raises ValueError for a picture that is not square.
    """
    side = rgba.shape[0]
    if rgba.shape[1] != side:
        raise ValueError(f"only square pictures can be framed anew, this is {rgba.shape[1]} x {side} px")
    if scale == 1.0 and side == size_px:
        return rgba
    margin = max(0, int(np.ceil(side * (scale - 1) / 2)))
    padded = np.pad(rgba, ((margin, margin), (margin, margin), (0, 0))).astype(np.float32)
    alpha = padded[..., 3:] / 255.0
    padded[..., :3] *= alpha
    start = margin + side * (1 - scale) / 2
    box = (start, start, start + side * scale, start + side * scale)
    planes = [
        Image.fromarray(np.ascontiguousarray(padded[..., i])).resize((size_px, size_px), Image.Resampling.BICUBIC, box) for i in range(4)
    ]
    values = np.stack([np.asarray(plane) for plane in planes], -1)
    # The filter overshoots alpha and premultiplied colour alike: divided before either is clipped, the colour is right.
    opacity = values[..., 3:]
    colour = np.divide(values[..., :3] * 255.0, opacity, out=np.zeros_like(values[..., :3]), where=opacity > 0.5)
    made = np.clip(np.concatenate([colour, opacity], -1), 0, 255).round().astype(np.uint8)
    made[made[..., 3] == 0] = 0
    return made


def fov_deg(camera: Camera) -> np.ndarray:
    """Horizontal field of view `[V]` in degrees."""
    return np.degrees(2 * np.arctan(0.5 / camera.intrinsics[..., 0]))
