"""The `score-views` tool: two folders of RGBA pictures, paired by file name."""

from pathlib import Path
from typing import Any

from evaluation.metrics.image import IMAGE_METRICS, PSNR_CAP_DB, SSIM_MIN_SIZE_PX, compare_images
from evaluation.picture_folder import pictures_in, read_rgba
from evaluation.protocol import IMAGE_CONVENTIONS
from evaluation.statistics import mean_known
from infra.errors import UserError

SHOWN_NAMES = 5


def score_views(reference: Path, generated: Path) -> dict[str, Any]:
    """Mean figures (`psnr`, `psnr_foreground`, `ssim`, `mask_iou`), those of every view, and the conventions.

    Every picture counts, also those a model was given as input: leave these out of both folders if they shall not.
    A mean is None when no view has the figure. Raises UserError naming the files when the folders do not pair up, a
    picture has no alpha or is unreadable, sizes differ, or a side is under 11 px.
    """
    pairs = _pairs(pictures_in(reference), pictures_in(generated))
    figures = [_compared(first, second) for _, first, second in pairs]
    means = {metric: mean_known(view[metric] for view in figures) for metric in IMAGE_METRICS}
    return means | {
        "completed": len(figures),
        "failed": 0,
        "rejected": 0,
        "identical_views": sum(view["psnr"] == PSNR_CAP_DB for view in figures),
        "views": [{"name": name} | view for (name, _, _), view in zip(pairs, figures, strict=True)],
        "protocol": {"images": IMAGE_CONVENTIONS},
    }


def _pairs(reference: dict[str, Path], generated: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    for here, there, missing_from in ((reference, generated, "generated"), (generated, reference, "reference")):
        alone = sorted(set(here) - set(there))
        if alone:
            shown = ", ".join(str(here[name]) for name in alone[:SHOWN_NAMES]) + (" ..." if len(alone) > SHOWN_NAMES else "")
            message = f"{len(alone)} pictures have no partner in the {missing_from} folder: {shown}"
            raise UserError(message, "pictures pair up by file name; give both folders the same names")
    return [(name, reference[name], generated[name]) for name in sorted(reference)]


def _compared(reference: Path, generated: Path) -> dict[str, float | None]:
    truth, picture = read_rgba(reference), read_rgba(generated)
    if truth.shape != picture.shape:
        sizes = f"{reference} is {truth.shape[1]} x {truth.shape[0]} px, {generated} is {picture.shape[1]} x {picture.shape[0]} px"
        raise UserError(f"sizes differ: {sizes}", "render or resize both to one size; resizing changes the figures")
    if min(truth.shape[:2]) < SSIM_MIN_SIZE_PX:
        message = f"{reference} is {truth.shape[1]} x {truth.shape[0]} px; SSIM needs {SSIM_MIN_SIZE_PX} px on each side"
        raise UserError(message, "use larger pictures")
    return compare_images(truth, picture)
