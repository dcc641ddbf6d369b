"""How well a set of views agrees with its own hull, which views do not, and how stiff the fit must therefore be."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from evaluation.metrics.consistency import silhouette_iou
from evaluation.metrics.image import mask_of
from rendering.cameras import Camera
from rendering.view_set import Mesh

# Offsets of clean views are up to .002, of views that are 1.5 px of 256 apart about .01. In between the weight grows geometrically.
CONSISTENT_OFFSET, INCONSISTENT_OFFSET = 0.003, 0.01
# Equal outlines still disagree by about so much where pixels are cut.
PIXEL_OFFSET = 0.3
WEAK_EIKONAL, STRONG_EIKONAL = 0.02, 0.04
# A view is odd that lies this far below the others, and by this many of their median deviations.
ODD_GAP, ODD_DEVIATIONS = 0.08, 5.0


@dataclass(frozen=True)
class Agreement:
    """How V views agree with their hull.

    Attributes:
        iou: `[V]`, of each mask with the hull's silhouette.
        offset: by how much outlines are off on the whole, in units of the object's size (the root of its area in the picture).
        odd: indices of views that disagree with all others.
    """

    iou: np.ndarray
    offset: float
    odd: tuple[int, ...]


def agreement(hull: Mesh, rgba: np.ndarray, camera: Camera) -> Agreement:
    """Of uint8 `[V, H, W, 4]` with their hull. At most an eighth of the views can be odd. Needs foreground in every view."""
    iou = silhouette_iou(hull, rgba, camera)
    typical = float(np.median(iou))
    limit = typical - max(ODD_GAP, ODD_DEVIATIONS * float(np.median(np.abs(iou - typical))))
    worst = np.argsort(iou)[: len(iou) // 8]
    # A band along the outline is what two nearly equal masks disagree in: its width is area over length.
    masks = mask_of(rgba)
    area = masks.sum((1, 2))
    outline = np.array([mask.sum() - ndimage.binary_erosion(mask, border_value=1).sum() for mask in masks])
    offset_px = (1.0 - iou) * area / np.maximum(outline, 1)
    offset = float(np.median(np.maximum(offset_px - PIXEL_OFFSET, 0.0) / np.sqrt(area)))
    return Agreement(iou, offset, tuple(sorted(int(i) for i in worst if iou[i] < limit)))


def eikonal_for(offset: float) -> float:
    """Weight of the eikonal term for a set whose outlines are off by this much."""
    share = np.log(max(offset, 1e-9) / CONSISTENT_OFFSET) / np.log(INCONSISTENT_OFFSET / CONSISTENT_OFFSET)
    return float(WEAK_EIKONAL * (STRONG_EIKONAL / WEAK_EIKONAL) ** np.clip(share, 0.0, 1.0))
