"""The guard of stage `refine`: no refined surface without proof, on views that it was not fitted to, that it is no worse than the hull.

The fit minimises an error on its own views, which contradicting views let it do by ruining the shape (it hollows the object out).
Views held out of both the fit and the hull tell the two apart, without any truth.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.meshing.colors import vertex_colors
from evaluation.meshing.look import look_at
from evaluation.metrics.image import PSNR_CAP_DB, mask_iou, psnr
from infra.seeds import rng_for
from rendering.cameras import Camera
from rendering.view_set import Mesh

# Differences below these are noise of the pixel grid: half a percent of an object of 1,000 pixels is 5 pixels of its outline.
IOU_TOLERANCE, PSNR_TOLERANCE_DB = 0.005, 0.05


@dataclass(frozen=True)
class HeldOut:
    """Means over the held-out views: IoU of the masks, and PSNR in dB over the true mask."""

    mask_iou: float
    psnr_foreground: float

    def not_worse_than(self, other: "HeldOut") -> bool:
        return self.mask_iou >= other.mask_iou - IOU_TOLERANCE and self.psnr_foreground >= other.psnr_foreground - PSNR_TOLERANCE_DB


def split_views(count: int, hold_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the views to fit and to hold out, both sorted; none held out where fewer than 6 views would leave too few."""
    held = hold_out if count >= 16 else min(hold_out, count // 6)
    order = rng_for(seed, "held-out views").permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def held_out_figures(mesh: Mesh, rgba: np.ndarray, camera: Camera, held_pictures: np.ndarray, held_camera: Camera) -> HeldOut:
    """How `mesh`, coloured by the fitted views, looks from the held-out cameras.

    `rgba`: the fitted views, uint8 straight alpha; `held_pictures`: premultiplied float32 `[K, h, w, 4]`.
    """
    height, width = held_pictures.shape[1:3]
    seen = look_at(mesh, vertex_colors(mesh, rgba, camera), held_camera, height, width)
    ious, decibels = [], []
    for truth, made in zip(held_pictures, seen, strict=True):
        mask = truth[..., 3] > 0.5
        ious.append(mask_iou(mask, made[..., 3] > 0.5))
        if mask.any():
            decibels.append(min(psnr(_on_white(truth), _on_white(made), mask), PSNR_CAP_DB))
    return HeldOut(float(np.mean(ious)), float(np.mean(decibels)) if decibels else 0.0)


def _on_white(premultiplied: np.ndarray) -> np.ndarray:
    return premultiplied[..., :3] + 1.0 - premultiplied[..., 3:]
