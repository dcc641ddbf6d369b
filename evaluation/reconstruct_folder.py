"""The `reconstruct` tool: a folder of RGBA pictures with `transforms.json` -> one GLB."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.hull import HullFailure, HullSettings
from evaluation.meshing.pipeline import reconstruct
from evaluation.meshing.settings import ReconstructConfig
from evaluation.picture_folder import read_rgba
from infra.errors import UserError
from infra.storage import Location
from rendering.cameras import OPENGL_FROM_OPENCV, Camera

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def reconstruct_folder(views: Path, out: Path, config: ReconstructConfig | None = None) -> dict[str, Any]:
    """Write the mesh of a folder of views to `out` (.glb, Y up; the folder's world is Z up).

    Returns counts, vertices, faces, seconds and what was done (`evaluation.meshing.pipeline.Report`). Raises UserError naming
    the file for bad input, and when the views leave no solid.
    """
    config = config or ReconstructConfig()
    if out.suffix.lower() != ".glb":
        raise UserError(f"{out} does not end in .glb", "give the mesh a name such as mesh.glb")
    started = time.monotonic()
    rgba, camera = read_views(views)
    try:
        made = reconstruct(rgba, camera, config)
    except HullFailure as failure:
        message = f"no mesh from {views}: {failure.detail} ({failure.reason})"
        raise UserError(message, "check the masks (alpha) and the cameras in transforms.json") from failure
    Location(str(out.absolute())).write_bytes(made.glb())
    return {
        "completed": 1,
        "failed": 0,
        "rejected": 0,
        "mesh": str(out),
        "views": len(rgba),
        "vertices": len(made.mesh.vertices),
        "faces": len(made.mesh.faces),
        "votes": HullSettings(config.resolution, config.votes).votes_for(len(rgba)),
        "seconds": round(time.monotonic() - started, 3),
    } | asdict(made.report)


def read_views(folder: Path) -> tuple[np.ndarray, Camera]:
    """uint8 `[V, H, W, 4]` and cameras of a folder in nerfstudio's convention (OpenGL camera-to-world, Z up).

    Raises UserError naming the file for whatever is missing, malformed, or not supported (lens distortion).
    """
    place = folder / "transforms.json"
    if not place.is_file():
        raise UserError(f"no transforms.json in {folder}", "write one camera per picture in nerfstudio's convention")
    try:
        document = json.loads(place.read_text())
        frames = document["frames"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is not a nerfstudio file: {error}", "it needs a list 'frames'") from error
    if not isinstance(frames, list) or len(frames) < 2:
        raise UserError(f"{place} lists fewer than two frames", "a solid needs several views")
    pictures: list[np.ndarray] = []
    poses, intrinsics = [], []
    for number, frame in enumerate(frames):
        values = {k: v for k, v in document.items() if k != "frames"} | frame
        path = _picture_path(folder, values, number, place)
        picture = read_rgba(path)
        if pictures and picture.shape != pictures[0].shape:
            (height, width), (first_height, first_width) = picture.shape[:2], pictures[0].shape[:2]
            raise UserError(f"{path} is {width} x {height} px, the first is {first_width} x {first_height}", "give all views one size")
        pictures.append(picture)
        poses.append(_pose(values, path, place))
        intrinsics.append(_intrinsics(values, picture, path, place))
    return np.stack(pictures), Camera(np.stack(poses) @ OPENGL_FROM_OPENCV, np.stack(intrinsics))


def _picture_path(folder: Path, frame: dict[str, Any], number: int, place: Path) -> Path:
    if not isinstance(frame.get("file_path"), str):
        raise UserError(f"frame {number} of {place} has no 'file_path'", "name the picture there")
    path = folder / frame["file_path"]
    # Some writers leave the suffix out.
    return path if path.suffix else path.with_suffix(".png")


def _pose(frame: dict[str, Any], path: Path, place: Path) -> np.ndarray:
    try:
        pose = np.asarray(frame["transform_matrix"], np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{place} has no usable 'transform_matrix' for {path.name}", "give a 4 x 4 camera-to-world matrix") from error
    rotation = pose[:3, :3] if pose.shape == (4, 4) and np.isfinite(pose).all() else np.zeros((3, 3))
    if not np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        message = f"the 'transform_matrix' of {path.name} in {place} is not a rigid 4 x 4 pose"
        raise UserError(message, "give a finite camera-to-world matrix without scale or mirror")
    return pose


def _intrinsics(frame: dict[str, Any], picture: np.ndarray, path: Path, place: Path) -> np.ndarray:
    """fx, fy, cx, cy in picture widths and heights."""
    if any(frame.get(name) for name in DISTORTION):
        raise UserError(f"{place} gives lens distortion for {path.name}", "undistort the pictures first")
    try:
        width, height = float(frame.get("w", picture.shape[1])), float(frame.get("h", picture.shape[0]))
        if "fl_x" in frame:
            fx, fy = float(frame["fl_x"]), float(frame.get("fl_y", frame["fl_x"]))
        else:
            fx = 0.5 * width / math.tan(0.5 * float(frame["camera_angle_x"]))
            fy = 0.5 * height / math.tan(0.5 * float(frame["camera_angle_y"])) if "camera_angle_y" in frame else fx
        values = np.array([fx / width, fy / height, float(frame.get("cx", width / 2)) / width, float(frame.get("cy", height / 2)) / height])
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{place} has no usable focal length for {path.name}", "give fl_x and w, or camera_angle_x") from error
    if not np.isfinite(values).all() or (values[:2] <= 0).any():
        raise UserError(f"{place} has no usable focal length for {path.name}", "give positive, finite numbers")
    return values
