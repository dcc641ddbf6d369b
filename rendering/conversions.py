"""Our cameras in other people's conventions and back: OpenGL/Blender, COLMAP, nerfstudio, PyTorch3D.

Ours: camera-to-world, OpenCV axes (right, down, forward), intrinsics in image widths and heights. Pixels count from the
outer corner of the first pixel (its centre is at 0.5) in every convention here, so only axes, directions and units differ.
No library of theirs is imported; each function names the text it follows. docs/conventions.md has them side by side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rendering.cameras import OPENGL_FROM_OPENCV, Camera

SENSOR_MM = 36.0


def opengl_c2w(camera: Camera) -> np.ndarray:
    """Camera-to-world `[V, 4, 4]` with OpenGL axes (right, up, backward): NeRF's `transform_matrix`, Blender's `matrix_world`."""
    return camera.c2w @ OPENGL_FROM_OPENCV


def from_opengl(c2w: np.ndarray, intrinsics: np.ndarray) -> Camera:
    """The inverse of `opengl_c2w`; `intrinsics` are ours."""
    return Camera(np.asarray(c2w, float) @ OPENGL_FROM_OPENCV, np.asarray(intrinsics, float))


@dataclass(frozen=True)
class BlenderLens:
    """Settings of Blender camera objects, sensor fit HORIZONTAL, square pixels.

    Attributes:
        matrix_world: `[V, 4, 4]`.
        lens_mm: `[V]` focal length for a 36 mm sensor.
        shift: `[V, 2]` lens shift in image widths; positive looks further right and up.
    """

    matrix_world: np.ndarray
    lens_mm: np.ndarray
    shift: np.ndarray


def to_blender(camera: Camera, width: int, height: int) -> BlenderLens:
    """As Blender's camera takes it. Raises ValueError where pixels would not be square (fx W and fy H differ)."""
    fx, fy, cx, cy = camera.intrinsics.T
    if not np.allclose(fx * width, fy * height):
        raise ValueError("Blender's lens has one focal length: fx * width must equal fy * height")
    # Blender manual, Camera > Lens: shift counts in sensor widths when the fit is horizontal, for both directions.
    shift = np.stack([0.5 - cx, (cy - 0.5) * height / width], -1)
    return BlenderLens(opengl_c2w(camera), fx * SENSOR_MM, shift)


def from_blender(lens: BlenderLens, width: int, height: int) -> Camera:
    """The inverse of `to_blender`."""
    fx = np.asarray(lens.lens_mm, float) / SENSOR_MM
    cx, cy = 0.5 - lens.shift[:, 0], 0.5 + lens.shift[:, 1] * width / height
    return from_opengl(lens.matrix_world, np.stack([fx, fx * width / height, cx, cy], -1))


@dataclass(frozen=True)
class Colmap:
    """COLMAP's text model: world-to-camera with OpenCV axes, PINHOLE intrinsics in pixels.

    Attributes:
        quaternion: `[V, 4]` (w, x, y, z) unit quaternions with w >= 0, rotation from the world to the camera.
        translation: `[V, 3]`, so that `camera = rotation @ world + translation`.
        pinhole: `[V, 4]` fx, fy, cx, cy in pixels.
    """

    quaternion: np.ndarray
    translation: np.ndarray
    pinhole: np.ndarray


def to_colmap(camera: Camera, width: int, height: int) -> Colmap:
    """colmap.github.io/format.html (images.txt, cameras.txt) and /cameras.html (PINHOLE)."""
    w2c = camera.w2c
    return Colmap(_quaternions(w2c[:, :3, :3]), w2c[:, :3, 3], camera.intrinsics * [width, height, width, height])


def from_colmap(colmap: Colmap, width: int, height: int) -> Camera:
    """The inverse of `to_colmap`; quaternions need not be normalised."""
    rotation = _rotations(np.asarray(colmap.quaternion, float))
    c2w = np.tile(np.eye(4), (len(rotation), 1, 1))
    c2w[:, :3, :3] = rotation.transpose(0, 2, 1)
    c2w[:, :3, 3] = -np.einsum("vji,vj->vi", rotation, np.asarray(colmap.translation, float))
    return Camera(c2w, np.asarray(colmap.pinhole, float) / [width, height, width, height])


@dataclass(frozen=True)
class PyTorch3D:
    """Arguments of `PerspectiveCameras(focal_length=, principal_point=, R=, T=, in_ndc=True)`.

    Attributes:
        R: `[V, 3, 3]`, applied to row vectors: `camera = world @ R + T`, camera axes left, up, forward.
        T: `[V, 3]`.
        focal_length, principal_point: `[V, 2]` in NDC, where the shorter image side runs from 1 (left, top) to -1.
    """

    R: np.ndarray
    T: np.ndarray
    focal_length: np.ndarray
    principal_point: np.ndarray


