"""What a score means: every convention that changes a figure, in words, and the fingerprint of an evaluation set."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.metrics.geometry import GeometrySettings
from evaluation.metrics.image import PSNR_CAP_DB

IMAGE_CONVENTIONS = {
    "background": "white; straight alpha composited in sRGB",
    "psnr": f"dB per view over the full frame, data range 1, then mean; identical pictures count as {PSNR_CAP_DB:g} dB",
    "psnr_foreground": "the same over pixels inside the reference's mask",
    "ssim": "Gaussian 1.5, 11 x 11, population covariance, per channel, 5 px border cropped, data range 1",
    "mask_iou": "alpha > 0.5 in both; two empty masks count as 1",
}


@dataclass(frozen=True)
class Protocol:
    """The numbers behind a named protocol.

    Attributes:
        points: surface samples per mesh.
        volume_resolution: cells along the longest side of the joint box for volume IoU.
        thresholds: of the F-scores, in units of the object's longest side.
        seed: of the surface samples.
    """

    points: int = 100_000
    volume_resolution: int = 128
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05)
    seed: int = 0

    @property
    def name(self) -> str:
        """`default`, or `default` with what differs from it."""
        default = asdict(Protocol())
        changed = [f"{key}={value}" for key, value in asdict(self).items() if value != default[key]]
        return f"default({', '.join(changed)})" if changed else "default"

    @property
    def geometry(self) -> GeometrySettings:
        return GeometrySettings(self.points, self.volume_resolution, self.thresholds, self.seed)

    def described(self) -> dict[str, Any]:
        """The whole protocol for result files."""
        return {
            "name": self.name,
            "images": IMAGE_CONVENTIONS,
            "geometry": self.geometry.described(),
            "object_frame": "box centre at the origin, longest side 1; no alignment of the generated mesh to the truth",
            "truth": "reference turned about the vertical so that the reference view has azimuth 0",
            "views": "target views only; the views the model was given are never scored",
            "aggregation": "mean over views, then over objects; 95 % bootstrap interval over objects",
        }


def evaluation_set_of(protocol: dict[str, Any], truth_digests: dict[str, str]) -> str:
    """Hex SHA-256 of the described protocol, uids and the truth they are measured against; equal only for comparable evaluations."""
    text = json.dumps([protocol, sorted(truth_digests.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
