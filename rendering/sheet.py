"""Contact sheets: one block per view set, targets as azimuth columns by elevation rows, condition views in front."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rendering.view_set import CONDITION, TARGET, ViewSet

GAP_PX = 2
LABEL_PX = 14
GUTTER_PX = 34
MARGIN_PX = 8
INK, PAPER, FAINT = (40, 40, 40), (255, 255, 255), (225, 225, 225)
CHECKER_PX = 8
PLAIN = {"white": 255, "grey": 208}


def contact_sheet(
    sets: Sequence[ViewSet],
    *,
    cell_px: int = 96,
    background: str = "white",
    labels: Sequence[str] | None = None,
    max_conditions: int = 12,
) -> Image.Image:
    """An RGB picture of all views of all `sets`, one block below the other.

    Args:
        cell_px: pictures are scaled to this size.
        background: `white`, `grey` (white objects are seen too), or `checker` to show alpha.
        labels: a caption per set; the uid by default.
        max_conditions: further condition views are left out.
    """
    captions = labels if labels is not None else [views.uid for views in sets]
    blocks = [_block(views, caption, cell_px, background, max_conditions) for views, caption in zip(sets, captions, strict=True)]
    width = max((block.width for block in blocks), default=cell_px) + 2 * MARGIN_PX
    height = sum(block.height + MARGIN_PX for block in blocks) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    y = MARGIN_PX
    for block in blocks:
        sheet.paste(block, (MARGIN_PX, y))
        y += block.height + MARGIN_PX
    return sheet


def view_grid(views: ViewSet) -> tuple[list[list[int | None]], list[float], list[float]]:
    """Indices of the targets as rows of falling elevation and columns of rising azimuth, and both axes in degrees.

    A place without a view is None. Azimuth columns start at the first target's azimuth, so that a generated set
    reads from its reference on.
    """
    targets = [index for index, role in enumerate(views.roles) if role == TARGET]
    if not targets:
        return [], [], []
    first = views.azimuth_deg[targets[0]]
    turn = {index: round(float((views.azimuth_deg[index] - first) % 360.0), 3) % 360.0 for index in targets}
    azimuths = sorted(set(turn.values()))
    elevations = sorted({round(float(views.elevation_deg[index]), 3) for index in targets}, reverse=True)
    if len(azimuths) * len(elevations) > 2 * len(targets):  # scattered cameras: a plain grid in their own order
        columns = math.ceil(math.sqrt(len(targets)))
        return [list(targets[start : start + columns]) for start in range(0, len(targets), columns)], [], []
    at = {(round(float(views.elevation_deg[index]), 3), turn[index]): index for index in targets}
    rows = [[at.get((elevation, azimuth)) for azimuth in azimuths] for elevation in elevations]
    return rows, [(a + float(first)) % 360.0 for a in azimuths], elevations


def _block(views: ViewSet, caption: str, cell_px: int, background: str, max_conditions: int) -> Image.Image:
    rows, azimuths, elevations = view_grid(views)
    conditions = [index for index, role in enumerate(views.roles) if role == CONDITION][:max_conditions]
    step = cell_px + GAP_PX
    height_cells = len(rows) if rows else max(1, math.ceil(math.sqrt(len(conditions))))
    condition_columns = math.ceil(len(conditions) / height_cells)
    left = condition_columns * step + (MARGIN_PX if conditions and rows else 0)
    gutter = GUTTER_PX if elevations else 0
    columns = max((len(row) for row in rows), default=0)
    block = Image.new("RGB", (left + gutter + columns * step, 2 * LABEL_PX + height_cells * step), PAPER)
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(size=11)
    draw.text((0, 0), caption, INK, font)
    if conditions:
        draw.text((0, LABEL_PX), "conditions", INK, font)
    for number, index in enumerate(conditions):
        corner = (number // height_cells * step, 2 * LABEL_PX + number % height_cells * step)
        _paste(block, views.rgba[index], corner, cell_px, background)
    for column, azimuth in enumerate(azimuths):
        draw.text((left + gutter + column * step + 2, LABEL_PX), f"az {azimuth:g}", INK, font)
    for row_number, row in enumerate(rows):
        y = 2 * LABEL_PX + row_number * step
        if elevations:
            draw.text((left, y + cell_px // 2 - 7), f"{elevations[row_number]:+g}", INK, font)
        for column, place in enumerate(row):
            if place is not None:
                _paste(block, views.rgba[place], (left + gutter + column * step, y), cell_px, background)
    return block


def _paste(block: Image.Image, rgba: np.ndarray, place: tuple[int, int], cell_px: int, background: str) -> None:
    picture = Image.fromarray(rgba, "RGBA")
    canvas = Image.fromarray(_background(rgba.shape[1], rgba.shape[0], background), "RGBA")
    canvas.alpha_composite(picture)
    if canvas.size != (cell_px, cell_px):
        resample = Image.Resampling.NEAREST if cell_px % rgba.shape[0] == 0 else Image.Resampling.LANCZOS
        canvas = canvas.resize((cell_px, cell_px), resample)
    block.paste(canvas.convert("RGB"), place)
    ImageDraw.Draw(block).rectangle((*place, place[0] + cell_px - 1, place[1] + cell_px - 1), outline=FAINT)


def _background(width: int, height: int, kind: str) -> np.ndarray:
    if kind in PLAIN:
        return np.dstack([*[np.full((height, width), PLAIN[kind], np.uint8)] * 3, np.full((height, width), 255, np.uint8)])
    if kind != "checker":
        raise ValueError(f"background '{kind}' is none of {', '.join(PLAIN)}, checker")
    y, x = np.mgrid[:height, :width]
    shade = np.where((x // CHECKER_PX + y // CHECKER_PX) % 2, 255, 205).astype(np.uint8)
    return np.dstack([shade, shade, shade, np.full_like(shade, 255)])
