"""Stage `clean`: keep the parts that some camera sees, turn all triangles outward, smooth the steps of the grid away.

A fitted field may hold shells that nothing sees, inside the object or far behind it; they cost accuracy and are no part of what the
views show.
"""

import numpy as np
import trimesh
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from trimesh.ray.ray_pyembree import RayMeshIntersector

from rendering.cameras import Camera
from rendering.view_set import Mesh

SMALLEST_PART = 0.02
LOOK_PX = 128
SMOOTHING_STEPS = 5
# Taubin 1995: a shrinking and a slightly stronger growing step in turn leave low frequencies and volume alone.
SHRINK, GROW = 0.5, -0.53


class NothingVisible(Exception):
    """No camera sees any triangle."""


def clean(mesh: Mesh, camera: Camera, smallest_part: float = SMALLEST_PART, smoothing_steps: int = SMOOTHING_STEPS) -> Mesh:
    """The visible parts of `mesh`, smoothed, outward counter-clockwise.

    `smallest_part`: parts seen by fewer pixels than this share of the most seen one go. Raises NothingVisible.
    """
    return smoothed(visible_parts(mesh, camera, smallest_part), smoothing_steps)


def visible_parts(mesh: Mesh, camera: Camera, smallest_part: float = SMALLEST_PART) -> Mesh:
    """Connected parts that cameras see first along some ray, each turned so that they see its front. Raises NothingVisible."""
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    body.merge_vertices(merge_tex=True, merge_norm=True)
    if not body.is_winding_consistent:
        body.fix_normals(multibody=True)
    faces = np.asarray(body.faces)
    links = sparse.coo_matrix((np.ones(2 * len(faces)), (faces[:, :2].ravel(), faces[:, 1:].ravel())), shape=(len(body.vertices),) * 2)
    parts, part_of_vertex = connected_components(links, directed=False)
    part = part_of_vertex[faces[:, 0]]
    hits, front = np.zeros(parts), np.zeros(parts)
    rays, normals = RayMeshIntersector(body), np.asarray(body.face_normals)
    for i in range(len(camera)):
        origin, direction = (array.reshape(-1, 3) for array in camera[i].rays(LOOK_PX, LOOK_PX))
        first = rays.intersects_first(origin, direction)
        seen = first >= 0
        towards = (normals[first[seen]] * direction[seen]).sum(1) < 0
        hits += np.bincount(part[first[seen]], minlength=parts)
        front += np.bincount(part[first[seen]], weights=towards, minlength=parts)
    if not hits.any():
        raise NothingVisible("no camera sees any triangle")
    kept = hits >= max(smallest_part * hits.max(), 1)
    flipped = (front < 0.5 * hits)[part]
    faces = np.where(flipped[:, None], faces[:, ::-1], faces)[kept[part]]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(np.asarray(body.vertices, np.float32)[used], faces.reshape(-1, 3).astype(np.int32))


def smoothed(mesh: Mesh, steps: int = SMOOTHING_STEPS) -> Mesh:
    """Taubin's smoothing with uniform weights, `steps` pairs of a shrinking and a growing step."""
    count, faces = len(mesh.vertices), mesh.faces
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.sort(edges, 1), axis=0)
    both = np.concatenate([edges, edges[:, ::-1]])
    degree = np.maximum(np.bincount(both[:, 0], minlength=count), 1)
    mean = sparse.csr_matrix((1.0 / degree[both[:, 0]], (both[:, 0], both[:, 1])), shape=(count, count))
    vertices = mesh.vertices.astype(np.float64)
    for _ in range(steps):
        for share in (SHRINK, GROW):
            vertices = vertices + share * (mean @ vertices - vertices)
    return Mesh(vertices.astype(np.float32), faces)