def to_pytorch3d(camera: Camera, width: int, height: int) -> PyTorch3D:
    """pytorch3d.org/docs/cameras: +X left, +Y up, +Z into the scene, row vectors, NDC of the shorter side."""
    w2c, mirror = camera.w2c, np.array([-1.0, -1.0, 1.0])
    size = np.array([width, height], float)
    half = size.min() / 2
    focal = camera.intrinsics[:, :2] * size / half
    principal = (0.5 - camera.intrinsics[:, 2:]) * size / half
    return PyTorch3D(w2c[:, :3, :3].transpose(0, 2, 1) * mirror, w2c[:, :3, 3] * mirror, focal, principal)


def from_pytorch3d(cameras: PyTorch3D, width: int, height: int) -> Camera:
    """The inverse of `to_pytorch3d`."""
    mirror, size = np.array([-1.0, -1.0, 1.0]), np.array([width, height], float)
    half = size.min() / 2
    w2c = np.tile(np.eye(4), (len(cameras.R), 1, 1))
    w2c[:, :3, :3] = (np.asarray(cameras.R, float) * mirror).transpose(0, 2, 1)
    w2c[:, :3, 3] = np.asarray(cameras.T, float) * mirror
    intrinsics = np.concatenate([cameras.focal_length * half / size, 0.5 - cameras.principal_point * half / size], -1)
    return Camera(np.linalg.inv(w2c), intrinsics)


def to_nerfstudio(camera: Camera, width: int, height: int) -> dict[str, Any]:
    """The cameras of a nerfstudio `transforms.json`: OpenGL matrices per frame, intrinsics in pixels.

    Intrinsics stand at the top when all views share them (with NeRF's and instant-ngp's `camera_angle_x`), else per frame.
    docs.nerf.studio, "Data conventions".
    """
    pixels = camera.intrinsics * [width, height, width, height]
    shared = bool(np.allclose(pixels, pixels[0]))
    description: dict[str, Any] = {"camera_model": "OPENCV", "w": width, "h": height, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    if shared:
        description |= _named(pixels[0]) | {"camera_angle_x": float(2 * np.arctan(0.5 / camera.intrinsics[0, 0]))}
    frames = [{"transform_matrix": matrix.tolist()} for matrix in opengl_c2w(camera)]
    description["frames"] = frames if shared else [frame | _named(row) for frame, row in zip(frames, pixels, strict=True)]
    return description


def from_nerfstudio(description: dict[str, Any]) -> Camera:
    """Cameras of a `transforms.json`, ours or another's without lens distortion; NeRF's with `camera_angle_x` only if it has `w`.

    Raises ValueError for distorted lenses and KeyError for missing entries.
    """
    rows, matrices = [], []
    for frame in description["frames"]:
        known = description | frame
        if any(known.get(name) for name in ("k1", "k2", "k3", "k4", "p1", "p2")):
            raise ValueError("lens distortion is not supported")
        width, height = known["w"], known["h"]
        fx = known["fl_x"] if "fl_x" in known else 0.5 * width / np.tan(known["camera_angle_x"] / 2)
        centre = known.get("cx", width / 2) / width, known.get("cy", height / 2) / height
        rows.append((fx / width, known.get("fl_y", fx) / height, *centre))
        matrices.append(frame["transform_matrix"])
    return from_opengl(np.array(matrices, float), np.array(rows))


def _named(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(("fl_x", "fl_y", "cx", "cy"), map(float, pixels), strict=True))


def _quaternions(rotation: np.ndarray) -> np.ndarray:
    """Rotation matrices `[V, 3, 3]` -> unit quaternions `[V, 4]` (w, x, y, z), w >= 0."""
    # The quaternion is the main eigenvector of a symmetric matrix of the entries (Bar-Itzhack 2000): no case is special.
    m = rotation
    k = np.empty((len(m), 4, 4))
    k[:, 0, 0] = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    k[:, 0, 1:] = np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], -1)
    k[:, 1:, 0] = k[:, 0, 1:]
    k[:, 1:, 1:] = m + m.transpose(0, 2, 1) - np.eye(3) * k[:, :1, :1]
    quaternion = np.linalg.eigh(k)[1][..., -1]
    return quaternion * np.where(quaternion[:, :1] < 0, -1.0, 1.0)


def _rotations(quaternion: np.ndarray) -> np.ndarray:
    """Quaternions `[V, 4]` (w, x, y, z) of any length -> rotation matrices `[V, 3, 3]`."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
