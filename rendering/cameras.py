"""Cameras: poses, intrinsics, rays and projections. NumPy only, so render workers need no torch.

World: right-handed, Z up (Blender). Camera frame: OpenCV (+X right, +Y down, +Z forward). Azimuth 0 is a
camera on -Y (it sees the front of a glTF model after import), 90 a camera on +X; elevation is the angle above
the horizontal plane. Intrinsics are in image widths and heights: `pixel_x = fx * W * x / z + cx * W`, and the
centre of the first pixel is at 0.5. See docs/conventions.md.
"""

from dataclasses import dataclass

import numpy as np

# OpenCV camera axes expressed in the OpenGL/Blender camera frame; its own inverse.
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    Attributes:
        c2w: camera-to-world, OpenCV axes, float64 `[..., 4, 4]`.
        intrinsics: fx, fy, cx, cy in image widths/heights, float64 `[..., 4]`.
    """

    c2w: np.ndarray
    intrinsics: np.ndarray

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index) -> "Camera":
        return Camera(self.c2w[index], self.intrinsics[index])

    @property
    def w2c(self) -> np.ndarray:
        """World-to-camera `[..., 4, 4]`."""
        return np.linalg.inv(self.c2w)

    @property
    def position(self) -> np.ndarray:
        """Camera centres in the world `[..., 3]`."""
        return self.c2w[..., :3, 3]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points `[N, 3]` -> normalised image coordinates `[..., N, 2]` (0..1 inside) and z-depth `[..., N]`.

        Points at or behind the camera plane give non-finite coordinates; check `z_depth > 0`.
        """
        w2c = self.w2c
        local = np.einsum("...ij,nj->...ni", w2c[..., :3, :3], points) + w2c[..., None, :3, 3]
        z_depth = local[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = local[..., :2] / z_depth[..., None]
        return plane * self.intrinsics[..., None, :2] + self.intrinsics[..., None, 2:], z_depth

    def rays(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Ray origins and unit directions through pixel centres, both `[..., H, W, 3]`, in the world."""
        x = (np.arange(width) + 0.5) / width
        y = (np.arange(height) + 0.5) / height
        grid = np.stack(np.meshgrid(x, y, indexing="xy"), -1)
        plane = (grid - self.intrinsics[..., None, None, 2:]) / self.intrinsics[..., None, None, :2]
        local = np.concatenate([plane, np.ones_like(plane[..., :1])], -1)
        world = np.einsum("...ij,...hwj->...hwi", self.c2w[..., :3, :3], local)
        directions = world / np.linalg.norm(world, axis=-1, keepdims=True)
        return np.broadcast_to(self.position[..., None, None, :], directions.shape), directions

    def turned(self, azimuth_deg: float) -> "Camera":
        """The cameras after turning the whole world about +Z, so that a camera at azimuth a comes to a + `azimuth_deg`."""
        return Camera(turn_about_z(azimuth_deg) @ self.c2w, self.intrinsics)


def turn_about_z(azimuth_deg: float) -> np.ndarray:
    """4x4 rotation about +Z that adds `azimuth_deg` to the azimuth of every point."""
    c, s = np.cos(np.radians(azimuth_deg)), np.sin(np.radians(azimuth_deg))
    matrix = np.eye(4)
    matrix[:2, :2] = [[c, -s], [s, c]]
    return matrix


def orbit(azimuth_deg, elevation_deg, radius, fov_deg) -> Camera:
    """Cameras on spheres about the origin, looking at it, with world +Z up in the image.

    Arguments broadcast to `[V]`; `fov_deg` is horizontal and vertical (square images).
    Raises ValueError at elevation +-90 deg, where the up direction is undefined.
    """
    azimuth, elevation, radius, fov = np.broadcast_arrays(
        np.radians(np.atleast_1d(np.asarray(azimuth_deg, float))),
        np.radians(np.asarray(elevation_deg, float)),
        np.asarray(radius, float),
        np.radians(np.asarray(fov_deg, float)),
    )
    if np.any(np.abs(np.cos(elevation)) < 1e-9):
        raise ValueError("elevation of +-90 degrees leaves the up direction undefined")
    outward = np.stack([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)], -1)
    right = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)], -1)
    forward = -outward
    c2w = np.zeros((*azimuth.shape, 4, 4))
    c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 2] = right, np.cross(forward, right), forward
    c2w[..., :3, 3] = outward * radius[..., None]
    c2w[..., 3, 3] = 1.0
    focal = 0.5 / np.tan(fov / 2)
    half = np.full_like(focal, 0.5)
    return Camera(c2w, np.stack([focal, focal, half, half], -1))


def blender_matrix(camera: Camera) -> np.ndarray:
    """`matrix_world` of Blender camera objects `[..., 4, 4]` (the only OpenCV -> Blender conversion)."""
    return camera.c2w @ OPENGL_FROM_OPENCV
