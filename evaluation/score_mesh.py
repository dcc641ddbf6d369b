"""The `score-mesh` tool: two mesh files in one frame."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.mesh_io import load_mesh, world_from_gltf
from evaluation.metrics.alignment import ALIGNMENTS
from evaluation.metrics.alignment import DESCRIBED as ALIGNMENT_CONVENTIONS
from evaluation.metrics.geometry import sampling_floor, without_degenerate
from evaluation.protocols import protocol_named
from evaluation.protocols.base import VISIBLE, Protocol
from evaluation.score_object import mesh_figures
from infra.errors import UserError
from rendering.view_set import Mesh

NORMALIZE = ("unit-cube", "bbox-each")
UP = ("as-given", "y", "z")
DEFAULT_SETTINGS = protocol_named("default")


def score_mesh(
    reference: Path,
    generated: Path,
    normalize: str | None = None,
    protocol: Protocol = DEFAULT_SETTINGS,
    align: str = "",
    up: str | None = None,
) -> dict[str, Any]:
    """`accuracy`, `completeness`, `chamfer`, `f_score@...`, `normal_consistency`, `p95_distance`, `max_distance`, `volume_iou`.

    Coordinates count as the files give them; a glTF file and a Z-up PLY do not share a frame. `normalize`:
    `unit-cube` moves both by what brings the reference's box to the unit cube (errors of place and size stay);
    `bbox-each` brings each to the unit cube by its own box (those errors are hidden). `align` (`bbox`, `icp`) measures the generated
    mesh so aligned as well, under names of its own. `up` (`y`, `z`) says which axis is up in both; protocols that look at the meshes
    from their cameras need it and take Y for two glTF files and Z for two others.

    Raises:
        UserError: naming the file for unreadable, empty, non-finite or degenerate meshes; for unknown options.
    """
    if normalize is not None and normalize not in NORMALIZE:
        raise UserError(f"unknown normalisation '{normalize}'", f"choose {' or '.join(NORMALIZE)}, or leave it out")
    if align and align not in ALIGNMENTS:
        raise UserError(f"unknown alignment '{align}'", f"choose {' or '.join(ALIGNMENTS)}, or leave it out")
    axis = _up(reference, generated, up, needed=VISIBLE in protocol.extras)
    truth, mesh = _in_one_frame(reference, generated, normalize, axis)
    figures = mesh_figures(truth, mesh, protocol, align)
    longest = _box(truth)[1]
    told = {
        "normalize": normalize or "coordinates as given",
        "align": ALIGNMENT_CONVENTIONS[align] if align else "none",
        "up": axis or "as given",
        "longest_side_of_reference": longest,
        # What two samplings of one surface would seem apart if points were measured to points; triangles are what counts here.
        "floor_of_point_to_point": (sampling_floor(truth, protocol.points) + sampling_floor(mesh, protocol.points)) / 2,
    }
    notes = [] if abs(longest - 1.0) < 0.01 else [f"the reference's longest side is {longest:.4g}, not 1: distances are in its unit"]
    return figures | {"completed": 1, "failed": 0, "rejected": 0, "notes": notes, "protocol": protocol.described() | told}


def convention_table(reference: Path, generated: Path, normalize: str | None = None, up: str | None = None) -> list[dict[str, Any]]:
    """What each peer's convention says of the same pair (`evaluation.conventions.table`), the reference's box brought to the unit cube.

    Raises UserError as `score_mesh`.
    """
    from evaluation.conventions.table import mesh_rows

    return mesh_rows(*_in_one_frame(reference, generated, normalize or "unit-cube", _up(reference, generated, up, needed=True)))


def _in_one_frame(reference: Path, generated: Path, normalize: str | None, axis: str | None) -> tuple[Mesh, Mesh]:
    truth, mesh = load_mesh(reference), load_mesh(generated)
    if axis == "y":
        truth, mesh = world_from_gltf(truth), world_from_gltf(mesh)
    if normalize is None:
        return truth, mesh
    frame = _box(truth)
    return _to_unit_cube(truth, frame), _to_unit_cube(mesh, frame if normalize == "unit-cube" else _box(mesh))


def _up(reference: Path, generated: Path, up: str | None, needed: bool) -> str | None:
    if up not in (None, *UP):
        raise UserError(f"unknown axis '{up}'", f"choose {' or '.join(UP)}")
    if up in ("y", "z") or not needed:
        return up if up in ("y", "z") else None
    are_gltf = {path.suffix.lower() in (".glb", ".gltf") for path in (reference, generated)}
    if len(are_gltf) > 1:
        raise UserError(
            f"{reference} and {generated} have different axes up by their kinds", "bring both into one frame, then say --up y or --up z"
        )
    return "y" if are_gltf.pop() else "z"


def _box(mesh: Mesh) -> tuple[np.ndarray, float]:
    """Centre and longest side of the box about the surface; vertices that no triangle uses do not count."""
    used = mesh.vertices[np.unique(without_degenerate(mesh).faces)]
    low, high = used.min(0), used.max(0)
    return (low + high) / 2, float((high - low).max())


def _to_unit_cube(mesh: Mesh, box: tuple[np.ndarray, float]) -> Mesh:
    centre, side = box
    return Mesh((mesh.vertices - centre) / side, mesh.faces)
