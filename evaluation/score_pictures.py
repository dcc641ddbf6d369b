"""Which generated pictures of an object are compared with which true ones under a protocol, and the figures of a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.conventions.pictures import ssim_auto_range
from evaluation.metrics.image import SSIM_MIN_SIZE_PX, compare_images
from evaluation.metrics.learned import PAIR_METRICS, LearnedMetrics
from evaluation.protocols.base import AUTO_RANGE, EXCLUDED, Protocol
from evaluation.protocols.coverage import Seen, drawn_views
from evaluation.protocols.framing import fov_deg, framing_scale, refit
from evaluation.statistics import mean_known
from rendering.cameras import Camera
from rendering.view_set import ViewSet, on_white

BASELINE_METRICS = ("psnr_blank", "psnr_foreground_blank", "psnr_input_copied", "psnr_foreground_input_copied")
CAMERA_TOLERANCE = 1e-3
LPIPS_MIN_SIZE_PX = 16


@dataclass(frozen=True)
class Comparison:
    """Pictures of an object, ready to be compared.

    Attributes:
        views: index of each among the generated targets.
        of_truth: index of its partner among the true targets.
        truth, generated: uint8 `[N, H, W, 4]`, of one size and framing.
        seen: what the object had, for the coverage of the protocol.
    """

    views: tuple[int, ...]
    of_truth: tuple[int, ...]
    truth: np.ndarray
    generated: np.ndarray
    seen: Seen

    def on_white(self) -> tuple[np.ndarray, np.ndarray]:
        """Float RGB `[N, H, W, 3]` in [0, 1] of truth and generated."""
        return on_white(self.truth), on_white(self.generated)


def comparison_of(truth: ViewSet, generated: ViewSet, given: ViewSet, protocol: Protocol) -> tuple[Comparison | None, str]:
    """What is to be compared of an object, or None and why nothing is. `given` are the views that the model was shown."""
    pairs = matching_views(truth, generated, any_fov=protocol.fits_fov)
    if not pairs:
        return None, "there is no generated target view"
    if None in pairs and not protocol.leaves_out_unmatched:
        return None, f"view {pairs.index(None)} of the generated ones has no true view from the same camera"
    where_given = {j for j in range(len(truth)) if _stands_at(truth.camera[j], given.camera)}
    chosen = {i: j for i, j in enumerate(pairs) if j is not None and not (protocol.input_views == EXCLUDED and j in where_given)}
    if protocol.draws is not None:
        scorable = [j for j in range(len(truth)) if j not in where_given]
        drawn = [scorable[k] for k in drawn_views(protocol, truth.uid, len(scorable))]
        lost = set(drawn) - set(chosen.values())
        if lost:
            return None, f"no generated view stands where {len(lost)} of the {len(drawn)} views to be scored do"
        chosen = {i: j for i, j in chosen.items() if j in drawn}
    if not chosen:
        return None, "no generated view stands where a view to be scored does"
    views, of_truth = tuple(chosen), tuple(chosen.values())
    try:
        pictures = _fitted(truth.select(of_truth), generated.select(views), protocol)
    except ValueError as error:
        return None, str(error)
    truth_fov, generated_fov = float(fov_deg(truth.camera)[of_truth[0]]), float(fov_deg(generated.camera)[views[0]])
    seen = Seen(
        truth.rig,
        len(given),
        len(views),
        sum(j in where_given for j in of_truth),
        truth_fov,
        generated_fov,
        float(fov_deg(given.camera)[0]) if len(given) else None,
        fitted=abs(truth_fov - generated_fov) > CAMERA_TOLERANCE,
    )
    return Comparison(views, of_truth, *pictures, seen), ""


def matching_views(truth: ViewSet, generated: ViewSet, any_fov: bool = False) -> list[int | None]:
    """For each generated view the index of the true view from the same camera, or None.

    Same camera: all entries of pose and intrinsics within `CAMERA_TOLERANCE`; with `any_fov` those of the pose and of the centre.
    """
    if len(truth) == 0:
        return [None] * len(generated)
    difference = np.abs(_vectors(generated.camera, any_fov)[:, None] - _vectors(truth.camera, any_fov)[None]).max(-1)
    nearest = difference.argmin(1)
    return [int(j) if difference[i, j] < CAMERA_TOLERANCE else None for i, j in enumerate(nearest)]


def _vectors(camera: Camera, any_fov: bool) -> np.ndarray:
    intrinsics = camera.intrinsics[:, 2:] if any_fov else camera.intrinsics
    return np.concatenate([camera.c2w.reshape(len(camera), 16), intrinsics], axis=1)


def _stands_at(one: Camera, others: Camera) -> bool:
    """Whether any of the other cameras has this one's pose, whatever its lens."""
    return bool((np.abs(others.c2w - one.c2w).reshape(len(others), 16).max(1, initial=0.0) < CAMERA_TOLERANCE).any())


