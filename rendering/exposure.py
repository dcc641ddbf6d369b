"""Reads what the Blender child wrote for one view back into whole pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Picture:
    """One view of `[H, W]` pixels: `rgba` uint8, and the passes that were asked for, as in `rendering.view_set.ViewSet`."""

    rgba: np.ndarray
    depth: np.ndarray | None
    normal: np.ndarray | None
    albedo: np.ndarray | None


def read_picture(path: Path, resolution: int, passes: tuple[str, ...]) -> Picture:
    """The child traces only the box that the object projects to; everything outside it is nothing.

    Raises ValueError, KeyError or OSError for a file that is not what the child should have written.
    """
    with np.load(path, allow_pickle=False) as file:
        x, y = (int(value) for value in file["corner"])
        arrays = {name: _placed(file[name], x, y, resolution) for name in ("rgba", *passes)}
    rgba = arrays["rgba"]
    if rgba.dtype != np.uint8 or rgba.shape != (resolution, resolution, 4):
        raise ValueError(f"rgba of {path.name} is {rgba.dtype} {rgba.shape}")
    # The denoiser leaves colour where alpha is 0; it would spoil hashes and compression.
    return Picture(rgba * (rgba[..., 3:] > 0), *(arrays.get(name) for name in ("depth", "normal", "albedo")))


def _placed(part: np.ndarray, x: int, y: int, resolution: int) -> np.ndarray:
    height, width = part.shape[:2]
    if x < 0 or y < 0 or x + width > resolution or y + height > resolution:
        raise ValueError(f"a part of {width} x {height} at ({x}, {y}) is not inside {resolution} pixels")
    whole = np.zeros((resolution, resolution, *part.shape[2:]), part.dtype)
    whole[y : y + height, x : x + width] = part
    return whole
