"""Normals for the fit: from a plug-in that estimates them, or given."""

import importlib
from collections.abc import Callable

import numpy as np

from evaluation.meshing.pictures import resized
from infra.errors import UserError
from rendering.cameras import Camera

# RGBA uint8 `[V, H, W, 4]` (straight alpha) -> unit normals `[V, H, W, 3]` in OpenCV camera axes, zero where unknown.
Estimator = Callable[[np.ndarray], np.ndarray]


def estimator(path: str) -> Estimator:
    """The function at `package.module:function`. Raises UserError when there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the normal estimator '{path}' cannot be imported ({error})", "write it as package.module:function") from error
    if not callable(found):
        raise UserError(f"the normal estimator '{path}' is not a function", "name a function")
    return found  # type: ignore[no-any-return]


def world_normals(normals: np.ndarray, camera: Camera, longest_px: int) -> np.ndarray:
    """Camera-space normals `[V, H, W, 3]` -> unit world normals float32 `[V, h, w, 3]` at the fit's size.

    Averages that are far from unit length (edges) count as unknown. Raises ValueError for another shape.
    """
    if normals.ndim != 4 or normals.shape[-1] != 3 or len(normals) != len(camera):
        raise ValueError(f"normals have shape {normals.shape}, not [{len(camera)}, H, W, 3]")
    turned = np.einsum("vij,vhwj->vhwi", camera.c2w[:, :3, :3], np.nan_to_num(normals)).astype(np.float32)
    small = resized(turned, longest_px)
    length = np.linalg.norm(small, axis=-1, keepdims=True)
    return np.where(length > 0.9, small / np.maximum(length, 1e-6), 0.0).astype(np.float32)
