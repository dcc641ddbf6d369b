"""Sheets of small pictures for people: views side by side, how far two differ, and where their masks do."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rendering.view_set import on_white

MISSING = np.array((224, 224, 224), np.uint8)
# Mask overlay: in both, in the truth only, in the generated picture only. Blue and orange stay apart for colour-blind eyes.
AGREED, LOST, INVENTED = (200, 206, 212), (31, 119, 180), (240, 120, 20)


def tile(rgba: np.ndarray, size_px: int) -> np.ndarray:
    """One straight-alpha picture on white -> uint8 RGB `[size_px, size_px, 3]`; small ones grow without smoothing."""
    return _resized((on_white(rgba) * 255.0 + 0.5).astype(np.uint8), size_px)


def strip(rgba: Sequence[np.ndarray | None], size_px: int) -> np.ndarray:
    """Pictures side by side `[size_px, N * size_px, 3]`; a grey square stands for each missing (None) one."""
    return sheet([None if picture is None else tile(picture, size_px) for picture in rgba], len(rgba), size_px)


def sheet(tiles: Sequence[np.ndarray | None], columns: int, size_px: int) -> np.ndarray:
    """Squares `[size_px, size_px, 3]` row by row as one picture with so many columns; grey where there is none (None)."""
    rows = -(-len(tiles) // columns)
    picture = np.empty((rows * size_px, columns * size_px, 3), np.uint8)
    picture[:] = MISSING
    for place, one in enumerate(tiles):
        if one is not None:
            top, left = place // columns * size_px, place % columns * size_px
            picture[top : top + size_px, left : left + size_px] = one
    return picture


def difference(truth: np.ndarray, made: np.ndarray, gain: float) -> np.ndarray:
    """`gain * |truth - made|` of two pictures of equal shape, saturating; black where they agree."""
    return np.clip(np.abs(truth.astype(np.int16) - made.astype(np.int16)) * gain, 0, 255).astype(np.uint8)


def mask_overlay(truth: np.ndarray, made: np.ndarray, size_px: int) -> np.ndarray:
    """Where two RGBA pictures of equal shape are foreground, on white -> uint8 RGB `[size_px, size_px, 3]`.

    Grey in both (`AGREED`), blue in the truth only (`LOST`), orange in the generated picture only (`INVENTED`).
    """
    there, here = (rgba[..., 3] >= 128 for rgba in (truth, made))  # as `ViewSet.mask`
    picture = np.full((*there.shape, 3), 255, np.uint8)
    picture[there & here], picture[there & ~here], picture[here & ~there] = AGREED, LOST, INVENTED
    return _resized(picture, size_px)


def _resized(pixels: np.ndarray, size_px: int) -> np.ndarray:
    picture = Image.fromarray(pixels)
    grows = picture.width <= size_px
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.NEAREST if grows else Image.Resampling.BOX))


def webp(pixels: np.ndarray, quality: int = 82) -> bytes:
    """uint8 RGB `[H, W, 3]` -> lossy WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
