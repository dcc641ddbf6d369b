"""Pictures of a mesh by casting rays: colours and normals, no OpenGL and no display needed."""

import io
from typing import Any

import numpy as np
import trimesh

from evaluation.mesh_io import GLTF_FROM_WORLD
from rendering.cameras import Camera, orbit

AZIMUTHS_DEG = (0.0, 90.0, 180.0, 270.0)
ELEVATION_DEG = 20.0
OVERSAMPLE = 2
BACKGROUND = 0.92  # light grey, so that white objects show


def load_glb(data: bytes) -> trimesh.Trimesh:
    """A GLB (Y up) as one mesh in our world (Z up), node transforms applied. Raises ValueError when it holds no triangle."""
    loaded = trimesh.load(io.BytesIO(data), file_type="glb", process=False)
    if isinstance(loaded, trimesh.Scene):
        if len(loaded.geometry) == 1:
            _use_vertex_colours(next(iter(loaded.geometry.values())))
        loaded = loaded.to_mesh()
    mesh = loaded
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ValueError("the file holds no triangle")
    world_from_gltf = np.eye(4)
    world_from_gltf[:3, :3] = GLTF_FROM_WORLD.T
    mesh.apply_transform(world_from_gltf)
    return mesh


def _use_vertex_colours(part: trimesh.Trimesh) -> None:
    """Show the vertex colours that trimesh parks beside a material without a texture; glTF stores them linear."""
    visual: Any = part.visual
    if visual.kind != "texture" or visual.uv is not None or "color" not in visual.vertex_attributes:
        return
    stored = np.asarray(visual.vertex_attributes["color"])
    linear = stored[:, :3] / (np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1.0)
    part.visual = trimesh.visual.ColorVisuals(part, vertex_colors=np.round(_srgb_from_linear(linear) * 255.0).astype(np.uint8))


def _srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Inverse of `mesh_io.linear_from_srgb`, [0, 1] to [0, 1]."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def preview(mesh: trimesh.Trimesh, size_px: int = 160, azimuths_deg: tuple[float, ...] = AZIMUTHS_DEG) -> np.ndarray:
    """Two rows of square pictures, colours above and normals below, one column per azimuth.

    The camera distance follows the mesh, so any unit of length is fine. World normals show as `(n + 1) / 2`.

    Returns:
        uint8 `[2 * size_px, len(azimuths_deg) * size_px, 3]` on light grey.
    """
    cameras = orbit_around(mesh, azimuths_deg)
    columns = [cast(mesh, cameras[i], size_px) for i in range(len(azimuths_deg))]
    return np.concatenate([np.concatenate([c[kind] for c in columns], axis=1) for kind in (0, 1)], axis=0)


def orbit_around(mesh: trimesh.Trimesh, azimuths_deg: tuple[float, ...]) -> Camera:
    """Cameras round the middle of the mesh's box, as far away as its bounding sphere needs."""
    centre = mesh.bounds.mean(axis=0)
    reach = max(float(np.linalg.norm(mesh.vertices - centre, axis=1).max()), 1e-9)
    fov_deg = 40.0
    distance = reach / np.sin(np.radians(fov_deg / 2)) * 1.02
    cameras = orbit(azimuths_deg, ELEVATION_DEG, distance, fov_deg)
    cameras.c2w[:, :3, 3] += centre
    return cameras


def cast(mesh: trimesh.Trimesh, camera: Camera, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """One camera's view of `mesh`: colours and normals, both uint8 `[size_px, size_px, 3]` on light grey."""
    fine = size_px * OVERSAMPLE
    origins, directions = (rays.reshape(-1, 3) for rays in camera.rays(fine, fine))
    first = mesh.ray.intersects_first(origins, directions)
    colours, normals = np.full((2, fine * fine, 3), BACKGROUND, np.float32)
    rays = np.flatnonzero(first >= 0)
    if len(rays):
        faces = first[rays]
        barycentric = _barycentric(mesh.triangles[faces], origins[rays], directions[rays])
        colours[rays] = _colours_at(mesh, faces, barycentric)
        normal = np.einsum("nk,nkc->nc", barycentric, mesh.vertex_normals[mesh.faces[faces]])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        normals[rays] = (normal + 1.0) / 2.0
    return _averaged(colours, size_px), _averaged(normals, size_px)


def _barycentric(triangles: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Where each ray meets its triangle `[N, 3, 3]`, as weights of the corners `[N, 3]` (Möller and Trumbore 1997)."""
    edge1, edge2 = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    across = np.cross(directions, edge2)
    scale = np.einsum("nc,nc->n", edge1, across)
    scale = np.where(np.abs(scale) < 1e-300, np.inf, scale)  # a triangle seen edge on: its first corner
    to_origin = origins - triangles[:, 0]
    u = np.einsum("nc,nc->n", to_origin, across) / scale
    v = np.einsum("nc,nc->n", directions, np.cross(to_origin, edge1)) / scale
    weights = np.clip(np.stack([1.0 - u - v, u, v], axis=1), 0.0, 1.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _colours_at(mesh: trimesh.Trimesh, faces: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
    """Base colour in [0, 1] `[N, 3]` at points on `faces`: from the texture, the vertices or the faces, whichever is there."""
    visual: Any = mesh.visual
    if visual.kind == "texture":
        factor, image = _material(visual.material)
        if visual.uv is None or image is None:
            return np.broadcast_to(factor, (len(faces), 3))
        uv = np.einsum("nk,nkc->nc", barycentric, visual.uv[mesh.faces[faces]])
        return trimesh.visual.color.uv_to_color(uv, image)[:, :3] / 255.0 * factor
    if visual.kind == "face":
        return visual.face_colors[faces][:, :3] / 255.0
    corners = visual.vertex_colors[mesh.faces[faces]][..., :3] / 255.0
    return np.einsum("nk,nkc->nc", barycentric, corners)


def _material(material) -> tuple[np.ndarray, object]:
    """Base colour factor in [0, 1] and texture picture (or None) of a trimesh material."""
    if hasattr(material, "baseColorTexture"):
        factor = material.baseColorFactor
        return np.ones(3) if factor is None else np.asarray(factor[:3], float) / 255.0, material.baseColorTexture
    return np.ones(3), getattr(material, "image", None)


def _averaged(pixels: np.ndarray, size_px: int) -> np.ndarray:
    fine = pixels.reshape(size_px, OVERSAMPLE, size_px, OVERSAMPLE, 3)
    mean = np.zeros((size_px, size_px, 3), np.float32)
    for y in range(OVERSAMPLE):
        for x in range(OVERSAMPLE):
            mean += fine[:, y, :, x]
    return (mean * np.float32(255.0 / OVERSAMPLE**2) + 0.5).astype(np.uint8)
