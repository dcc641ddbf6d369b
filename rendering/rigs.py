"""Rigs: named sets of cameras around a normalised object. Seeded by uid, so never dependent on order or worker."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.cameras import Camera, orbit
from rendering.views import CONDITION, TARGET

# A cube of extent 1 has half-diagonal 0.866, but real objects rarely fill the corners of their box;
# 1.5 half-extents is the radius of the sphere that "a typical object" may reach.
TYPICAL_RADIUS_IN_EXTENTS = 0.75


@dataclass(frozen=True)
class RigConfig:
    """What the cameras depend on.

    Attributes:
        num_conditions: condition views beside the targets (rigs without condition views ignore it).
        extent: longest side of the normalised object's box.
        seed: changes every random draw.
    """

    num_conditions: int = 10
    extent: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class RigViews:
    """The cameras of one object: `camera` `[V]`, `roles` V strings, spherical form `[V]` in degrees and world units."""

    name: str
    camera: Camera
    roles: tuple[str, ...]
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    radius: np.ndarray

    def __len__(self) -> int:
        return len(self.roles)


def mvdiffusionpp(uid: str, config: RigConfig) -> RigViews:
    """32 targets, elevation-major (index 8 e + a), then condition views on the same eight azimuths."""
    # MVDiffusion++ §4.1: azimuths every 45 deg, elevations every 30 deg in [-30, 60], fov 60; §5.1: distance 1.5.
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid([-30.0, 0.0, 30.0, 60.0], np.arange(8) * 45.0, indexing="ij"))
    # MVDiffusion++ §5.1: conditions on the 8 azimuths, elevation U[-10, 45] deg, distance U[1.5, 2.2].
    rng, count = rng_for(config.seed, uid, "mvdiffusionpp.conditions"), config.num_conditions
    draws = rng.random((count, 3))  # one row per view: more condition views never change the earlier ones
    return _views(
        "mvdiffusionpp",
        azimuth_deg=np.concatenate([azimuth, np.floor(draws[:, 0] * 8) * 45.0]),
        elevation_deg=np.concatenate([elevation, -10.0 + 55.0 * draws[:, 1]]),
        radius=np.concatenate([np.full(32, 1.5), 1.5 + 0.7 * draws[:, 2]]),
        fov_deg=60.0,
        extent=config.extent,
        num_targets=32,
    )


def syncdreamer16(uid: str, config: RigConfig) -> RigViews:
    """The 16 evaluation views of SyncDreamer: every 22.5 deg at elevation 30, distance 1.5, 35 mm lens on a 32 mm sensor."""
    fov_deg = float(np.degrees(2 * np.arctan(16.0 / 35.0)))
    return _views(
        "syncdreamer16",
        azimuth_deg=np.arange(16) * 22.5,
        elevation_deg=np.full(16, 30.0),
        radius=np.full(16, 1.5),
        fov_deg=fov_deg,
        extent=config.extent,
        num_targets=16,
    )


Rig = Callable[[str, RigConfig], RigViews]
RIGS: dict[str, Rig] = {"mvdiffusionpp": mvdiffusionpp, "syncdreamer16": syncdreamer16}


def rig_named(name: str) -> Rig:
    """The rig of that name. Raises UserError with the nearest name for an unknown one."""
    if name in RIGS:
        return RIGS[name]
    near = difflib.get_close_matches(name, RIGS, 1, 0.3)
    raise UserError(f"unknown rig '{name}'", f"did you mean '{near[0]}'?" if near else f"choose one of: {', '.join(sorted(RIGS))}")


def check_containment(extent: float, radius: float, fov_deg: float) -> None:
    """Refuse cameras that cut through or crop a typical object (MVDiffusion++ §4.1/§5.1 read literally do: extent 2).

    Raises:
        UserError: the sphere about the origin that is seen whole is smaller than half of `extent`.
    """
    seen = radius * np.sin(np.radians(fov_deg) / 2)
    if seen < extent / 2 or radius <= extent * TYPICAL_RADIUS_IN_EXTENTS:
        raise UserError(
            f"a camera at distance {radius:g} with fov {fov_deg:g} deg sees a sphere of radius {seen:.3f} whole, "
            f"but an object of extent {extent:g} reaches at least {extent / 2:g} from the centre",
            f"use extent <= {2 * seen:.2f}, a larger distance or a wider fov",
        )


def _views(name: str, azimuth_deg, elevation_deg, radius, fov_deg: float, extent: float, num_targets: int) -> RigViews:
    check_containment(extent, float(radius.min()), fov_deg)
    roles = (TARGET,) * num_targets + (CONDITION,) * (len(azimuth_deg) - num_targets)
    return RigViews(name, orbit(azimuth_deg, elevation_deg, radius, fov_deg), roles, azimuth_deg, elevation_deg, radius)
