"""What cameras see of a mesh with colours, by ray casting: for the guard and the bench, unlit as the pictures are."""

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.meshing.bake import TexturedMesh
from rendering.cameras import Camera
from rendering.view_set import Mesh


def look_at(mesh: Mesh, colors: np.ndarray, camera: Camera, height: int, width: int, samples: int = 1) -> np.ndarray:
    """Premultiplied float32 `[V, height, width, 4]` in [0, 1] of vertex colours uint8 `[N, 3]`, `samples`^2 rays a pixel."""
    return _look(mesh, lambda face, share: (colors[mesh.faces[face]] / 255.0 * share[..., None]).sum(1), camera, height, width, samples)


def look_at_textured(textured: TexturedMesh, camera: Camera, height: int, width: int, samples: int = 2) -> np.ndarray:
    """The same of a texture, read without interpolation."""
    size = len(textured.texture)

    def color(face: np.ndarray, share: np.ndarray) -> np.ndarray:
        uv = (textured.uv[textured.mesh.faces[face]] * share[..., None]).sum(1)
        column, row = np.clip((uv * size).astype(int), 0, size - 1).T
        return textured.texture[row, column] / 255.0

    return _look(textured.mesh, color, camera, height, width, samples)


def _look(mesh: Mesh, color, camera: Camera, height: int, width: int, samples: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    rays = RayMeshIntersector(body)
    triangles = np.asarray(body.triangles)
    pictures = np.zeros((len(camera), height * samples * width * samples, 4), np.float32)
    for picture, i in zip(pictures, range(len(camera)), strict=True):
        origin, direction = (array.reshape(-1, 3) for array in camera[i].rays(height * samples, width * samples))
        face = np.asarray(rays.intersects_first(origin, direction))
        hit = np.flatnonzero(face >= 0)
        share = _shares(origin[hit], direction[hit], triangles[face[hit]])
        picture[hit, :3], picture[hit, 3] = color(face[hit], share), 1.0
    return pictures.reshape(len(camera), height, samples, width, samples, 4).mean((2, 4))


def _shares(origin: np.ndarray, direction: np.ndarray, triangle: np.ndarray) -> np.ndarray:
    """Barycentric weights `[R, 3]` of where rays meet the planes of their triangles `[R, 3, 3]` (Moeller and Trumbore 1997)."""
    first, second = triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]
    across = np.cross(direction, second)
    scale = (first * across).sum(1)
    scale = np.where(np.abs(scale) < 1e-15, 1e-15, scale)
    start = origin - triangle[:, 0]
    u = (start * across).sum(1) / scale
    v = (direction * np.cross(start, first)).sum(1) / scale
    shares = np.clip(np.stack([1.0 - u - v, u, v], -1), 0.0, 1.0)
    return shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
