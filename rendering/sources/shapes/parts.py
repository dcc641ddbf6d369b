"""Closed solids with panorama texture coordinates, from which the families are assembled.

Frame: glTF's, +Y up, the front looks to +Z, +X is on the right of somebody who looks at the front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rendering.sources.shapes.paint import Paint

SEGMENTS = 28
_SEAM_DEG = 135.0
"""Where the panorama closes: between the right side and the back, so that no face of a box is cut."""


@dataclass(frozen=True)
class Part:
    """A closed, outward-oriented solid of one paint.

    Attributes:
        vertices: float64 `[N, 3]`; repeated where texture coordinates jump.
        uv: float64 `[N, 2]`, panorama coordinates (u around, v from foot 0 to top 1).
        faces: int64 `[F, 3]`, counter-clockwise seen from outside.
    """

    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    paint: Paint

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Part":
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> "Part":
        """Stretched about the origin; factors are positive."""
        return replace(self, vertices=self.vertices * np.array([x, y, z]))

    def rotated(self, axis: str, angle_deg: float) -> "Part":
        """Turned about a coordinate axis through the origin, right-handed."""
        c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        matrix = np.eye(3)
        matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
        return replace(self, vertices=self.vertices @ matrix.T)


def loft(rings: np.ndarray, paint: Paint) -> Part:
    """Skin over closed rings `[R, S, 3]` from foot to top, flat lids on both ends (none where a ring is a point).

    Every ring starts at the panorama's seam and runs once around +Y, from the back over left and front to the right.
    """
    rows, around = rings.shape[:2]
    lids = [np.broadcast_to(ring.mean(0), ring.shape) for ring in (rings[0], rings[-1])]
    grid = np.concatenate([lids[0][None], rings, lids[1][None]])
    steps = np.linalg.norm(np.diff(grid, axis=0), axis=-1).mean(1)
    height = np.concatenate([[0.0], np.cumsum(steps)]) / max(steps.sum(), 1e-9)
    closed = np.concatenate([grid, grid[:, :1]], 1)
    u, v = np.meshgrid(np.arange(around + 1) / around, height, indexing="xy")
    row, column = (index.ravel() for index in np.meshgrid(np.arange(rows + 1), np.arange(around), indexing="ij"))
    a = row * (around + 1) + column
    b, c, d = a + 1, a + around + 2, a + around + 1
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    vertices = closed.reshape(-1, 3)
    return Part(vertices, np.stack([u.ravel(), v.ravel()], -1), _without_empty(vertices, faces), paint)


def _without_empty(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    return faces[area > 1e-9]


def circle(segments: int = SEGMENTS) -> np.ndarray:
    """Unit ring `[S, 2]` of (x, z) in the order that `loft` wants."""
    angle = np.radians(_SEAM_DEG) + 2 * np.pi * np.arange(segments) / segments
    return np.stack([np.sin(angle), np.cos(angle)], -1)


def lathe(profile: Sequence[tuple[float, float]], paint: Paint, segments: int = SEGMENTS) -> Part:
    """Solid of revolution about +Y of a profile of (radius, y), from foot to top; few segments give a prism."""
    ring = circle(segments)
    rings = np.stack([np.stack([ring[:, 0] * r, np.full(segments, y), ring[:, 1] * r], -1) for r, y in profile])
    return loft(rings, paint)


def ball(radius: float, paint: Paint, segments: int = SEGMENTS, rows: int = 12) -> Part:
    """A sphere about the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    return lathe([(radius * max(np.cos(a), 0.0), radius * np.sin(a)) for a in angle], paint, segments)


def rod(radius: float, length: float, paint: Paint, segments: int = 12, tip_radius: float | None = None) -> Part:
    """An upright cylinder or cone frustum standing on y = 0."""
    return lathe([(radius, 0.0), (radius if tip_radius is None else tip_radius, length)], paint, segments)


def tube(path: np.ndarray, radius: float, paint: Paint, segments: int = 10) -> Part:
    """A round tube along a path `[P, 3]` that lies in a plane of constant z (handles, stems, spouts)."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    side = np.cross(tangent, [0.0, 0.0, 1.0])
    ring = circle(segments)
    rings = path[:, None] + radius * (ring[None, :, :1] * side[:, None] + ring[None, :, 1:] * np.array([0.0, 0.0, 1.0]))
    return loft(rings, paint)


def box(width: float, height: float, depth: float, paint: Paint, top: float = 1.0, top_depth: float | None = None) -> Part:
    """A box standing on y = 0 about the Y axis; `top` and `top_depth` narrow its upper face in x and z."""
    corners = np.array([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]) / 2  # (x, z): from back right over left to front right
    foot = np.stack([corners[:, 0] * width, np.zeros(4), corners[:, 1] * depth], -1)
    lid = np.stack([corners[:, 0] * width * top, np.full(4, height), corners[:, 1] * depth * (top if top_depth is None else top_depth)], -1)
    part = loft(np.stack([foot, lid]), paint)
    # Sides fill the whole picture, so that patches sit where they are painted; lids repeat the rows at the edges.
    v = np.repeat([0.0, 0.0, 1.0, 1.0], 5)
    return replace(part, uv=np.stack([part.uv[:, 0], v], -1))


def slab(width: float, height: float, depth: float, paint: Paint) -> Part:
    """A flat box whose upper face carries most of the picture, as four triangles that meet in its middle (table tops)."""
    part = box(width, height, depth, paint)
    return replace(part, uv=np.stack([part.uv[:, 0], np.repeat([0.0, 0.1, 0.25, 1.0], 5)], -1))


def wedge(outline: Sequence[tuple[float, float]], thickness: float, paint: Paint) -> Part:
    """A convex outline of (z, y), extruded along x about x = 0: roofs, cabins, fins.

    The flat sides carry the left and right quarters of the picture; every strip between them shows the front or
    the back quarter, by where it looks.
    """
    flat = np.asarray(outline, float)
    if _twice_area(flat) < 0:
        flat = flat[::-1]
    count, low = len(flat), flat.min(0)
    z, y = ((flat - low) / np.maximum(flat.max(0) - low, 1e-9)).T
    left = np.column_stack([np.full(count, -thickness / 2), flat[:, 1], flat[:, 0]])
    right = left * [-1, 1, 1]
    fan = np.array([[0, i, i + 1] for i in range(1, count - 1)])
    vertices, faces = [left, right], [fan, fan[:, ::-1] + count]
    uv = [np.column_stack([0.25 + z / 4, y]), np.column_stack([1.0 - z / 4, y])]
    for i, j in zip(range(count), np.roll(np.arange(count), -1), strict=True):
        column, across = (0.5, (0, 1, 1, 0)) if flat[j, 1] >= flat[i, 1] else (0.0, (1, 0, 0, 1))
        vertices.append(np.array([left[i], right[i], right[j], left[j]]))
        uv.append(np.column_stack([column + np.array(across) / 4, y[[i, i, j, j]]]))
        faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 2 * count + 4 * i)
    return Part(np.concatenate(vertices), np.concatenate(uv), np.concatenate(faces), paint)


def _twice_area(flat: np.ndarray) -> float:
    """Signed: positive when the outline turns from z towards y."""
    z, y = flat[:, 0], flat[:, 1]
    return float(np.sum(z * np.roll(y, -1) - np.roll(z, -1) * y))
