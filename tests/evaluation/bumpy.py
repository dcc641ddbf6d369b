"""A bumpy ball with a smooth, many-coloured surface: nothing about it repeats, so every wrong view shows."""

import numpy as np
import trimesh
from scipy import ndimage


def bumpy_ball(subdivisions: int = 4) -> trimesh.Trimesh:
    """About 0.9 across, with dents that a visual hull can follow."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=1.0)
    x, y, z = ball.vertices.T
    ball.vertices *= (0.36 + 0.06 * np.sin(5 * x + 1) * np.cos(4 * y) + 0.06 * np.sin(6 * z))[:, None]
    x, y, z = ball.triangles_center.T
    colours = 127 + 100 * np.stack([np.sin(14 * x), np.sin(13 * y + 1), np.sin(15 * z + 2)], -1)
    ball.visual.face_colors = np.concatenate([colours, np.full((len(colours), 1), 255)], 1).astype(np.uint8)
    return ball


def shaken(rgba: np.ndarray, sigma_px: float, colour: float = 0.0, seed: int = 0) -> np.ndarray:
    """Every view shifted by a random way of its own and its channels scaled, as a generator without consistency would leave them."""
    rng, out = np.random.default_rng(seed), np.empty_like(rgba)
    for picture, source in zip(out, rgba, strict=True):
        values = source.astype(float) / 255
        values[..., :3] *= values[..., 3:]
        way, gain = rng.normal(0, sigma_px, 2), 1 + rng.normal(0, colour, 3)
        values = np.stack([ndimage.shift(values[..., channel], way, order=1) for channel in range(4)], -1)
        alpha = values[..., 3:]
        values[..., :3] = gain * np.divide(values[..., :3], alpha, out=np.zeros_like(values[..., :3]), where=alpha > 0)
        picture[...] = np.clip(values * 255, 0, 255).round()
    return out
