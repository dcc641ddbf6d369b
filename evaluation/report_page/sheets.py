"""The contact sheet of one object: every generated view beside the truth, azimuths in columns and elevations in rows.

Four pictures with the same cells: truth, generated, difference and mask overlay. A script puts one chosen view of all four
side by side, enlarged, into the article's element of class `glass`; without it the sheets are complete all the same.
"""

import json
from dataclasses import dataclass

import numpy as np

from evaluation.report_page.figures import metric
from evaluation.report_page.markup import Markup, element, picture
from evaluation.strips import difference, mask_overlay, sheet, tile, webp
from rendering.view_set import ViewSet

DIFFERENCE_GAIN = 4
MAX_COLUMNS = 16
LIST_COLUMNS = 8
TILE_PX = (64, 128)
VIEW_METRICS = ("psnr_foreground", "psnr", "ssim", "lpips", "mask_iou", "hull_silhouette_iou", "hull_warp_psnr")


@dataclass(frozen=True)
class Layout:
    """Which view stands where.

    Attributes:
        cells: view by cell, row by row; None for an empty cell.
        columns: cells in a row.
        azimuths, elevations: labels of columns and rows, from the top; empty when the rig is no grid.
    """

    cells: list[int | None]
    columns: int
    azimuths: list[str]
    elevations: list[str]


def layout_of(views: ViewSet) -> Layout:
    """A grid when every azimuth occurs once with every elevation, highest elevation on top; else the views in their order."""
    columns = sorted({round(float(a) % 360.0, 1) % 360.0 for a in views.azimuth_deg})
    rows = sorted({round(float(e), 1) for e in views.elevation_deg}, reverse=True)
    place = {}
    for i, (across, up) in enumerate(zip(views.azimuth_deg, views.elevation_deg, strict=True)):
        place[round(float(up), 1), round(float(across) % 360.0, 1) % 360.0] = i
    if len(place) == len(views) == len(columns) * len(rows) and len(columns) <= MAX_COLUMNS:
        cells: list[int | None] = [place[row, column] for row in rows for column in columns]
        return Layout(cells, len(columns), [f"{a:g}\u00b0" for a in columns], [f"{signed(e)}\u00b0" for e in rows])
    count = min(LIST_COLUMNS, len(views))
    return Layout([*range(len(views)), *[None] * (-len(views) % count)], count, [], [])


def contact_sheet(views: ViewSet, truth: list[np.ndarray | None] | None, figures: dict[str, dict[int, float]], odd: int | None) -> Markup:
    """The sheets of one object.

    Args:
        views: the generated ones.
        truth: the true picture of each, RGBA of the same size, None where there is none; None when there is no truth at all.
        figures: metric -> view -> figure.
        odd: the view to mark as the one that fits the others least.
    """
    layout = layout_of(views)
    size = int(np.clip(views.rgba.shape[1], *TILE_PX))
    made = [tile(rgba, size) for rgba in views.rgba]
    panels: list[tuple[str, list[np.ndarray | None], object]] = []
    if truth is not None:
        true = [None if one is None else tile(one, size) for one in truth]
        gaps = [None if one is None else difference(one, mine, DIFFERENCE_GAIN) for one, mine in zip(true, made, strict=True)]
        masks = [_overlay(one, mine, size) for one, mine in zip(truth, views.rgba, strict=True)]
        panels = [
            ("truth", true, None),
            ("generated", list(made), _odd_note(odd)),
            (f"difference \u00d7 {DIFFERENCE_GAIN}", gaps, None),
            ("masks", masks, _mask_legend()),
        ]
    else:
        panels = [("generated", list(made), _odd_note(odd))]
    first = layout.cells.index(odd) if odd in layout.cells else 0
    notes = [None if i is None else _note(i, views, figures, odd) for i in layout.cells]
    return element(
        "div",
        [_panel(name, tiles, legend, layout, size, odd if name == "generated" else None) for name, tiles, legend in panels],
        class_="sheets",
        data_columns=layout.columns,
        data_first=first,
        data_views=json.dumps(notes, ensure_ascii=False),
    )


def _overlay(truth: np.ndarray | None, made: np.ndarray, size_px: int) -> np.ndarray | None:
    return None if truth is None or truth.shape != made.shape else mask_overlay(truth, made, size_px)


def _panel(name: str, tiles: list[np.ndarray | None], legend: object, layout: Layout, size_px: int, odd: int | None) -> Markup:
    pixels = sheet([None if i is None else tiles[i] for i in layout.cells], layout.columns, size_px)
    where = ", azimuths across, elevations down" if layout.azimuths else ""
    image = picture(webp(pixels), f"{name}{where}", data_name=name, width=pixels.shape[1], height=pixels.shape[0])
    mark = None
    if odd is not None and odd in layout.cells:
        row, column = divmod(layout.cells.index(odd), layout.columns)
        rows = len(layout.cells) // layout.columns
        style = "".join(
            f"{side}:{100 * share:.3f}%;"
            for side, share in (
                ("left", column / layout.columns),
                ("top", row / rows),
                ("width", 1 / layout.columns),
                ("height", 1 / rows),
            )
        )
        mark = element("i", class_="odd", style=style)
    return element(
        "figure",
        element("figcaption", element("b", name), legend),
        element("div", [element("span", label) for label in layout.azimuths], class_="azimuths") if layout.azimuths else None,
        element("div", [element("span", label) for label in layout.elevations], class_="elevations") if layout.elevations else None,
        element("div", image, mark, class_="cells"),
        class_="sheet" if layout.azimuths else "sheet plain",
    )


def _odd_note(odd: int | None) -> Markup | None:
    return element("span", element("i", class_="swatch odd"), "fits the others least") if odd is not None else None


def _mask_legend() -> Markup:
    names = (("agreed", "both"), ("lost", "truth only"), ("invented", "generated only"))
    return element("span", [[element("i", class_=f"swatch {name}"), text] for name, text in names])


def _note(i: int, views: ViewSet, figures: dict[str, dict[int, float]], odd: int | None) -> str:
    """`azimuth 45°, elevation +30°: PSNR foreground 9.12 dB, ...`"""
    where = (
        f"view {i}: azimuth {azimuth(float(views.azimuth_deg[i]))}\u00b0, elevation {signed(round(float(views.elevation_deg[i]), 1))}\u00b0"
    )
    told = []
    for key in VIEW_METRICS:
        if (value := figures.get(key, {}).get(i)) is not None:
            style = metric(key)
            told.append(f"{style.label} {style.text(value)}{' ' + style.unit if style.unit else ''}")
    return " \u00b7 ".join([where, *told, *(["fits the others least"] if i == odd else [])])


def azimuth(degrees: float) -> str:
    """`45`, `22.5`; whole turns away."""
    return f"{round(degrees % 360.0, 1) % 360.0:g}"


def signed(degrees: float) -> str:
    """`+30`, `-30`, `0`."""
    return f"{degrees:+g}" if degrees else "0"
