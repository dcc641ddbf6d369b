"""Strips of small pictures for people: views side by side, and how far two strips differ."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rendering.view_set import on_white


def tile(rgba: np.ndarray, size_px: int) -> np.ndarray:
    """One straight-alpha picture on white -> uint8 RGB `[size_px, size_px, 3]`; small ones grow without smoothing."""
    picture = Image.fromarray((on_white(rgba) * 255.0 + 0.5).astype(np.uint8))
    grows = picture.width <= size_px
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.NEAREST if grows else Image.Resampling.BOX))


def strip(rgba: Sequence[np.ndarray | None], size_px: int) -> np.ndarray:
    """Pictures side by side `[size_px, N * size_px, 3]`; a grey square stands for each missing (None) one."""
    missing = np.full((size_px, size_px, 3), 224, np.uint8)
    return np.concatenate([missing if picture is None else tile(picture, size_px) for picture in rgba], axis=1)


def difference(truth: np.ndarray, made: np.ndarray, gain: float) -> np.ndarray:
    """`gain * |truth - made|` of two strips of equal shape, saturating; black where they agree."""
    return np.clip(np.abs(truth.astype(np.int16) - made.astype(np.int16)) * gain, 0, 255).astype(np.uint8)


def webp(pixels: np.ndarray, quality: int = 82) -> bytes:
    """uint8 RGB `[H, W, 3]` -> lossy WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
