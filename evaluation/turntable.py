"""Turntables: an object turning as an endless animated picture, from the views of one elevation ring or from its mesh."""

import io
from collections.abc import Sequence

import numpy as np
import trimesh
from PIL import Image

from evaluation.mesh_preview import cast, orbit_around
from evaluation.strips import tile
from rendering.view_set import ViewSet


def ring(views: ViewSet, elevation_deg: float = 0.0) -> list[int]:
    """Indices of the views on the elevation nearest to `elevation_deg`, by rising azimuth; empty without views."""
    if len(views) == 0:
        return []
    nearest = views.elevation_deg[np.argmin(np.abs(views.elevation_deg - elevation_deg))]
    members = np.flatnonzero(np.abs(views.elevation_deg - nearest) < 0.5)
    return [int(i) for i in members[np.argsort(views.azimuth_deg[members] % 360.0, kind="stable")]]


def turntable(views: ViewSet, elevation_deg: float = 0.0, size_px: int = 256, frame_ms: int = 220) -> bytes:
    """The ring nearest to `elevation_deg` on white as an animated, looping WebP of `size_px` squares.

    Raises ValueError when there is no view.
    """
    members = ring(views, elevation_deg)
    if not members:
        raise ValueError("a turntable needs at least one view")
    # Small pictures are enlarged without smoothing: the viewer shall see the pixels that were generated.
    return animated_webp([tile(views.rgba[i], size_px) for i in members], frame_ms)


def mesh_turntable(mesh: trimesh.Trimesh, size_px: int = 144, frames: int = 18, frame_ms: int = 140) -> bytes:
    """A mesh turning once, colours left and normals right, as an animated, looping WebP of `2 * size_px` by `size_px`.

    The camera goes round as azimuth rises, like the views of a ring, and follows the mesh: any unit of length is fine.
    """
    cameras = orbit_around(mesh, tuple(np.arange(frames) * (360.0 / frames)))
    return animated_webp([np.concatenate(cast(mesh, cameras[i], size_px), axis=1) for i in range(frames)], frame_ms)


def animated_webp(frames: Sequence[np.ndarray], frame_ms: int) -> bytes:
    """uint8 RGB pictures of one size as a looping WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0, quality=78, method=4)
    return buffer.getvalue()