def _fitted(truth: ViewSet, generated: ViewSet, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of pictures at the protocol's size and framing. Raises ValueError, saying why, where that cannot be."""
    (h, w), (gh, gw) = truth.rgba.shape[1:3], generated.rgba.shape[1:3]
    if min(h, w) < SSIM_MIN_SIZE_PX:
        raise ValueError(f"views are under {SSIM_MIN_SIZE_PX} px")
    if protocol.picture_px is None and not protocol.fits_fov:
        if (h, w) != (gh, gw):
            raise ValueError(f"sizes differ: reference {w} x {h}, generated {gw} x {gh} px")
        return truth.rgba, generated.rgba
    size = min(h, protocol.picture_px or h)
    scales = [framing_scale(a, b) for a, b in zip(fov_deg(generated.camera), fov_deg(truth.camera), strict=True)]
    same = [1.0 if abs(scale - 1) < CAMERA_TOLERANCE else scale for scale in scales]
    return (
        np.stack([refit(picture, 1.0, size) for picture in truth.rgba]),
        np.stack([refit(picture, scale, size) for picture, scale in zip(generated.rgba, same, strict=True)]),
    )


def picture_figures(
    truth: np.ndarray, picture: np.ndarray, protocol: Protocol, learned: LearnedMetrics
) -> tuple[dict[str, float | None], dict[str, str]]:
    """All `protocol.image_metrics()` of a pair of uint8 `[H, W, 4]` pictures, and why those that are None are."""
    figures = compare_images(truth, picture)
    reasons = {metric: "the reference's mask is empty" for metric, value in figures.items() if value is None}
    white_truth, white = on_white(truth), on_white(picture)
    small = min(truth.shape[:2]) < LPIPS_MIN_SIZE_PX and "lpips" not in learned.reasons
    figures |= dict.fromkeys(PAIR_METRICS) if small else learned.pair(white_truth, white)
    reasons |= {
        metric: learned.reasons.get(metric, f"LPIPS needs {LPIPS_MIN_SIZE_PX} px") for metric in PAIR_METRICS if figures[metric] is None
    }
    if AUTO_RANGE in protocol.extras:
        figures[AUTO_RANGE] = ssim_auto_range(white_truth, white)
        reasons |= {AUTO_RANGE: "both pictures are plain"} if figures[AUTO_RANGE] is None else {}
    return figures, reasons


def baseline_figures(compared: Comparison, given: np.ndarray | None) -> dict[str, float | None]:
    """`BASELINE_METRICS`: PSNR of an empty picture and of the given view, each in every place; absent where there is none."""
    size = compared.truth.shape[1]
    pictures = {"blank": np.zeros_like(compared.truth[0])}
    if given is not None and given.shape == compared.truth[0].shape:
        pictures["input_copied"] = given
    elif given is not None and given.shape[0] == given.shape[1]:
        pictures["input_copied"] = refit(given, 1.0, size)
    figures = {}
    for name, picture in pictures.items():
        of_views: Sequence[dict[str, float | None]] = [compare_images(truth, picture) for truth in compared.truth]
        for metric in ("psnr", "psnr_foreground"):
            figures[f"{metric}_{name}"] = mean_known(one[metric] for one in of_views)
    return figures
