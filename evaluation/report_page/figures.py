"""Names, units and directions of figures, and how they are written. A metric that is not listed here is shown all the same."""

import math
from dataclasses import dataclass, replace

from evaluation.metrics.directions import LOWER_IS_BETTER

PICTURES, LEARNED, MESH, CONSISTENCY, OTHER = "Pictures", "Pictures, by learned features", "Mesh", "Consistency", "Other"


@dataclass(frozen=True)
class Metric:
    """How one figure is shown: its name, unit, digits, and the group it stands in."""

    key: str
    label: str
    unit: str = ""
    digits: int = 3
    group: str = OTHER

    @property
    def head(self) -> str:
        """`PSNR (dB) ↑` and the like, with the arrow towards better, which never starts a line."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit}\u00a0" + ("\u2193" if self.key in LOWER_IS_BETTER else "\u2191")

    def text(self, value: float | None) -> str:
        """The figure in the metric's digits; a dash where there is none."""
        return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{self.digits}f}"


KNOWN = (
    Metric("psnr", "PSNR", "dB", 2, PICTURES),
    Metric("psnr_foreground", "PSNR foreground", "dB", 2, PICTURES),
    Metric("ssim", "SSIM", group=PICTURES),
    Metric("ssim_foreground", "SSIM foreground", group=PICTURES),
    Metric("mask_iou", "Mask IoU", group=PICTURES),
    Metric("lpips", "LPIPS", group=LEARNED),
    Metric("lpips_foreground", "LPIPS foreground", group=LEARNED),
    Metric("clip_similarity", "CLIP similarity", group=LEARNED),
    Metric("fid", "FID", digits=2, group=LEARNED),
    Metric("kid", "KID", digits=4, group=LEARNED),
    Metric("inception_score", "Inception score", digits=2, group=LEARNED),
    Metric("chamfer", "Chamfer", "", 4, MESH),
    Metric("accuracy", "Accuracy", "", 4, MESH),
    Metric("completeness", "Completeness", "", 4, MESH),
    Metric("f_score", "F-score", group=MESH),
    Metric("volume_iou", "Volume IoU", group=MESH),
    Metric("normal_consistency", "Normal consistency", group=MESH),
    Metric("p95_distance", "p95 distance", "", 4, MESH),
    Metric("max_distance", "Max distance", "", 4, MESH),
    Metric("hull_silhouette_iou", "Silhouette IoU with the hull", group=CONSISTENCY),
    Metric("hull_silhouette_iou_min", "Silhouette IoU with the hull, worst view", group=CONSISTENCY),
    Metric("hull_warp_psnr", "Warp PSNR on the hull", "dB", 2, CONSISTENCY),
    Metric("overlap_psnr", "Overlap PSNR", "dB", 2, CONSISTENCY),
    Metric("overlap_psnr_truth", "Overlap PSNR of the true views", "dB", 2, CONSISTENCY),
    Metric("overlap_psnr_ratio", "Overlap PSNR ratio", group=CONSISTENCY),
    Metric("silhouette_iou", "Silhouette IoU with the mesh", group=CONSISTENCY),
    Metric("silhouette_iou_min", "Silhouette IoU with the mesh, worst view", group=CONSISTENCY),
)
_BY_KEY = {known.key: known for known in KNOWN}
_PLACE = {known.key: place for place, known in enumerate(KNOWN)}
_GROUPS = (PICTURES, LEARNED, MESH, CONSISTENCY, OTHER)


@dataclass(frozen=True)
class Published:
    """One row of a published table: a method's figures by the table's own columns."""

    method: str
    columns: dict[str, float]


# MVDiffusion++ (arXiv 2402.12712), Table 1: Google Scanned Objects, one input view.
PAPER = Published("MVDiffusion++", {"Chamfer": 0.0165, "Volume IoU": 0.6973, "PSNR": 21.45, "SSIM": 0.844, "LPIPS": 0.129})
PUBLISHED = (
    Published("Zero123", {"Chamfer": 0.0339, "Volume IoU": 0.5035, "PSNR": 18.93, "SSIM": 0.779, "LPIPS": 0.166}),
    Published("SyncDreamer", {"Chamfer": 0.0261, "Volume IoU": 0.5421, "PSNR": 20.05, "SSIM": 0.798, "LPIPS": 0.146}),
    Published("Wonder3D", {"Chamfer": 0.0329, "Volume IoU": 0.5768}),
    Published("Open-LRM", {"Chamfer": 0.0285, "Volume IoU": 0.5945}),
    PAPER,
)
# The protocol with the conventions of that table. It says itself which of its figures is made like which column.
PAPER_PROTOCOL = "syncdreamer-gso30"
# Where another protocol is used, the columns stand beside what is nearest to them.
NEAREST = {"Chamfer": "chamfer", "Volume IoU": "volume_iou", "PSNR": "psnr", "SSIM": "ssim", "LPIPS": "lpips"}
PAPER_STATEMENT = (
    "Paper: MVDiffusion++ (arXiv 2402.12712), Table 1, single view, Google Scanned Objects, 512 px, trained at scale. "
    "It used other objects, another reconstruction and the conventions of SyncDreamer's evaluation; the protocols differ, so these "
    "figures are for orientation and are not a comparison."
)
SAME_PROTOCOL_STATEMENT = (
    "Paper: MVDiffusion++ (arXiv 2402.12712), Table 1, single view. This evaluation keeps the conventions and the objects of that table; "
    "its reconstruction differs (the paper fits NeuS), and its figures are the authors' own."
)

BASELINES = {
    "blank": "an empty picture in every place",
    "input_copied": "the given view copied to every place",
    "truth_hull": "the hull of the true views (a ceiling)",
}


def metric(key: str) -> Metric:
    """How to show `key`. Variants (`chamfer_visible`, `f_score@0.02`) are shown like what they are variants of."""
    if key in _BY_KEY:
        return _BY_KEY[key]
    base, at, threshold = key.partition("@")
    if at:
        return replace(metric(base), key=key, label=f"{metric(base).label} @\u00a0{threshold.replace('_', ' ')}")
    parent = next((known for known in sorted(_BY_KEY, key=len, reverse=True) if key.startswith(f"{known}_")), None)
    if parent is not None:
        return replace(_BY_KEY[parent], key=key, label=f"{_BY_KEY[parent].label}, {key.removeprefix(parent + '_').replace('_', ' ')}")
    return Metric(key, key.replace("_", " "))


def in_order(keys: list[str]) -> list[str]:
    """By group, in the order of `KNOWN`, each before its variants; unknown ones last, as they come."""

    def place(key: str) -> tuple[int, int]:
        base = key.partition("@")[0]
        nearest = max((known for known in _PLACE if base == known or base.startswith(f"{known}_")), key=len, default=None)
        return _GROUPS.index(metric(key).group), len(_PLACE) if nearest is None else _PLACE[nearest]

    return sorted(keys, key=place)


def baseline_of(key: str) -> tuple[str, str] | None:
    """`psnr_blank` -> (`psnr`, `blank`); None when it is no baseline."""
    for suffix in BASELINES:
        if key.endswith(f"_{suffix}"):
            return key.removesuffix(f"_{suffix}"), suffix
    return None
