"""What a rig gives: the cameras of one object, what each view is for, and which light it is seen under."""

from dataclasses import dataclass

import numpy as np

from infra.errors import UserError
from rendering.cameras import Camera, orbit
from rendering.view_set import CONDITION, TARGET

# A cube of extent 1 has half-diagonal 0.866, but real objects rarely fill the corners of their box;
# 1.5 half-extents is the radius of the sphere that "a typical object" may reach.
TYPICAL_RADIUS_IN_EXTENTS = 0.75


@dataclass(frozen=True)
class RigConfig:
    """What the cameras depend on.

    Attributes:
        num_conditions: condition views beside the targets (rigs without random condition views ignore it).
        extent: longest side of the normalised object's box. Cameras do not move with it: it is checked against them.
        seed: changes every random draw.
    """

    num_conditions: int = 10
    extent: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class RigViews:
    """The cameras of one object, targets first.

    Attributes:
        name: of the rig.
        camera: `[V]` cameras.
        roles: `TARGET` or `CONDITION`, V of them.
        azimuth_deg, elevation_deg, radius: `[V]` spherical form of the positions, degrees and world units.
        light_sets: V numbers from 0; views of one number share one light. Empty when all views share it.
    """

    name: str
    camera: Camera
    roles: tuple[str, ...]
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    radius: np.ndarray
    light_sets: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.roles)

    @property
    def fov_deg(self) -> np.ndarray:
        """Horizontal field of view `[V]` in degrees."""
        return np.degrees(2 * np.arctan(0.5 / self.camera.intrinsics[:, 0]))

    @property
    def light_of_view(self) -> tuple[int, ...]:
        """Number of the light of each view."""
        return self.light_sets or (0,) * len(self)

    def select(self, indices) -> "RigViews":
        """The views at `indices`, in that order; lights keep their numbers."""
        rows = [int(index) for index in indices]
        return RigViews(
            self.name,
            self.camera[rows],
            tuple(self.roles[row] for row in rows),
            self.azimuth_deg[rows],
            self.elevation_deg[rows],
            self.radius[rows],
            tuple(self.light_of_view[row] for row in rows),
        )


def build(
    name: str,
    azimuth_deg,
    elevation_deg,
    radius,
    fov_deg,
    *,
    extent: float,
    num_targets: int,
    light_sets: tuple[int, ...] = (),
    may_crop: bool = False,
) -> RigViews:
    """Checked views from spherical positions; the arguments broadcast to `[V]`, the first `num_targets` are targets.

    Raises:
        UserError: a camera cuts through or (unless `may_crop`) crops a typical object of that extent.
    """
    azimuth, elevation, distance, fov = (
        np.array(values, float) for values in np.broadcast_arrays(azimuth_deg, elevation_deg, radius, fov_deg)
    )
    for one_radius, one_fov in sorted({(float(r), float(f)) for r, f in zip(distance, fov, strict=True)}):
        check_containment(extent, one_radius, one_fov, may_crop)
    roles = (TARGET,) * num_targets + (CONDITION,) * (len(azimuth) - num_targets)
    return RigViews(name, orbit(azimuth, elevation, distance, fov), roles, azimuth, elevation, distance, light_sets)


def check_containment(extent: float, radius: float, fov_deg: float, may_crop: bool = False) -> None:
    """Refuse cameras that cut through or crop a typical object (MVDiffusion++ §4.1/§5.1 read literally do: extent 2).

    Raises:
        UserError: the sphere about the origin that is seen whole is smaller than half of `extent` (allowed with
            `may_crop`), or the camera stands within what a typical object fills.
    """
    seen = radius * np.sin(np.radians(fov_deg) / 2)
    if (seen < extent / 2 and not may_crop) or radius <= extent * TYPICAL_RADIUS_IN_EXTENTS:
        raise UserError(
            f"a camera at distance {radius:g} with fov {fov_deg:g} deg sees a sphere of radius {seen:.3f} whole, "
            f"but an object of extent {extent:g} reaches at least {extent / 2:g} from the centre",
            f"use extent <= {2 * seen:.2f}, a larger distance or a wider fov",
        )
