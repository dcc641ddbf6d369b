"""Stage `bake`: unwrap the surface (xatlas) and paint a texture from the pictures that see each texel.

The unwrapped triangles are looked at from above with the same ray caster that decides visibility, which tells for every
texel the triangle and the place in it.
"""

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from scipy import ndimage
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.meshing.colors import HIDDEN, UNKNOWN, VISIBLE, point_colors, vertex_sight
from rendering.cameras import Camera
from rendering.view_set import Mesh

GUTTER_PX = 2
UNWRAP_PATIENCE_S = 600.0
TEXTURE_FACING_POWER = 4
SMALLEST_TEXTURE_PX, LARGEST_TEXTURE_PX = 128, 2048


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with a texture.

    Attributes:
        mesh: N vertices, those on seams once per side.
        normals: smooth unit normals, float32 `[N, 3]`.
        uv: float32 `[N, 2]` in [0, 1]; (0, 0) is the upper left corner of the texture, as in glTF.
        texture: uint8 sRGB `[S, S, 3]`.
    """

    mesh: Mesh
    normals: np.ndarray
    uv: np.ndarray
    texture: np.ndarray


def bake(mesh: Mesh, rgba: np.ndarray, camera: Camera, texture_px: int = 0) -> TexturedMesh:
    """Unwrap `mesh` and paint it. `rgba`: uint8 `[V, H, W, 4]`, straight alpha; `texture_px`: 0 takes `suitable_px`."""
    size = texture_px or suitable_px(max(rgba.shape[1:3]))
    index, faces, uv = unwrap(mesh, size)
    normals = np.asarray(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals, np.float32)
    split = Mesh(mesh.vertices[index].astype(np.float32), faces)
    texture = paint(split, normals[index], uv, rgba, camera, size)
    return TexturedMesh(split, normals[index], uv, texture)


def suitable_px(picture_px: int) -> int:
    """Twice the pictures' side, as a power of two: an atlas is half empty, and the object is seen from all sides."""
    return int(np.clip(2 ** np.ceil(np.log2(2 * picture_px)), SMALLEST_TEXTURE_PX, LARGEST_TEXTURE_PX))


def unwrap(mesh: Mesh, texture_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Original vertex of each new one `[N]`, triangles int32 `[F, 3]` of new ones, and their uv float32 `[N, 2]` in [0, 1].

    In a process of its own, see `unwrap_child`. Raises RuntimeError with what that process said, TimeoutExpired after ten minutes.
    """
    given = io.BytesIO()
    vertices, faces = np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.uint32)
    np.savez(given, vertices=vertices, faces=faces, padding=GUTTER_PX, resolution=texture_px)
    command = [sys.executable, "-I", str(Path(__file__).with_name("unwrap_child.py"))]
    child = subprocess.run(command, input=given.getvalue(), capture_output=True, timeout=UNWRAP_PATIENCE_S)
    if child.returncode != 0:
        told = child.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"xatlas ended with status {child.returncode}" + (f": {told[-1]}" if told else ""))
    made = np.load(io.BytesIO(child.stdout), allow_pickle=False)
    # xatlas meets the resolution only roughly and then reports its own size; both are in [0, 1] here.
    return made["index"].astype(np.int64), made["faces"].astype(np.int32), made["uv"].astype(np.float32)


def paint(split: Mesh, normals: np.ndarray, uv: np.ndarray, rgba: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Texture uint8 `[size, size, 3]` of an unwrapped mesh; texels off the charts take the nearest texel's colour."""
    triangle, weight = texel_places(uv, split.faces, size)
    covered = triangle >= 0
    if not covered.any():
        raise ValueError("the unwrapped mesh covers no texel")
    corners, shares = split.faces[triangle[covered]], weight[covered][..., None]
    points = (split.vertices[corners] * shares).sum(1).astype(np.float64)
    directions = (normals[corners] * shares).sum(1).astype(np.float64)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    # Where a camera sees all three corners of a triangle, or none, it is taken to see all of it, or nothing; rays tell the rest.
    corners_seen = vertex_sight(split, normals, camera)[:, split.faces].sum(-1)
    sight = np.choose(corners_seen, [HIDDEN, UNKNOWN, UNKNOWN, VISIBLE]).astype(np.int8)[:, triangle[covered]]
    texture = np.zeros((size, size, 3), np.uint8)
    texture[covered] = point_colors(points, directions, split, rgba, camera, TEXTURE_FACING_POWER, sight)
    row, column = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[row, column]


def texel_places(uv: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangle `[size, size]` (-1 for none) that covers each texel's centre, and the barycentric weights `[size, size, 3]`."""
    flat = np.concatenate([uv.astype(np.float64) * size, np.zeros((len(uv), 1))], 1)
    centres = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="xy"), -1).reshape(-1, 2)
    above = np.concatenate([centres, np.ones((len(centres), 1))], 1)
    rays = RayMeshIntersector(trimesh.Trimesh(flat, faces, process=False))
    triangle = np.asarray(rays.intersects_first(above, np.tile([0.0, 0.0, -1.0], (len(above), 1))))
    weight = np.zeros((len(centres), 3))
    hit = triangle >= 0
    a, b, c = (flat[faces[triangle[hit], k], :2] for k in range(3))
    u, v, p = b - a, c - a, centres[hit] - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    weight[hit, 1] = (p[:, 0] * v[:, 1] - p[:, 1] * v[:, 0]) / area
    weight[hit, 2] = (u[:, 0] * p[:, 1] - u[:, 1] * p[:, 0]) / area
    weight = np.clip(weight, 0.0, 1.0)
    weight[:, 0] = np.clip(1.0 - weight[:, 1] - weight[:, 2], 0.0, 1.0)
    return triangle.reshape(size, size), weight.reshape(size, size, 3)
