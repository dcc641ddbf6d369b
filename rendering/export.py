"""Views as plain files for other people's tools: PNG pictures and passes, and the cameras in the convention asked for.

`cameras.json` (our convention, roles, how to read the passes) is always written; `LAYOUTS` names what may stand beside it.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from infra.errors import UserError
from infra.storage import Location
from rendering.codecs import depth_unit, encode_depth
from rendering.colmap_text import colmap_files
from rendering.conversions import SENSOR_MM, to_blender, to_nerfstudio, to_pytorch3d
from rendering.view_set import PASSES, ViewSet
from rendering.views import ViewStore

# What the layout writes, for the command line's help.
LAYOUTS = {
    "nerfstudio": "transforms.json: OpenGL camera-to-world, pixels (also NeRF, instant-ngp)",
    "colmap": "sparse/0/cameras.txt, images.txt, points3D.txt (also 3D Gaussian splatting)",
    "blender": "cameras_blender.json: matrix_world, lens for a 36 mm sensor, shift",
    "pytorch3d": "cameras_pytorch3d.json: R, T, focal_length, principal_point in NDC",
    "opencv": "nothing but cameras.json: OpenCV camera-to-world, intrinsics in image sizes",
}


def export_views(store: ViewStore, uid: str, folder: Location, layout: str = "nerfstudio") -> int:
    """Write one object's views below `folder` as `write_views` does; returns how many.

    Raises:
        UserError: the store has no such object, or there is no such layout.
    """
    _known(layout)
    if uid not in store:
        known = ", ".join(store.uids()[:5])
        raise UserError(f"no views of '{uid}' in {store.location}", f"use one of its {len(store.uids())} uids, such as {known}")
    views = store.read(uid, passes=PASSES)
    write_views(views, folder, layout)
    return len(views)


def write_views(views: ViewSet, folder: Location, layout: str = "nerfstudio") -> None:
    """Write views below `folder`.

    `images/NNN.png` (straight alpha), `mask/NNN.png`, and where the views have them `depth/NNN.png` (16 bits),
    `normal/NNN.png` and `albedo/NNN.png`; `cameras.json` and the files of `layout`, a key of `LAYOUTS`.

    Raises:
        UserError: there is no such layout.
    """
    _known(layout)
    for index in range(len(views)):
        for name, data in pictures(views, index).items():
            (folder / path_of(name, index)).write_bytes(data)
    (folder / "cameras.json").write_json(ours(views))
    for name, content in CAMERAS[layout](views).items():
        if isinstance(content, str):
            (folder / name).write_bytes(content.encode())
        else:
            (folder / name).write_json(content)


def _known(layout: str) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout '{layout}'", f"choose one of: {', '.join(LAYOUTS)}")


def path_of(name: str, index: int) -> str:
    """Path of a view's picture (`images`, `mask`, `depth`, ...) below the export's folder."""
    return f"{name}/{index:03d}.png"


def pictures(views: ViewSet, index: int) -> dict[str, bytes]:
    """Folder -> PNG for everything the views have of one view."""
    found = {"images": _png(views.rgba[index], "RGBA"), "mask": _png(views.mask[index].astype(np.uint8) * 255, "L")}
    if views.depth is not None:
        found["depth"] = encode_depth(views.depth[index], depth_unit(views.depth))
    if views.normal is not None:
        levels = np.clip(np.rint((views.normal[index] + 1.0) * 127.5), 0, 255).astype(np.uint8)
        levels[~views.normal[index].any(-1)] = 0
        found["normal"] = _png(levels, "RGB")
    if views.albedo is not None:
        found["albedo"] = _png(views.albedo[index], "RGB")
    return found


def _png(pixels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def _size(views: ViewSet) -> tuple[int, int]:
    height, width = views.rgba.shape[1:3]
    return width, height


def _frames(views: ViewSet) -> list[dict[str, Any]]:
    """What every JSON layout says of each view: its pictures, its role and where it looks from."""
    # `mask_path` would make nerfstudio leave the background unsupervised; alpha says the same without that.
    passes = [("mask", "object_mask_path")]
    passes += [(name, f"{name}_file_path") for name in ("depth", "normal", "albedo") if getattr(views, name) is not None]
    fov = np.degrees(2 * np.arctan(0.5 / views.camera.intrinsics[:, 0]))
    return [
        {
            "file_path": path_of("images", index),
            **{key: path_of(name, index) for name, key in passes},
            "role": views.roles[index],
            "azimuth_deg": float(views.azimuth_deg[index]),
            "elevation_deg": float(views.elevation_deg[index]),
            "radius": float(views.radius[index]),
            "fov_deg": float(fov[index]),
        }
        for index in range(len(views))
    ]


def _about(views: ViewSet) -> dict[str, Any]:
    """Where the views come from and how their passes are to be read."""
    about: dict[str, Any] = {"uid": views.uid, "rig": views.rig, "origin": views.origin}
    if views.depth is not None:
        about["depth_unit"] = depth_unit(views.depth)
        about["depth_meaning"] = "planar z-depth = 16-bit level * depth_unit, in world units; 0 = nothing"
    if views.normal is not None:
        about["normal_meaning"] = "level / 127.5 - 1, camera axes x right, y down, z forward; 0, 0, 0 = nothing"
    return about


def ours(views: ViewSet) -> dict[str, Any]:
    """`cameras.json`: OpenCV camera-to-world, intrinsics fx, fy, cx, cy in image widths and heights. docs/conventions.md."""
    width, height = _size(views)
    cameras = zip(_frames(views), views.camera.c2w.tolist(), views.camera.intrinsics.tolist(), strict=True)
    frames = [frame | {"c2w": c2w, "intrinsics": intrinsics} for frame, c2w, intrinsics in cameras]
    return {"convention": "opencv", "width": width, "height": height, **_about(views), "frames": frames}


def transforms(views: ViewSet) -> dict[str, Any]:
    """nerfstudio's description of the views, world Z up; role, angles and passes are additions that other readers ignore."""
    description = to_nerfstudio(views.camera, *_size(views))
    frames = [frame | camera for frame, camera in zip(_frames(views), description.pop("frames"), strict=True)]
    return description | _about(views) | {"frames": frames}


