"""Do the generated views show one object? The figures that need no truth, and which view is the odd one."""

import numpy as np

from evaluation.report_page.figures import CONSISTENCY, in_order, metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, number, picture, right, table
from evaluation.report_page.sheets import azimuth, signed
from evaluation.strips import sheet, tile, webp
from rendering.view_set import TARGET, ViewSet

# The first of each with figures of single views names the odd view: by its outline, and by its colours.
BY_SHAPE = ("hull_silhouette_iou", "silhouette_iou")
BY_COLOUR = ("hull_warp_psnr",)
PICTURED = 6
TILE_PX = 64


def odd_view(views: dict[str, dict[int, float]], naming: tuple[str, ...] = (*BY_SHAPE, *BY_COLOUR)) -> tuple[str, int] | None:
    """The metric and the generated view that fits the others least; None where no view has a figure."""
    for key in naming:
        if figures := views.get(key):
            return key, min(figures, key=lambda view: (figures[view], view))
    return None


def consistency(inputs: ReportInputs) -> Markup:
    """One row per object, the least consistent first, with its odd views; small pictures for the first few."""
    keys = [key for key in in_order(inputs.metric_names()) if metric(key).group == CONSISTENCY]
    keys = [key for key in keys if any(figures.get(key) is not None for figures in inputs.figures.values())]
    kinds = [
        (title, found)
        for title, naming in (("odd view by shape", BY_SHAPE), ("odd view by colour", BY_COLOUR))
        if (found := {uid: odd for uid in inputs.figures if (odd := odd_view(inputs.views.get(uid, {}), naming)) is not None})
    ]
    if not keys and not kinds:
        return element("p", "No object has a figure for the consistency of its views.")
    lowest = {uid: inputs.views[uid][key][view] for uid, (key, view) in (kinds[0][1] if kinds else {}).items()}
    order = sorted(inputs.figures, key=lambda uid: (uid not in lowest, lowest.get(uid, 0.0), uid))
    rows: list[list[object]] = []
    for place, uid in enumerate(order):
        pictured = place < PICTURED and inputs.generated is not None and uid in inputs.generated
        made = inputs.generated.read(uid).with_role(TARGET) if pictured and inputs.generated is not None else None
        cells = [_odd_cell(inputs.views.get(uid, {}), found.get(uid), made) for _, found in kinds]
        rows.append([element("td", uid, class_="name"), *cells, *(number(metric(key).text(inputs.figures[uid].get(key))) for key in keys)])
    note = element(
        "p",
        "How well the views of an object agree with one solid, without looking at the truth. The odd view is the one that the others "
        "contradict most; its neighbours by azimuth stand left and right of it. The least consistent object comes first.",
        class_="soft",
    )
    return join(note, table(["object", *(title for title, _ in kinds), *(right(metric(key).head) for key in keys)], rows))


def _odd_cell(views: dict[str, dict[int, float]], odd: tuple[str, int] | None, made: ViewSet | None) -> Markup:
    if odd is None:
        return element("td", "\u2013")
    key, view = odd
    where, image = _pictured(made, view) if made is not None and view < len(made) else ("", None)
    style, figures = metric(key), views[key]
    others = [value for other, value in figures.items() if other != view]
    against = f"{style.label} {style.text(figures[view])}, others {style.text(float(np.mean(others)) if others else None)}"
    return element("td", image, f"view {view}{where}", element("br"), element("small", against), class_="odd-view")


def _pictured(made: ViewSet, view: int) -> tuple[str, Markup]:
    """Where the view looks from, and it between its neighbours on the same elevation."""
    elevation = float(made.elevation_deg[view])
    ring = np.flatnonzero(np.abs(made.elevation_deg - elevation) < 0.5)
    ring = ring[np.argsort(made.azimuth_deg[ring] % 360, kind="stable")]
    place = int(np.flatnonzero(ring == view)[0])
    members = [int(ring[(place + step) % len(ring)]) for step in (-1, 0, 1)] if len(ring) > 2 else [view]
    pixels = sheet([tile(made.rgba[i], TILE_PX) for i in members], len(members), TILE_PX)
    image = picture(webp(pixels), f"odd view of {made.uid} between its neighbours", width=pixels.shape[1], height=TILE_PX)
    return f", azimuth {azimuth(float(made.azimuth_deg[view]))}\u00b0, elevation {signed(round(elevation, 1))}\u00b0", image
