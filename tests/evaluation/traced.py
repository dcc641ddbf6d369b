"""Views of small coloured meshes by ray casting, and stores of them: what render and generate would have left."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import trimesh

from infra.seeds import rng_for
from infra.storage import Location
from rendering.cameras import Camera
from rendering.rigs import RigConfig, mvdiffusionpp
from rendering.view_set import TARGET, Mesh, ViewSet
from rendering.views import to_table, write_shards


def chair(width: float = 0.5) -> trimesh.Trimesh:
    """Seat, back and a red arm on one side only: front, back, left and right all differ. Longest side 1, centred."""
    seat = trimesh.creation.box((width, 0.5, 0.1), trimesh.transformations.translation_matrix((0, 0, 0)))
    back = trimesh.creation.box((width, 0.1, 0.6), trimesh.transformations.translation_matrix((0, 0.2, 0.3)))
    arm = trimesh.creation.box((0.1, 0.4, 0.2), trimesh.transformations.translation_matrix((width / 2, 0, 0.15)))
    leg = trimesh.creation.box((0.15, 0.15, 0.4), trimesh.transformations.translation_matrix((0, 0, -0.2)))
    for part, colour in ((seat, (60, 90, 200)), (back, (230, 190, 60)), (arm, (200, 40, 40)), (leg, (70, 70, 70))):
        part.visual.face_colors = (*colour, 255)
    mesh = trimesh.util.concatenate([seat, back, arm, leg])
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    mesh.apply_scale(1.0 / mesh.extents.max())
    return mesh


def traced(mesh: trimesh.Trimesh, camera: Camera, size_px: int) -> np.ndarray:
    """uint8 RGBA `[V, H, W, 4]`: face colours with a little head light, hard edges."""
    pictures = np.zeros((len(camera), size_px * size_px, 4), np.uint8)
    for picture, one in zip(pictures, (camera[i] for i in range(len(camera))), strict=True):
        origins, directions = (rays.reshape(-1, 3) for rays in one.rays(size_px, size_px))
        faces = mesh.ray.intersects_first(origins, directions)
        hit = faces >= 0
        light = 0.6 + 0.4 * np.abs((mesh.face_normals[faces[hit]] * directions[hit]).sum(-1))
        picture[hit] = np.concatenate([mesh.visual.face_colors[faces[hit]][:, :3] * light[:, None], np.full((hit.sum(), 1), 255)], axis=1)
    return pictures.reshape(len(camera), size_px, size_px, 4)


def rendered(uid: str, mesh: trimesh.Trimesh, size_px: int = 32, conditions: int = 2) -> ViewSet:
    """What render would have stored for the object."""
    rig = mvdiffusionpp(uid, RigConfig(num_conditions=conditions))
    return ViewSet(
        uid=uid,
        rgba=traced(mesh, rig.camera, size_px),
        camera=rig.camera,
        roles=rig.roles,
        azimuth_deg=rig.azimuth_deg,
        elevation_deg=rig.elevation_deg,
        radius=rig.radius,
        rig=rig.name,
        origin="traced",
        mesh=Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)),
    )


def imagined(truth: ViewSet, noise: float) -> ViewSet:
    """The targets as a model might make them: in the frame of the first condition view, with `noise` on colour."""
    reference = truth.roles.index("condition")
    turned = truth.turned(-truth.azimuth_deg[reference]).with_role(TARGET)
    turned = turned.select(np.lexsort((turned.azimuth_deg.round(3) % 360, turned.elevation_deg)))
    rng = rng_for(truth.uid, "noise")
    rgba = turned.rgba.copy()
    rgba[..., :3] = np.clip(rgba[..., :3] + rng.normal(0, noise, rgba[..., :3].shape), 0, 255)
    rgba[rgba[..., 3] == 0] = 0
    facts = {"reference_azimuth_deg": float(truth.azimuth_deg[reference]), "conditions": [reference]}
    return replace(turned, rgba=rgba, mesh=None, origin="models:/mv/3", facts=facts)


def store(views: Iterable[ViewSet], place: Location) -> None:
    write_shards((to_table(one) for one in views), place)


def ledger(rows: list[dict], place: Location) -> None:
    """A ledger with the columns of the first row; rows without a status are good ones."""
    place.write_table(pa.Table.from_pylist([{"status": "ok", "reason": "", "detail": ""} | row for row in rows]))
