"""The `score-mesh` tool: two mesh files in one frame."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.mesh_io import load_mesh
from evaluation.metrics.geometry import DEFAULT_SETTINGS, GeometrySettings, compare_surfaces, without_degenerate
from infra.errors import UserError
from rendering.view_set import Mesh

NORMALIZE = ("unit-cube", "bbox-each")


def score_mesh(
    reference: Path, generated: Path, normalize: str | None = None, settings: GeometrySettings = DEFAULT_SETTINGS
) -> dict[str, Any]:
    """`accuracy`, `completeness`, `chamfer`, `f_score@...`, `normal_consistency`, `p95_distance`, `max_distance`, `volume_iou`.

    Coordinates count as the files give them; a glTF file and a Z-up PLY do not share a frame. `normalize`:
    `unit-cube` moves both by what brings the reference's box to the unit cube (errors of place and size stay);
    `bbox-each` brings each to the unit cube by its own box (those errors are hidden).
    Raises UserError naming the file for unreadable, empty, non-finite or degenerate meshes.
    """
    if normalize is not None and normalize not in NORMALIZE:
        raise UserError(f"unknown normalisation '{normalize}'", f"choose {' or '.join(NORMALIZE)}, or leave it out")
    truth, mesh = load_mesh(reference), load_mesh(generated)
    if normalize is not None:
        frame = _box(truth)
        truth, mesh = _to_unit_cube(truth, frame), _to_unit_cube(mesh, frame if normalize == "unit-cube" else _box(mesh))
    protocol = {"geometry": settings.described(), "normalize": normalize or "coordinates as given"}
    return compare_surfaces(truth, mesh, settings) | {"completed": 1, "failed": 0, "rejected": 0, "protocol": protocol}


def _box(mesh: Mesh) -> tuple[np.ndarray, float]:
    """Centre and longest side of the box about the surface; vertices that no triangle uses do not count."""
    used = mesh.vertices[np.unique(without_degenerate(mesh).faces)]
    low, high = used.min(0), used.max(0)
    return (low + high) / 2, float((high - low).max())


def _to_unit_cube(mesh: Mesh, box: tuple[np.ndarray, float]) -> Mesh:
    centre, side = box
    return Mesh((mesh.vertices - centre) / side, mesh.faces)
