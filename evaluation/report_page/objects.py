"""One object on the page: what went in, what came out, and the truth, side by side."""

from typing import Any

import numpy as np

from evaluation.mesh_preview import load_glb, preview
from evaluation.report_page.figures import metric
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, element, picture
from evaluation.score_object import matching_views
from evaluation.strips import difference, strip, tile, webp
from evaluation.turntable import ring, turntable
from rendering.view_set import TARGET, ViewSet

DIFFERENCE_GAIN = 2
WIDE_PX = 200  # wider figures take a whole row on a phone
SHOWN_METRICS = ("psnr", "psnr_foreground", "ssim", "mask_iou", "chamfer", "volume_iou")


def object_block(uid: str, inputs: ReportInputs) -> Markup:
    """Inputs, turntables, mesh and contact sheet of one object; what is missing is named."""
    made = inputs.generated.read(uid).with_role(TARGET) if inputs.generated and uid in inputs.generated else None
    rendered = inputs.reference.read(uid) if inputs.reference and uid in inputs.reference else None
    truth = _truth(made, rendered) if made is not None and rendered is not None else None
    figures = [_input_figure(made, rendered), *_turntables(made, truth), _mesh_figure(uid, inputs)]
    sheet = (
        _sheet(made, truth) if made is not None else element("p", "No views were generated; the reason is under Failures.", class_="soft")
    )
    return element(
        "article",
        element("h3", uid),
        _facts(uid, inputs),
        element("div", figures, class_="figures"),
        sheet,
        class_="object",
        id=f"object-{uid}",
    )


def _truth(made: ViewSet, rendered: ViewSet) -> list[np.ndarray | None]:
    """The true picture for each generated view, None where no true view has its camera."""
    turned = rendered.turned(-float(made.facts.get("reference_azimuth_deg", 0.0))).with_role(TARGET)
    return [None if j is None else turned.rgba[j] for j in matching_views(turned, made)]


def _facts(uid: str, inputs: ReportInputs) -> Markup:
    known, figures = inputs.objects.get(uid, {}), inputs.figures.get(uid, {})
    parts = [str(known[key]) for key in ("category", "licence") if known.get(key)]
    parts += [f"{metric(key).label} {metric(key).text(figures[key])}" for key in SHOWN_METRICS if figures.get(key) is not None]
    return element("p", " \u00b7 ".join(parts) or "no figures", class_="soft")


def _input_figure(made: ViewSet | None, rendered: ViewSet | None) -> Markup | None:
    if made is None or rendered is None:
        return None
    given = [rendered.rgba[int(i)] for i in made.facts.get("conditions", [])]
    if not given:
        return None
    size = 160 if len(given) == 1 else 104
    return _figure(
        webp(strip(given, size)),
        "given view" if len(given) == 1 else f"{len(given)} given views, the first is the reference",
        size * len(given),
    )


def _turntables(made: ViewSet | None, truth: list[np.ndarray | None] | None) -> list[Markup]:
    if made is None:
        return []
    figures = []
    true_ring = [truth[i] for i in ring(made)] if truth else []
    if true_ring and all(rgba is not None for rgba in true_ring):
        true_views = ViewSet(**{**vars(made), "rgba": np.stack([made.rgba[i] if t is None else t for i, t in enumerate(truth or [])])})
        figures.append(_figure(turntable(true_views, size_px=160), "truth", 160))
    return [*figures, _figure(turntable(made, size_px=160), "generated", 160)]


def _mesh_figure(uid: str, inputs: ReportInputs) -> Markup:
    rows = {row["uid"]: row for row in inputs.ledgers["reconstruct"]}
    place = inputs.meshes / f"{uid}.glb" if inputs.meshes is not None else None
    if place is None or not place.exists():
        reason = (rows.get(uid) or {}).get("reason") or "not made"
        return element("figure", element("figcaption", f"no mesh: {reason}"))
    try:
        data = webp(preview(load_glb(place.read_bytes()), size_px=104))
    except ValueError as error:
        return element("figure", element("figcaption", f"mesh cannot be shown: {error}"))
    faces = (rows.get(uid) or {}).get("faces")
    return _figure(data, "mesh: colours, normals" + (f" ({faces} faces)" if faces else ""), 416)


def _figure(data: bytes, caption: str, width: int) -> Markup:
    wide = "wide" if width > WIDE_PX else None
    return element("figure", picture(data, caption, width=width), element("figcaption", caption), class_=wide)


def _sheet(made: ViewSet, truth: list[np.ndarray | None] | None) -> Markup:
    """Truth, generated and difference per elevation; the ring of the reference's height is open, the others fold."""
    elevations = sorted({round(float(e), 3) for e in made.elevation_deg}, key=lambda e: (abs(e), e))
    blocks = [_rows_of(made, truth, elevation) for elevation in elevations]
    others = ", ".join(f"{_signed(e)}\u00b0" for e in elevations[1:])
    folded = element("details", element("summary", f"other elevations: {others}"), blocks[1:]) if len(blocks) > 1 else None
    return element("div", blocks[0], folded)


def _rows_of(made: ViewSet, truth: list[np.ndarray | None] | None, elevation_deg: float) -> Markup:
    members = ring(made, elevation_deg)
    size = int(np.clip(made.rgba.shape[1], 64, 128))
    pictures: list[tuple[str, np.ndarray]] = []
    made_strip = strip([made.rgba[i] for i in members], size)
    if truth is not None:
        true = [truth[i] for i in members]
        pictures.append(("truth", strip(true, size)))
    pictures.append(("generated", made_strip))
    if truth is not None:
        true_strip = np.concatenate(
            [made_strip[:, k * size : (k + 1) * size] if t is None else tile(t, size) for k, t in enumerate(true)], axis=1
        )
        pictures.append((f"|difference| \u00d7 {DIFFERENCE_GAIN}", difference(true_strip, made_strip, DIFFERENCE_GAIN)))
    axis = element("div", [element("span", f"{made.azimuth_deg[i] % 360:.0f}\u00b0") for i in members], class_="axis")
    cells: list[Any] = [element("div", f"elevation {_signed(elevation_deg)}\u00b0", class_="head"), element("div", "azimuth"), axis]
    for name, pixels in pictures:
        cells += [element("div", name), picture(webp(pixels), f"{name}, elevation {_signed(elevation_deg)} degrees")]
    return element("div", element("div", cells, class_="sheet"), class_="scroll", tabindex="0")


def _signed(degrees: float) -> str:
    return f"{degrees:+g}" if degrees else "0"
