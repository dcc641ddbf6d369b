"""What a score means: every convention that changes a figure, in words, and the fingerprint of an evaluation set."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Any

from evaluation.metrics.geometry import GeometrySettings
from evaluation.metrics.hull_consistency import DESCRIBED as HULL_CONVENTIONS
from evaluation.metrics.hull_consistency import HULL_METRICS
from evaluation.metrics.image import IMAGE_METRICS, PSNR_CAP_DB
from evaluation.metrics.learned import PAIR_METRICS
from evaluation.metrics.visible_points import VISIBLE_METRICS
from evaluation.metrics.warp import OVERLAP_METRICS

INCLUDED, EXCLUDED = "included", "excluded"

IMAGE_CONVENTIONS = {
    "background": "white; straight alpha composited in sRGB",
    "psnr": f"dB per view over the full frame, data range 1, then mean; identical pictures count as {PSNR_CAP_DB:g} dB",
    "psnr_foreground": "the same over pixels inside the reference's mask",
    "ssim": "Gaussian 1.5, 11 x 11, population covariance, per channel, 5 px border cropped, data range 1",
    "mask_iou": "alpha > 0.5 in both; two empty masks count as 1",
}
PEER_CONVENTIONS = {
    "ssim_auto_range": "ssim with the data range of the pair (the larger of both pictures' max - min) instead of 1: torchmetrics up to "
    "1.4 without data_range, as SyncDreamer's eval_nvs.py calls it; null for a pair of plain pictures",
    "accuracy_visible": "mean distance from the generated mesh's visible points to the truth's, not squared",
    "completeness_visible": "the same from the truth's visible points to the generated mesh's",
    "chamfer_visible": "mean of both; visible points: depth maps of 256 x 256 from 16 cameras (elevation 30, distance 1.5, fov 49.13) "
    "back-projected and thinned to one mean point per voxel of 0.01, as SyncDreamer's eval_mesh.py; both meshes ray cast here",
}
CONSISTENCY_CONVENTIONS = {
    "silhouette_iou": "IoU of each generated mask with the generated mesh's silhouette, mean over views; _min the lowest view's",
    "overlap_psnr": "PSNR of points of the true depth looked up in the 4 nearest generated views, all pairs; _truth the same in the true "
    "views, _ratio generated / truth",
} | HULL_CONVENTIONS
VISIBLE, AUTO_RANGE = "visible_points", "ssim_auto_range"
# Figures that need weights or passes which not everyone has: without them they are null, with the reason, and no failure.
OPTIONAL_METRICS = (*PAIR_METRICS, *OVERLAP_METRICS)
MESH_CONSISTENCY = ("silhouette_iou", "silhouette_iou_min")


@dataclass(frozen=True)
class Protocol:
    """A named protocol: which objects and views, which pictures are compared, how, and what its published table printed.

    Attributes:
        base: its name.
        summary, source: in a sentence; where it comes from and what is our choice where the source is silent.
        points, volume_resolution, thresholds, seed, volume_box: of `GeometrySettings`.
        consistency_resolution: cells of the hull of the generated views, against which they are held; 0 leaves that out.
        picture_px: larger pictures are brought to this side before they are compared; None compares them as they are.
        fits_fov: generated views from the right place with another field of view are cropped or padded to the truth's.
        input_views: `included` scores a generated view that stands where an input view stood, `excluded` leaves it out.
        leaves_out_unmatched: generated views from where no true view is taken are left out; otherwise such an object has no figures.
        scored_views: which views are scored, in words; `draws` of them per object by (`seed`, name), None for all.
        rig: the rig that renders its truth; empty where any will do.
        condition_counts: numbers of input views that the published tables have; empty where any will do.
        objects: names of the objects, where the list is known; `object_count` their number, 0 where it is free.
        extras: `VISIBLE` and `AUTO_RANGE`, the measures that the published table used and ours do not.
        published: column of the published table -> name of our figure that is made the same way.
        frame: how truth and generated mesh come into one frame.
        notes: what cannot be made the same, and what was chosen.
        fetch: how its objects are got, as text for a person.
    """

    base: str = "default"
    summary: str = "any objects and views; figures that say what they are"
    source: str = "ours"
    points: int = 100_000
    volume_resolution: int = 128
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    seed: int = 0
    volume_box: tuple[float, float] | None = None
    consistency_resolution: int = 64
    picture_px: int | None = None
    fits_fov: bool = False
    input_views: str = EXCLUDED
    leaves_out_unmatched: bool = False
    scored_views: str = "all target views"
    draws: int | None = None
    rig: str = ""
    condition_counts: tuple[int, ...] = ()
    objects: tuple[str, ...] = ()
    object_count: int = 0
    extras: tuple[str, ...] = ()
    published: dict[str, str] = field(default_factory=dict)
    frame: str = "truth turned about the vertical so that the reference view has azimuth 0"
    notes: tuple[str, ...] = ()
    fetch: str = ""
    changed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`default` and the like, with what was changed: `default(points=2000)`."""
        return f"{self.base}({', '.join(self.changed)})" if self.changed else self.base

    def with_numbers(self, **numbers: Any) -> "Protocol":
        """The protocol with other numbers, which then show in its name; None leaves one as it is."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {key: value for key, value in numbers.items() if value is not None and value != own[key]}
        changed = tuple(f"{key}={value}" for key, value in given.items())
        return replace(self, **given, changed=(*self.changed, *changed))

    @property
    def geometry(self) -> GeometrySettings:
        return GeometrySettings(self.points, self.volume_resolution, self.thresholds, self.seed, volume_box=self.volume_box)

    def image_metrics(self) -> tuple[str, ...]:
        """Figures of a pair of pictures."""
        return (*IMAGE_METRICS, *PAIR_METRICS, *((AUTO_RANGE,) if AUTO_RANGE in self.extras else ()))

    def mesh_metrics(self) -> tuple[str, ...]:
        """Figures of a pair of meshes."""
        return (*self.geometry.metric_names(), *(VISIBLE_METRICS if VISIBLE in self.extras else ()))

    def consistency_metrics(self) -> tuple[str, ...]:
        """Figures of a set of views in itself."""
        return (*MESH_CONSISTENCY, *(HULL_METRICS if self.consistency_resolution else ()), *OVERLAP_METRICS)

    def metric_names(self) -> tuple[str, ...]:
        """All figures of an object, in order."""
        return (*self.image_metrics(), *self.mesh_metrics(), *self.consistency_metrics())

    def described(self) -> dict[str, Any]:
        """The whole protocol for result files; nothing that changes a figure is missing."""
        objects = f"{self.object_count} objects" if self.object_count else "any"
        extras = [key for key in PEER_CONVENTIONS if (VISIBLE in self.extras and "visible" in key) or key in self.extras]
        return {
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            "objects": f"{objects}: {', '.join(self.objects)}" if self.objects else objects,
            "condition_counts": list(self.condition_counts) or "any",
            "rig": self.rig or "any",
            "views": f"{self.scored_views}; input views are {self.input_views}",
            "pictures": self._pictures(),
            "images": IMAGE_CONVENTIONS | {key: PEER_CONVENTIONS[key] for key in extras if key == AUTO_RANGE},
            "geometry": self.geometry.described() | {key: PEER_CONVENTIONS[key] for key in extras if key != AUTO_RANGE},
            "consistency": CONSISTENCY_CONVENTIONS | {"hull_resolution": self.consistency_resolution},
            "object_frame": "box centre at the origin, longest side 1; no alignment of the generated mesh to the truth",
            "truth": self.frame,
            "published_columns": dict(self.published),
            "aggregation": "mean over views, then over objects; 95 % bootstrap interval over objects",
            "notes": list(self.notes),
        }

    def _pictures(self) -> str:
        size = f"brought to {self.picture_px} px where larger" if self.picture_px else "as they are; truth and generated of one size"
        fov = "; a generated view of another field of view is cropped or padded to the truth's" if self.fits_fov else ""
        return size + fov


def evaluation_set_of(protocol: dict[str, Any], truth_digests: dict[str, str]) -> str:
    """Hex SHA-256 of the described protocol, uids and the truth they are measured against; equal only for comparable evaluations."""
    text = json.dumps([protocol, sorted(truth_digests.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
