"""Agreement of a set of views with one solid, without any truth."""

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from evaluation.metrics.image import mask_iou, mask_of
from rendering.cameras import Camera
from rendering.view_set import Mesh


def silhouette_iou(mesh: Mesh, rgba: np.ndarray, camera: Camera, max_size_px: int = 96) -> np.ndarray:
    """IoU `[V]` of every mask with the mesh's own silhouette from that camera; the lowest names the odd view.

    `rgba`: uint8 `[V, H, W, 4]`; pictures above `max_size_px` are compared on every n-th pixel. With the visual hull of
    the same views as `mesh` this is the share of each mask that the other views confirm.
    """
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    height, width = rgba.shape[1:3]
    every = -(-max(height, width) // max_size_px)
    picked = (slice(every // 2, None, every), slice(every // 2, None, every))
    scores = np.empty(len(rgba))
    for i, mask in enumerate(mask_of(rgba)):
        origins, directions = camera[i].rays(height, width)
        origins, directions = origins[picked], directions[picked]
        hit = rays.intersects_any(origins.reshape(-1, 3), directions.reshape(-1, 3)).reshape(origins.shape[:2])
        scores[i] = mask_iou(mask[picked], hit)
    return scores
