"""A turntable: the views of one elevation ring as an endless animated picture."""

import io

import numpy as np
from PIL import Image

from rendering.view_set import ViewSet, on_white


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
    pictures = [Image.fromarray((on_white(views.rgba[i]) * 255.0 + 0.5).astype(np.uint8)) for i in members]
    # Small pictures are enlarged without smoothing: the viewer shall see the pixels that were generated.
    filter_ = Image.Resampling.NEAREST if pictures[0].width < size_px else Image.Resampling.BOX
    frames = [picture.resize((size_px, size_px), filter_) for picture in pictures]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, quality=80, method=4)
    return buffer.getvalue()
