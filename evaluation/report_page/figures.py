"""Names, units and directions of figures, and how they are written."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How one figure is shown: its name, unit, digits, and which way is better."""

    key: str
    label: str
    unit: str = ""
    digits: int = 3
    lower_is_better: bool = False

    @property
    def head(self) -> str:
        """`PSNR (dB) ↑` and the like, with the arrow towards better."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit} " + ("\u2193" if self.lower_is_better else "\u2191")

    def text(self, value: float | None) -> str:
        """The figure in the metric's digits; a dash where there is none."""
        return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{self.digits}f}"


KNOWN = (
    Metric("psnr", "PSNR", "dB", 2),
    Metric("psnr_foreground", "PSNR foreground", "dB", 2),
    Metric("ssim", "SSIM"),
    Metric("mask_iou", "Mask IoU"),
    Metric("lpips", "LPIPS", lower_is_better=True),
    Metric("chamfer", "Chamfer", "", 4, True),
    Metric("accuracy", "Accuracy", "", 4, True),
    Metric("completeness", "Completeness", "", 4, True),
    Metric("volume_iou", "Volume IoU"),
    Metric("normal_consistency", "Normal consistency"),
    Metric("p95_distance", "p95 distance", "", 4, True),
    Metric("max_distance", "Max distance", "", 4, True),
    Metric("silhouette_iou", "Silhouette IoU"),
    Metric("silhouette_iou_min", "Silhouette IoU, worst view"),
)

# MVDiffusion++ (arXiv 2402.12712), Table 1: Google Scanned Objects, one input view.
PAPER = {"chamfer": 0.0165, "volume_iou": 0.6973, "psnr": 21.45, "ssim": 0.844, "lpips": 0.129}
PAPER_STATEMENT = (
    "Paper: MVDiffusion++ (arXiv 2402.12712), Table 1, single view, Google Scanned Objects, 512 px, trained at scale. "
    "It used other objects, another reconstruction and the conventions of SyncDreamer's evaluation; the protocols differ, so these "
    "figures are for orientation and are not a comparison."
)

BASELINES = {
    "blank": "an empty picture in every place",
    "input_copied": "the given view copied to every place",
    "truth_hull": "the hull of the true views (a ceiling)",
}


def metric(key: str) -> Metric:
    """How to show `key`; unknown ones and F-scores get their plain name."""
    for known in KNOWN:
        if known.key == key:
            return known
    return Metric(key, key.replace("f_score@", "F-score @ ").replace("_", " "))


def in_order(keys: list[str]) -> list[str]:
    """The known ones in the order of `KNOWN` with F-scores after the distances, then the others as they come."""
    order = [known.key for known in KNOWN]

    def place(key: str) -> float:
        if key.startswith("f_score"):
            return order.index("completeness") + 0.5
        return order.index(key) if key in order else len(order)

    return sorted(keys, key=place)


def baseline_of(key: str) -> tuple[str, str] | None:
    """`psnr_blank` -> (`psnr`, `blank`); None when it is no baseline."""
    for suffix in BASELINES:
        if key.endswith(f"_{suffix}"):
            return key.removesuffix(f"_{suffix}"), suffix
    return None
