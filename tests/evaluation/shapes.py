"""Analytic objects seen by ray casting: test material that needs no Blender and shares no code with the hull."""

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from rendering.cameras import Camera, orbit
from rendering.view_set import CONDITION, TARGET, Mesh, ViewSet

AZIMUTHS_DEG = np.tile(np.arange(8) * 45.0, 4)
ELEVATIONS_DEG = np.repeat([-30.0, 0.0, 30.0, 60.0], 8)


def rig() -> Camera:
    return orbit(AZIMUTHS_DEG, ELEVATIONS_DEG, 1.5, 60.0)


def plain(body: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(body.vertices), np.asarray(body.faces))


def photograph(body: trimesh.Trimesh, camera: Camera, size_px: int, samples: int = 4) -> np.ndarray:
    """uint8 `[V, size, size, 4]` with antialiased straight alpha; colours are those of the faces, unlit."""
    rays, fine = RayMeshIntersector(body), size_px * samples
    pictures = []
    for i in range(len(camera)):
        origins, directions = camera[i].rays(fine, fine)
        face = rays.intersects_first(origins.reshape(-1, 3), directions.reshape(-1, 3))
        hit = (face >= 0)[:, None]
        rgb = np.where(hit, body.visual.face_colors[face][:, :3], 0).astype(float)

        def cells(values: np.ndarray) -> np.ndarray:
            return values.reshape(size_px, samples, size_px, samples, -1).sum((1, 3))

        count = cells(hit.astype(float))
        color = cells(rgb) / np.maximum(count, 1)
        pictures.append(np.concatenate([color, count / samples**2 * 255], -1).round().astype(np.uint8))
    return np.stack(pictures)


def colored_box(extents=(1.0, 0.6, 0.8)) -> trimesh.Trimesh:
    """Front (-Y) red, back green, right (+X) blue, left yellow, top white, bottom black."""
    body = trimesh.creation.box(extents)
    body = body.subdivide().subdivide()
    normals = np.round(body.face_normals).astype(int)
    colors = {
        (0, -1, 0): (220, 20, 20),
        (0, 1, 0): (20, 220, 20),
        (1, 0, 0): (20, 20, 220),
        (-1, 0, 0): (220, 220, 20),
        (0, 0, 1): (250, 250, 250),
        (0, 0, -1): (5, 5, 5),
    }
    body.visual.face_colors = [(*colors[tuple(n)], 255) for n in normals]
    return body


def rendered(uid: str, body: trimesh.Trimesh, size_px: int = 48, condition_azimuth_deg: float = 90.0) -> ViewSet:
    """A reference view set as the render step makes it: 32 targets, then one condition view."""
    azimuth = np.append(AZIMUTHS_DEG, condition_azimuth_deg)
    elevation, radius = np.append(ELEVATIONS_DEG, 10.0), np.append(np.full(32, 1.5), 1.8)
    camera = orbit(azimuth, elevation, radius, 60.0)
    return ViewSet(
        uid,
        photograph(body, camera, size_px),
        camera,
        (TARGET,) * 32 + (CONDITION,),
        azimuth,
        elevation,
        radius,
        rig="mvdiffusionpp",
        origin="raycast",
        mesh=plain(body),
    )


def generated(reference: ViewSet, condition: int = 32) -> ViewSet:
    """A perfect generation: the true targets in the frame where the condition view has azimuth 0, ordered by elevation, azimuth."""
    azimuth_deg = float(reference.azimuth_deg[condition])
    turned = reference.turned(-azimuth_deg).with_role(TARGET)
    order = np.lexsort((np.round(turned.azimuth_deg, 6) % 360, turned.elevation_deg))
    views = turned.select(order)
    facts = {"reference_azimuth_deg": azimuth_deg, "conditions": [condition]}
    return ViewSet(
        views.uid,
        views.rgba,
        orbit(AZIMUTHS_DEG, ELEVATIONS_DEG, 1.5, 60.0),
        views.roles,
        AZIMUTHS_DEG,
        ELEVATIONS_DEG,
        views.radius,
        rig="mvdiffusionpp",
        origin="models:/toy/1",
        facts=facts,
    )
