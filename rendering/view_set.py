"""Views of one object: what the renderer makes, what a model generates, what everything between them works on. NumPy only."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rendering.cameras import Camera, turn_about_z

TARGET, CONDITION = "target", "condition"

# What may stand beside the pictures, under the names of the attributes.
PASSES = ("depth", "normal", "albedo")


@dataclass(frozen=True)
class Mesh:
    """Triangles in the frame of the views: `vertices` float32 `[N, 3]`, `faces` int32 `[F, 3]`."""

    vertices: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class ViewSet:
    """Rendered or generated views of one object.

    Attributes:
        rgba: uint8 `[V, H, W, 4]`, sRGB, straight alpha.
        camera: `[V]` cameras.
        roles: `TARGET` or `CONDITION` per view.
        azimuth_deg, elevation_deg, radius: float64 `[V]`, the spherical form of the camera positions.
        rig: name of the rig the cameras come from.
        origin: who made the pictures, for example `blender` or `models:/mvforge/3`.
        mesh: the object itself in the same frame, where it is known.
        facts: JSON-able extras (normalisation, sampler, reference azimuth, ...).
        depth: float32 `[V, H, W]`, planar z-depth in world units, 0 where nothing; None when absent or not asked for.
        normal: float32 `[V, H, W, 3]`, unit vectors in OpenCV camera axes, zero where nothing; or None.
        albedo: uint8 `[V, H, W, 3]`, sRGB base colour, zero where nothing; or None.
    """

    uid: str
    rgba: np.ndarray
    camera: Camera
    roles: tuple[str, ...]
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    radius: np.ndarray
    rig: str
    origin: str
    mesh: Mesh | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    depth: np.ndarray | None = None
    normal: np.ndarray | None = None
    albedo: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def mask(self) -> np.ndarray:
        """Where the object is: bool `[V, H, W]`, alpha of at least one half."""
        return self.rgba[..., 3] >= 128

    def select(self, indices: Iterable[int]) -> "ViewSet":
        """The views at `indices`, in that order."""
        rows = np.asarray(list(indices), dtype=int)
        return replace(
            self,
            rgba=self.rgba[rows],
            camera=self.camera[rows],
            roles=tuple(self.roles[i] for i in rows),
            azimuth_deg=self.azimuth_deg[rows],
            elevation_deg=self.elevation_deg[rows],
            radius=self.radius[rows],
            **{name: values[rows] for name in PASSES if (values := getattr(self, name)) is not None},
        )

    def with_role(self, role: str) -> "ViewSet":
        """Only the targets, or only the condition views."""
        return self.select(i for i, r in enumerate(self.roles) if r == role)

    def turned(self, azimuth_deg: float) -> "ViewSet":
        """The same pictures in a world turned about +Z: every azimuth grows by `azimuth_deg`, the mesh turns along.

        Depths and normals are in the frame of their camera, which turns too, so they stay as they are.
        """
        mesh = self.mesh
        if mesh is not None:
            rotation = turn_about_z(azimuth_deg)[:3, :3]
            mesh = Mesh((mesh.vertices @ rotation.T).astype(np.float32), mesh.faces)
        azimuth = np.mod(self.azimuth_deg + azimuth_deg, 360.0)
        return replace(self, camera=self.camera.turned(azimuth_deg), azimuth_deg=azimuth, mesh=mesh)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Straight-alpha uint8 `[..., 4]` composited on white -> float32 RGB `[..., 3]` in [0, 1]."""
    values = rgba.astype(np.float32) / 255.0
    alpha = values[..., 3:]
    return values[..., :3] * alpha + (1.0 - alpha)
