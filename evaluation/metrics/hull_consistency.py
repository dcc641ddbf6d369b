"""How consistent a set of views is, without truth and without weights: against the visual hull of these very views.

Silhouettes tell of shape and place, the warped colours of the rest; each is blind to what the other sees. Absolute figures are
bounded by the hull's own error (concave objects score lower): compare with the same figures of true renders. A rotation
common to all views changes nothing.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.hull import HullSettings, visual_hull
from evaluation.metrics.consistency import silhouette_iou
from evaluation.metrics.geometry import Figures
from evaluation.metrics.warp import Agreement, hull_warp_psnr
from rendering.cameras import Camera
from rendering.view_set import Mesh

HULL_METRICS = ("hull_silhouette_iou", "hull_silhouette_iou_min", "hull_warp_psnr")
DESCRIBED = {
    "hull_silhouette_iou": "IoU of each mask with the silhouette of all views' hull (from 16 views on one may dissent), mean over views",
    "hull_silhouette_iou_min": "the lowest of them; it names the view that contradicts the others",
    "hull_warp_psnr": "PSNR of foreground points on the hull looked up in the 4 nearest views that see them, over all pairs",
}


@dataclass(frozen=True)
class Consistency:
    """Agreement of views with their hull.

    Attributes:
        silhouette_iou: `[V]`, each mask with the hull's silhouette.
        warp: agreement of colours.
    """

    silhouette_iou: np.ndarray
    warp: Agreement

    @property
    def worst_silhouette(self) -> int:
        """The view whose mask contradicts the others most."""
        return int(self.silhouette_iou.argmin())

    def figures(self) -> Figures:
        """`HULL_METRICS`; the warp figure is None where no point is seen from two views."""
        ious = self.silhouette_iou
        return dict(zip(HULL_METRICS, (float(ious.mean()), float(ious.min()), self.warp.psnr), strict=True))


def hull_consistency(rgba: np.ndarray, camera: Camera, hull: Mesh | None = None, resolution: int = 64) -> Consistency:
    """Consistency of uint8 `[V, H, W, 4]` straight-alpha pictures.

    `hull` saves the time of carving it again where the caller has it. Raises HullFailure where the masks leave no solid.
    """
    if hull is None:
        hull, _ = visual_hull(rgba, camera, HullSettings(resolution=resolution))
    return Consistency(silhouette_iou(hull, rgba, camera), hull_warp_psnr(hull, rgba, camera))
