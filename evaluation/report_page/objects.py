"""One object on the page: what went in, what came out, and the truth, side by side."""

from dataclasses import dataclass, replace

import numpy as np

from evaluation.report_page.consistency import odd_view
from evaluation.report_page.figures import metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, picture
from evaluation.report_page.meshes import Room, mesh_figures
from evaluation.report_page.sheets import contact_sheet
from evaluation.score_pictures import matching_views
from evaluation.strips import strip, webp
from evaluation.turntable import ring, turntable
from infra.storage import Location
from rendering.view_set import TARGET, Mesh, ViewSet

WIDE_PX = 200  # wider figures take a whole row on a phone
SHOWN_METRICS = ("psnr", "psnr_foreground", "ssim", "lpips", "mask_iou", "chamfer", "volume_iou")


@dataclass(frozen=True)
class Pictures:
    """One object's pictures in the frame of the generated views.

    Attributes:
        made: the generated targets, None when there are none.
        given: the condition views that the model saw, the reference first.
        truth: the true picture for each generated view, None where no true view has its camera; None without a truth.
        shape: the true mesh.
    """

    made: ViewSet | None
    given: list[np.ndarray]
    truth: list[np.ndarray | None] | None
    shape: Mesh | None


def pictures_of(uid: str, inputs: ReportInputs) -> Pictures:
    """What the stores hold about one object."""
    made = inputs.generated.read(uid).with_role(TARGET) if inputs.generated and uid in inputs.generated else None
    rendered = inputs.reference.read(uid) if inputs.reference and uid in inputs.reference else None
    if made is None or rendered is None:
        return Pictures(made, [], None, None)
    given = [rendered.rgba[int(i)] for i in made.facts.get("conditions", [])]
    turned = rendered.turned(-float(made.facts.get("reference_azimuth_deg", 0.0)))
    targets = turned.with_role(TARGET)
    true = [None if j is None else targets.rgba[j] for j in matching_views(targets, made)]
    return Pictures(made, given, [one if one is None or one.shape == made.rgba.shape[1:] else None for one in true], turned.mesh)


def object_block(uid: str, inputs: ReportInputs, room: Room, page: Location) -> Markup:
    """Inputs, turntables, mesh and contact sheet of one object; what is missing is named."""
    shown = pictures_of(uid, inputs)
    turning, viewer = mesh_figures(uid, inputs, shown.shape, room, page)
    figures = [_input_figure(shown.given), *_turntables(shown), turning]
    views = inputs.views.get(uid, {})
    odd = odd_view(views)
    there = shown.made is not None and len(shown.made) > 0
    top = element("div", element("div", figures, class_="figures"), element("div", class_="glass", hidden="") if there else None)
    return element(
        "article",
        element("h3", uid),
        _facts(uid, inputs),
        element("div", top, viewer, class_="top"),
        contact_sheet(shown.made, shown.truth, views, odd[1] if odd else None)
        if there and shown.made is not None
        else element("p", "No views were generated; the reason is under Failures.", class_="soft"),
        class_="object",
        id=f"object-{uid}",
    )


def _facts(uid: str, inputs: ReportInputs) -> Markup:
    known, figures = inputs.objects.get(uid, {}), inputs.figures.get(uid, {})
    parts = [str(known[key]) for key in ("category", "licence") if known.get(key)]
    parts += [f"{metric(key).label} {metric(key).text(figures[key])}" for key in SHOWN_METRICS if figures.get(key) is not None]
    return element("p", " \u00b7 ".join(parts) or "no figures", class_="soft")


def _input_figure(given: list[np.ndarray]) -> Markup | None:
    if not given:
        return None
    size = 144 if len(given) == 1 else 104
    caption = "given view" if len(given) == 1 else f"{len(given)} given views, the first is the reference"
    return _figure(webp(strip(given, size)), caption, size * len(given))


def _turntables(shown: Pictures) -> list[Markup]:
    made = shown.made
    if made is None or len(made) == 0:
        return []
    figures = []
    true_ring = [shown.truth[i] for i in ring(made)] if shown.truth else []
    if shown.truth and true_ring and all(rgba is not None for rgba in true_ring):
        pictures = np.stack([made.rgba[i] if one is None else one for i, one in enumerate(shown.truth)])
        figures.append(_figure(turntable(replace(made, rgba=pictures), size_px=144), "truth", 144))
    return [*figures, _figure(turntable(made, size_px=144), "generated", 144)]


def _figure(data: bytes, caption: str, width: int) -> Markup:
    wide = "wide" if width > WIDE_PX else None
    return element("figure", picture(data, caption, width=width), element("figcaption", caption), class_=wide)