def _blender(views: ViewSet) -> dict[str, Any]:
    width, height = _size(views)
    lens = to_blender(views.camera, width, height)
    settings = zip(_frames(views), lens.matrix_world.tolist(), lens.lens_mm.tolist(), lens.shift.tolist(), strict=True)
    frames = [frame | {"matrix_world": matrix, "lens": mm, "shift_x": x, "shift_y": y} for frame, matrix, mm, (x, y) in settings]
    head = {"convention": "blender", "resolution_x": width, "resolution_y": height, "sensor_width": SENSOR_MM, "sensor_fit": "HORIZONTAL"}
    return head | _about(views) | {"frames": frames}


def _pytorch3d(views: ViewSet) -> dict[str, Any]:
    width, height = _size(views)
    theirs = to_pytorch3d(views.camera, width, height)
    head = {"convention": "pytorch3d", "in_ndc": True, "image_size": [height, width]}
    arrays = {name: getattr(theirs, name).tolist() for name in ("R", "T", "focal_length", "principal_point")}
    return head | _about(views) | arrays | {"frames": _frames(views)}


def _colmap(views: ViewSet) -> dict[str, str]:
    names = [path_of("images", index).removeprefix("images/") for index in range(len(views))]
    return {f"sparse/0/{name}": text for name, text in colmap_files(views.camera, names, *_size(views)).items()}


CAMERAS: dict[str, Callable[[ViewSet], dict[str, Any]]] = {
    "nerfstudio": lambda views: {"transforms.json": transforms(views)},
    "colmap": _colmap,
    "blender": lambda views: {"cameras_blender.json": _blender(views)},
    "pytorch3d": lambda views: {"cameras_pytorch3d.json": _pytorch3d(views)},
    "opencv": lambda views: {},
}
