"""One pair of meshes, one set of picture pairs, every peer's convention: the answers side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.conventions.pictures import psnr_hard_white, psnr_of_mean_error, ssim_auto_range, ssim_mirrored, ssim_uniform
from evaluation.conventions.points import chamfer_mean, chamfer_squared, chamfer_sum, own_box, sampled, scaled, used_vertices
from evaluation.metrics.geometry import GeometrySettings, compare_surfaces, volume_iou
from evaluation.metrics.image import PSNR_CAP_DB, mask_of, psnr, ssim
from evaluation.metrics.visible_points import compare_visible
from evaluation.score_object import ring_camera
from evaluation.statistics import mean_known
from infra.errors import UserError
from rendering.view_set import Mesh, on_white

Row = dict[str, Any]
DIGITS = {"PSNR": 2, "SSIM": 4, "Chamfer": 5, "Volume IoU": 4}
MANY, FEW, INSTANT_MESH = 100_000, 2_048, 16_000


def _row(what: str, convention: str, used_by: str, value: float | None) -> Row:
    return {"figure": what, "convention": convention, "used_by": used_by, "value": value}


def mesh_rows(reference: Mesh, generated: Mesh, resolution: int = 128, lattice: int = 64) -> list[Row]:
    """Chamfer and volume IoU of a pair of meshes (object of longest side 1, Z up) under each convention.

    `resolution` is that of our IoU, `lattice` that of the peers'.
    """
    ours = compare_surfaces(reference, generated, GeometrySettings(MANY, resolution, (0.02,)))
    visible = compare_visible(reference, generated, ring_camera())["chamfer_visible"]
    many, few, instant = (_points(reference, generated, count) for count in (MANY, FEW, INSTANT_MESH))
    vertices = used_vertices(reference), used_vertices(generated)
    boxed, boxed_twice = (own_box(reference), own_box(generated)), (own_box(reference, 2.0), own_box(generated, 2.0))
    boxed_vertices = used_vertices(boxed[0]), used_vertices(boxed[1])
    twice = _points(scaled(reference, 2.0), scaled(generated, 2.0), MANY)
    rows = [
        ("points to triangles, mean of both ways, 100k points, unit cube", "mvforge `default`", ours["chamfer"]),
        ("points to points, else the same", "TTT3R's formula", chamfer_mean(*many)),
        ("the same with 2,048 points: the floor shows", "many point-cloud papers", chamfer_mean(*few)),
        ("sum of both ways instead of the mean", "point-cloud-utils, LASA L1", chamfer_sum(*many)),
        ("sum of mean squares", "PyTorch3D's default, LASA L2", chamfer_squared(*many)),
        ("object in [-1, 1] instead of [-0.5, 0.5]", "LRM family's scale", chamfer_mean(*twice)),
        ("visible points only, voxels of 0.01", "SyncDreamer, MVDiffusion++", visible),
        ("vertices instead of samples", "-", chamfer_mean(*vertices)),
        ("vertices, each mesh brought to its own box", "EscherNet", chamfer_mean(*boxed_vertices)),
        ("each mesh brought to its own box, 100k points", "-", chamfer_mean(*_points(*boxed, MANY))),
        ("own boxes in [-1, 1], 16k points", "InstantMesh (as recalled)", chamfer_mean(*_points(*boxed_twice, INSTANT_MESH))),
    ]
    table = [_row("Chamfer", convention, used_by, value) for convention, used_by, value in rows]
    table.append(_row("Chamfer", "floor of 2,048 points: the truth against itself", "-", chamfer_mean(*_points(reference, reference, FEW))))
    volumes = [
        (f"{resolution} cells along the joint box", "mvforge `default`", ours["volume_iou"]),
        (f"{lattice}^3 over [-1, 1]^3", "SyncDreamer, MVDiffusion++", volume_iou(reference, generated, lattice, (-1.0, 1.0))),
        ("the same, each mesh brought to its own box", "EscherNet", volume_iou(*boxed, lattice, (-1.0, 1.0))),
    ]
    return table + [_row("Volume IoU", convention, used_by, value) for convention, used_by, value in volumes]


def _points(reference: Mesh, generated: Mesh, count: int) -> tuple[np.ndarray, np.ndarray]:
    return sampled(reference, count, 1), sampled(generated, count, 2)


def picture_rows(references: Sequence[np.ndarray], generated: Sequence[np.ndarray]) -> list[Row]:
    """PSNR and SSIM of pairs of RGBA pictures uint8 `[H, W, 4]` of one size under each convention; means over the pairs.

    Raises UserError for pictures of several sizes.
    """
    if len({picture.shape for picture in (*references, *generated)}) != 1:
        raise UserError("the pictures have several sizes", "give pictures of one size")
    pairs = list(zip(references, generated, strict=True))
    white = [(on_white(a), on_white(b)) for a, b in pairs]
    plain = [((a * 255).round().astype(np.uint8), (b * 255).round().astype(np.uint8)) for a, b in white]
    inside = [psnr(a, b, mask_of(rgba)) for (a, b), (rgba, _) in zip(white, pairs, strict=True) if mask_of(rgba).any()]
    pixels = [(a[mask_of(rgba)], b[mask_of(rgba)]) for (a, b), (rgba, _) in zip(white, pairs, strict=True)]
    whole = psnr(*(np.concatenate([pair[i] for pair in pixels]) for i in (0, 1))) if inside else None
    many = psnr_of_mean_error(np.stack(references), np.stack(generated))
    rows = [
        ("PSNR", "full frame on white, mean of the views' dB", "mvforge, SyncDreamer", _mean(psnr(a, b) for a, b in white)),
        ("PSNR", "inside the true mask, mean of the views' dB", "mvforge `psnr_foreground`", _mean(inside)),
        ("PSNR", "full frame, dB of the mean error of all views", "TRELLIS, training logs", many),
        ("PSNR", "inside the true mask, dB of the mean error", "One-2-3-45, Wonder3D's rays", whole),
        ("PSNR", "only alpha 0 turned white, edges not composited", "EscherNet", _mean(psnr_hard_white(a, b) for a, b in pairs)),
        ("SSIM", "Gaussian 11 x 11, border left out, range 1", "mvforge, scikit-image's Gaussian", _mean(ssim(a, b) for a, b in white)),
        ("SSIM", "the same, range of the pair", "SyncDreamer (torchmetrics to 1.4)", _mean(ssim_auto_range(a, b) for a, b in white)),
        ("SSIM", "the same, mirrored border counted", "torchmetrics from 1.6", _mean(ssim_mirrored(a, b) for a, b in white)),
        ("SSIM", "uniform 7 x 7, sample covariance", "EscherNet, scikit-image's default", _mean(ssim_uniform(a, b) for a, b in plain)),
    ]
    return [_row(*row) for row in rows]


def _mean(values: Any) -> float | None:
    """Mean of what is known; identical pictures count as `PSNR_CAP_DB`."""
    return mean_known(None if value is None else min(value, PSNR_CAP_DB) for value in values)


def as_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table, for documents."""
    lines = ["| Figure | Convention | Used by | Value |", "|---|---|---|---|"]
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:.{DIGITS[row['figure']]}f}"
        lines.append(f"| {row['figure']} | {row['convention']} | {row['used_by']} | {value} |")
    return "\n".join(lines)
