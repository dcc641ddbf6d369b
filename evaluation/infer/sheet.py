"""A contact sheet of one object: what the model was shown, and what it made of it."""

import io
from dataclasses import replace

import numpy as np

from rendering.cameras import Camera
from rendering.sheet import contact_sheet
from rendering.view_set import ViewSet
from training.batch import resized

CELL_PX = (96, 256)


def sheet_png(shown: ViewSet, made: ViewSet, label: str) -> bytes:
    """Condition and generated views side by side, as a PNG file; cells as large as the views, within `CELL_PX`."""
    size = made.rgba.shape[1]
    small = replace(shown, rgba=resized(shown.rgba, size))
    buffer = io.BytesIO()
    least, most = CELL_PX
    contact_sheet([_together(small, made)], cell_px=min(most, max(least, size)), labels=[label]).save(buffer, "PNG")
    return buffer.getvalue()


def _together(conditions: ViewSet, targets: ViewSet) -> ViewSet:
    """Both in one set."""
    joined = {
        name: np.concatenate([getattr(conditions, name), getattr(targets, name)])
        for name in ("rgba", "azimuth_deg", "elevation_deg", "radius")
    }
    cameras = [views.camera for views in (conditions, targets)]
    camera = Camera(np.concatenate([c.c2w for c in cameras]), np.concatenate([c.intrinsics for c in cameras]))
    return replace(targets, camera=camera, roles=conditions.roles + targets.roles, **joined)
