"""The mesh of one object on the page: turning, and in a viewer, with the file itself inside the page while there is room."""

import os
from dataclasses import dataclass
from typing import Any

from evaluation.mesh_io import glb_bytes
from evaluation.mesh_preview import load_glb
from evaluation.report_page.inputs import ReportInputs
from evaluation.report_page.markup import Markup, data_uri, element, picture
from evaluation.turntable import mesh_turntable
from infra.storage import Location
from rendering.view_set import Mesh

GLB = "model/gltf-binary"
TURNTABLE_PX = 144
# The true shape is beside the point of the page: it may cost so much at most.
TRUTH_SHARE = 0.25


@dataclass
class Room:
    """How many bytes of GLB files the page still takes; given out in the order of the objects."""

    left: int

    def take(self, size: int) -> bool:
        """Whether `size` bytes fit; if so they are taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


def mesh_figures(uid: str, inputs: ReportInputs, truth: Mesh | None, room: Room, page: Location) -> tuple[Markup, Markup | None]:
    """Turntable, and viewer where there is room for it; a note on why there is no mesh instead.

    Args:
        truth: the true shape in the frame of the generated views, if it is known.
        page: where the page will lie, for links to files that are not inside it.
    """
    row = next((row for row in inputs.ledgers["reconstruct"] if row["uid"] == uid), {})
    place = inputs.meshes / f"{uid}.glb" if inputs.meshes is not None else None
    if place is None or not place.exists():
        reason = ": ".join(str(row[key]) for key in ("reason", "detail") if row.get(key)) or "not made"
        return element("figure", element("figcaption", f"no mesh: {reason}")), None
    data = place.read_bytes()
    try:
        film = mesh_turntable(load_glb(data), TURNTABLE_PX)
    except ValueError as error:
        return element("figure", element("figcaption", f"mesh cannot be shown: {error}")), None
    size = f"{len(data) / 1e6:.1f} MB" + (f", {row['faces']:,} faces" if isinstance(row.get("faces"), int) else "")
    turning = element(
        "figure",
        picture(film, f"mesh of {uid}, turning", width=2 * TURNTABLE_PX, height=TURNTABLE_PX),
        element("figcaption", _how_made(row), None if (there := room.take(len(data))) else [" \u00b7 ", _link(place, page, size)]),
        class_="wide",
    )
    return turning, viewer(uid, data, size, _true_glb(truth, len(data), room)) if there else None


def _true_glb(truth: Mesh | None, budget: int, room: Room) -> bytes | None:
    if truth is None or len(truth.faces) == 0:
        return None
    data = glb_bytes(truth)
    return data if len(data) <= max(TRUTH_SHARE * budget, 100_000) and room.take(len(data)) else None


def viewer(uid: str, data: bytes, size: str, truth: bytes | None) -> Markup:
    """A canvas with its buttons and the GLB files it can show, which are also links that save them; `viewer.js` brings it to life."""
    modes = [("colour", "colour", 0), ("shape", "shape", 0), ("normals", "normals", 0)]
    modes += [("true shape", "shape", 1)] if truth is not None else []
    buttons = [
        element("button", text, type="button", data_mode=mode, data_mesh=mesh, aria_pressed="true" if k == 0 else "false")
        for k, (text, mode, mesh) in enumerate(modes)
    ]
    links: list[object] = [element("a", f"GLB, {size}", class_="glb", download=f"{uid}.glb", href=data_uri(data, GLB))]
    if truth is not None:
        links += [" \u00b7 ", element("a", "true shape", class_="glb", download=f"{uid}-truth.glb", href=data_uri(truth, GLB))]
    return element(
        "figure",
        element("canvas", tabindex="0", role="img", aria_label=f"mesh of {uid}; arrow keys turn it, plus and minus zoom"),
        element("div", buttons, class_="modes", role="group", aria_label="what the viewer shows"),
        element("figcaption", links, element("span", "drag: turn \u00b7 pinch, or click and wheel: zoom", class_="hint")),
        class_="viewer",
    )


def _how_made(row: dict[str, Any]) -> str:
    """What the reconstruct step recorded: its stages and what its guard said."""
    stages = " \u2192 ".join(row.get("stages") or [])
    guard = f"; guard: {row['guard']}" if row.get("guard") else ""
    return "mesh: colours, normals" + (f" ({stages}{guard})" if stages else "")


def _link(place: Location, page: Location, size: str) -> Markup:
    """To the file where it lies: relative when page and mesh are on one disk, so that the store can be moved."""
    if place.is_local and page.is_local:
        return element("a", f"GLB, {size}", href=os.path.relpath(place.local_path(), page.local_path().parent), title=place.shown)
    return element("span", f"GLB, {size}, at {place.shown}")
