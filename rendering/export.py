"""Views as plain files for other people's tools: PNG pictures and a nerfstudio `transforms.json`."""

import io
from typing import Any

import numpy as np
from PIL import Image

from infra.errors import UserError
from infra.storage import Location
from rendering.cameras import OPENGL_FROM_OPENCV
from rendering.views import ViewSet, ViewStore


def export_views(store: ViewStore, uid: str, folder: Location) -> int:
    """Write `images/NNN.png` (straight alpha) and `transforms.json` for one object; returns the number of views.

    Raises:
        UserError: the store has no such object.
    """
    if uid not in store:
        known = ", ".join(store.uids()[:5])
        raise UserError(f"no views of '{uid}' in {store.location}", f"use one of its {len(store.uids())} uids, such as {known}")
    views = store.read(uid)
    for index, rgba in enumerate(views.rgba):
        buffer = io.BytesIO()
        Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
        (folder / image_name(index)).write_bytes(buffer.getvalue())
    (folder / "transforms.json").write_json(transforms(views))
    return len(views)


def image_name(index: int) -> str:
    """Path of a view's picture, relative to `transforms.json`."""
    return f"images/{index:03d}.png"


def transforms(views: ViewSet) -> dict[str, Any]:
    """The nerfstudio description of the views: OpenGL camera-to-world matrices, intrinsics in pixels, world Z up.

    Intrinsics stand at the top when all views share them, else with each frame. `role`, `azimuth_deg`,
    `elevation_deg` and `radius` are additions of ours that other readers ignore.
    """
    height, width = views.rgba.shape[1:3]
    pixels = views.camera.intrinsics * [width, height, width, height]
    shared = bool(np.allclose(pixels, pixels[0]))
    description: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": width,
        "h": height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "uid": views.uid,
        "rig": views.rig,
        "origin": views.origin,
    }
    if shared:
        description |= _intrinsics(pixels[0]) | {"camera_angle_x": float(2 * np.arctan(0.5 / views.camera.intrinsics[0, 0]))}
    c2w = views.camera.c2w @ OPENGL_FROM_OPENCV
    description["frames"] = [
        {
            "file_path": image_name(index),
            "transform_matrix": c2w[index].tolist(),
            "role": views.roles[index],
            "azimuth_deg": float(views.azimuth_deg[index]),
            "elevation_deg": float(views.elevation_deg[index]),
            "radius": float(views.radius[index]),
            **({} if shared else _intrinsics(pixels[index])),
        }
        for index in range(len(views))
    ]
    return description


def _intrinsics(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(("fl_x", "fl_y", "cx", "cy"), map(float, pixels), strict=True))
