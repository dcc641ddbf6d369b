"""The objects with the lowest figures, with pictures: where a model fails teaches more than where it shines."""

import numpy as np

from evaluation.metrics.directions import LOWER_IS_BETTER
from evaluation.report_page.figures import metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, join, picture
from evaluation.report_page.objects import pictures_of
from evaluation.strips import sheet, tile, webp
from evaluation.turntable import ring

WORST = 5
TILE_PX = 72
FIGURES = ("psnr_foreground", "ssim", "mask_iou", "chamfer", "volume_iou")


def ranked(inputs: ReportInputs, by: str) -> list[str]:
    """The objects with a figure, from best to worst."""
    known = {uid: float(value) for uid, figures in inputs.figures.items() if (value := figures.get(by)) is not None}
    sign = 1 if by in LOWER_IS_BETTER else -1
    return sorted(known, key=lambda uid: (sign * known[uid], uid))


def worst(inputs: ReportInputs, by: str, shown: list[str]) -> Markup:
    """Given view, truth above, generated below, along one ring of azimuths."""
    chosen = ranked(inputs, by)[::-1][:WORST]
    if not chosen:
        return element("p", f"No object has a figure for {metric(by).label}.")
    blocks = []
    for uid in chosen:
        known = [(key, inputs.figures[uid].get(key)) for key in dict.fromkeys((by, *FIGURES))]
        told = " \u00b7 ".join(f"{metric(key).label} {metric(key).text(value)}" for key, value in known if value is not None)
        name = element("a", uid, href=f"#object-{uid}") if uid in shown else uid
        blocks.append(element("div", element("h3", name), element("p", told, class_="soft"), _pictures(uid, inputs), class_="worst"))
    return join(element("p", f"By {metric(by).label}, the worst first.", class_="soft"), blocks)


def _pictures(uid: str, inputs: ReportInputs) -> Markup:
    shown = pictures_of(uid, inputs)
    if shown.made is None or len(shown.made) == 0:
        return element("p", "No views were generated.", class_="soft")
    members = ring(shown.made)
    below: list[np.ndarray | None] = [tile(shown.made.rgba[i], TILE_PX) for i in members]
    rows, name = below, "generated"
    if shown.truth is not None:
        above = [None if (one := shown.truth[i]) is None else tile(one, TILE_PX) for i in members]
        rows, name = [*above, *below], "truth above, generated below"
    image = picture(
        webp(sheet(rows, len(members), TILE_PX)), f"{uid}: {name}", width=len(members) * TILE_PX, height=len(rows) // len(members) * TILE_PX
    )
    given = picture(webp(tile(shown.given[0], 2 * TILE_PX)), f"{uid}: given view", width=2 * TILE_PX) if shown.given else None
    return element("div", given, image, class_="row")
