"""Stage `simplify`: fewer triangles by quadric edge collapse (Garland and Heckbert 1997, the package fast_simplification)."""

import fast_simplification
import numpy as np

from evaluation.metrics.geometry import without_degenerate
from rendering.view_set import Mesh

# Below this share of the box's diagonal the size of the result must agree with the original's.
BOX_TOLERANCE = 0.02


class SimplifyFailure(Exception):
    """The result is no longer the same object."""


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """At most about `max_faces` triangles; the mesh itself when it has no more. Raises SimplifyFailure."""
    if len(mesh.faces) <= max_faces:
        return mesh
    vertices, faces = fast_simplification.simplify(
        np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.int32), target_count=max_faces
    )
    slim = without_degenerate(Mesh(vertices, faces))
    if len(slim.faces) == 0:
        raise SimplifyFailure("no triangle was left")
    used, index = np.unique(slim.faces, return_inverse=True)
    slim = Mesh(slim.vertices[used].astype(np.float32), index.reshape(-1, 3).astype(np.int32))
    box, slim_box = (np.stack([m.vertices.min(0), m.vertices.max(0)]) for m in (mesh, slim))
    if np.abs(box - slim_box).max() > BOX_TOLERANCE * np.linalg.norm(box[1] - box[0]):
        raise SimplifyFailure("the bounding box changed")
    return slim
