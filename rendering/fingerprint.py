"""Perceptual fingerprints of view sets: do two objects look the same, whatever their files are called?"""

from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image

from rendering.view_set import TARGET, ViewSet, on_white

THUMBNAIL_PX = 8
RING_ELEVATION_DEG = 15.0


@dataclass(frozen=True)
class Fingerprint:
    """A ring of views around one object.

    Attributes:
        hashes: pHash bits, bool `[A, 64]`, azimuth rising.
        thumbnails: premultiplied RGBA, uint8 `[A, 8, 8, 4]`: a hundred thousand of them fit into memory.
    """

    hashes: np.ndarray
    thumbnails: np.ndarray


@dataclass(frozen=True)
class Likeness:
    """How alike two rings are at their best relative turn: mean differing bits of 64, foreground RMS colour difference."""

    bits: float
    colour: float


def ring_views(views: ViewSet) -> list[int]:
    """Indices of the targets on the elevation nearest to 15 deg, azimuth rising; all targets where there is no ring."""
    targets = [index for index, role in enumerate(views.roles) if role == TARGET]
    elevations = np.unique(views.elevation_deg[targets].round(3))
    nearest = min(elevations, key=lambda elevation: (abs(elevation - RING_ELEVATION_DEG), elevation))
    ring = [index for index in targets if abs(views.elevation_deg[index] - nearest) < 1e-2]
    return sorted(ring, key=lambda index: views.azimuth_deg[index])


def fingerprint(views: ViewSet) -> Fingerprint:
    """The fingerprint of one object's targets."""
    ring = views.rgba[ring_views(views)]
    # pHash sees grey only and no small detail; the thumbnails tell objects apart that differ in colour alone.
    grey = [Image.fromarray((on_white(image) * 255).round().astype(np.uint8)).convert("L") for image in ring]
    return Fingerprint(np.stack([imagehash.phash(image).hash.ravel() for image in grey]), np.stack([_thumbnail(image) for image in ring]))


def _thumbnail(rgba: np.ndarray) -> np.ndarray:
    values = rgba.astype(np.float32) / 255.0
    values[..., :3] *= values[..., 3:]
    channels = [Image.fromarray(values[..., channel]).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX) for channel in range(4)]
    return np.rint(np.stack([np.asarray(channel) for channel in channels], -1) * 255.0).astype(np.uint8)


def likeness(one: Fingerprint, other: Fingerprint) -> Likeness:
    """Compare two rings of equal length over all cyclic turns; the turn with the least colour difference counts."""
    count = len(one.hashes)
    turns = (np.arange(count)[None] - np.arange(count)[:, None]) % count  # row t: the other ring rolled by t
    mine, others = one.thumbnails.astype(np.float32) / 255.0, other.thumbnails[turns].astype(np.float32) / 255.0
    covered = np.maximum(mine[..., 3], others[..., 3]).sum((1, 2, 3))
    colours = np.sqrt(((mine - others) ** 2).mean(-1).sum((1, 2, 3)) / np.maximum(covered, 1e-6))
    best = int(colours.argmin())
    bits = (one.hashes ^ other.hashes[turns[best]]).sum(1).mean()
    return Likeness(float(bits), min(float(colours[best]), 1.0))
