"""Rigs by name: published camera sets around a normalised object. Seeded by uid, so never dependent on order or worker.

Distances hold for an object whose longest side is 1 (`extent`). Where a paper's own scale would crop the object, the
numbers are expressed for ours, and the line says how; docs/conventions.md has the table.
"""

import difflib
from collections.abc import Callable

import numpy as np

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.gso30 import gso30, gso30_sparse
from rendering.rig_file import FILE_PREFIX, custom_rig, inline_text
from rendering.rig_views import TYPICAL_RADIUS_IN_EXTENTS, RigConfig, RigViews, build, check_containment

__all__ = ["RIGS", "Rig", "RigConfig", "RigViews", "check_containment", "rig_identity", "rig_named"]

Rig = Callable[[str, RigConfig], RigViews]


def mvdiffusionpp(uid: str, config: RigConfig) -> RigViews:
    """32 targets, elevation-major (index 8 e + a), then condition views on the same eight azimuths."""
    # MVDiffusion++ §4.1: azimuths every 45 deg, elevations every 30 deg in [-30, 60], fov 60; §5.1: distance 1.5.
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid([-30.0, 0.0, 30.0, 60.0], np.arange(8) * 45.0, indexing="ij"))
    # MVDiffusion++ §5.1: conditions on the 8 azimuths, elevation U[-10, 45] deg, distance U[1.5, 2.2].
    rng, count = rng_for(config.seed, uid, "mvdiffusionpp.conditions"), config.num_conditions
    draws = rng.random((count, 3))  # one row per view: more condition views never change the earlier ones
    return build(
        "mvdiffusionpp",
        np.concatenate([azimuth, np.floor(draws[:, 0] * 8) * 45.0]),
        np.concatenate([elevation, -10.0 + 55.0 * draws[:, 1]]),
        np.concatenate([np.full(32, 1.5), 1.5 + 0.7 * draws[:, 2]]),
        60.0,
        extent=config.extent,
        num_targets=32,
    )


def mvdream(uid: str, config: RigConfig) -> RigViews:
    """Two sets of 32 azimuths; fov, elevation, distance and light are drawn once per set (index 32 set + azimuth)."""
    # MVDream §4.1: 32 uniform azimuths from 0, fov U[15, 60] deg, elevation U[0, 30] deg, two independent draws.
    draws = rng_for(config.seed, uid, "mvdream.sets").random((2, 3))
    fov = 15.0 + 45.0 * draws[:, 0]
    elevation = 30.0 * draws[:, 1]
    # MVDream §4.1: distance = object size x NDC focal length x U[0.9, 1.1]. Its object size 0.5 (half the box) crops
    # every object that fills the box; the radius of a typical object is taken instead, 1.5 times as far.
    distance = TYPICAL_RADIUS_IN_EXTENTS / np.tan(np.radians(fov) / 2) * (0.9 + 0.2 * draws[:, 2])
    return build(
        "mvdream",
        np.tile(np.arange(32) * 11.25, 2),
        np.repeat(elevation, 32),
        np.repeat(distance, 32),
        np.repeat(fov, 32),
        extent=config.extent,
        num_targets=64,
        light_sets=(0,) * 32 + (1,) * 32,
    )


def instant3d(uid: str, config: RigConfig) -> RigViews:
    """The four views that the Instant3D generator makes: elevation 20, azimuths 45, 135, 225, 315."""
    # Instant3D, stage 1: four views 90 deg apart at elevation 20. Distance 2.7 with fov 50 is that of GRM's public copy of
    # the sampler, for objects in [-1, 1]; 1.35 for ours.
    return build("instant3d", [45.0, 135.0, 225.0, 315.0], 20.0, 1.35, 50.0, extent=config.extent, num_targets=4)


def gso64(uid: str, config: RigConfig) -> RigViews:
    """The 64 views of the Instant3D protocol on GSO: 60 to score, elevation-major, then the 4 input views as conditions."""
    # Instant3D's GSO protocol as GS-LRM and MeshLRM repeat it: elevations 0, 20, 40, 60 x 16 azimuths from 0; inputs are
    # elevation 20 at 45, 135, 225, 315. Fov and distance are not given; those of `instant3d` are taken.
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid([0.0, 20.0, 40.0, 60.0], np.arange(16) * 22.5, indexing="ij"))
    given = (elevation == 20.0) & np.isin(azimuth, [45.0, 135.0, 225.0, 315.0])
    order = np.argsort(given, kind="stable")
    return build("gso64", azimuth[order], elevation[order], 1.35, 50.0, extent=config.extent, num_targets=60)


def dmv3d(uid: str, config: RigConfig) -> RigViews:
    """32 random views on a band of the sphere, as the LRM family (LRM, Instant3D stage 2, DMV3D) trains on."""
    # DMV3D, experimental settings: 32 random viewpoints, fov 50. The band and the distances are those of its siblings: LRM §4.1 height
    # -0.75 to 1.6, GS-LRM distance U[1.5, 2.8]. Their objects fill [-1, 1], which a camera at 1.5 with fov 50 crops;
    # the distances are kept and the object is ours (longest side 1).
    draws = rng_for(config.seed, uid, "dmv3d.views").random((32, 3))
    low, high = np.sin(np.radians([-20.0, 50.0]))
    return build(
        "dmv3d",
        360.0 * draws[:, 0],
        np.degrees(np.arcsin(low + (high - low) * draws[:, 1])),  # uniform on the sphere between the two elevations
        1.5 + 1.3 * draws[:, 2],
        50.0,
        extent=config.extent,
        num_targets=32,
    )


def syncdreamer16(uid: str, config: RigConfig) -> RigViews:
    """The 16 evaluation views of SyncDreamer: every 22.5 deg at elevation 30, distance 1.5, 35 mm lens on a 32 mm sensor."""
    # SyncDreamer, camera-16.pkl and blender_script.py: f = 280 px at 256 px.
    fov_deg = float(np.degrees(2 * np.arctan(16.0 / 35.0)))
    return build("syncdreamer16", np.arange(16) * 22.5, 30.0, 1.5, fov_deg, extent=config.extent, num_targets=16)


def zero123pp(uid: str, config: RigConfig) -> RigViews:
    """The six views of Zero123++ v1.2, then condition views to whose azimuth the six are relative."""
    # Zero123++ v1.2 (its repository, issues 68, 73, 98): azimuths 30 + 60 k relative to the input, elevations 20 and -10
    # in turn, fov 30. v1.1 had 30 and -20, fov 49.13: write it as a rig file.
    # Its distance is 0.5 / tan(15 deg) for objects in a sphere of radius 0.5: a typical object's radius instead, as in `mvdream`.
    radius = TYPICAL_RADIUS_IN_EXTENTS / np.tan(np.radians(15.0))
    # Inputs at 0, 120 or 240 deg see the same six relative azimuths with the same elevations (a roll by two).
    # Their elevation is free in the paper; the range of MVDiffusion++ §5.1 is taken.
    draws = rng_for(config.seed, uid, "zero123pp.conditions").random((config.num_conditions, 2))
    return build(
        "zero123pp",
        np.concatenate([30.0 + 60.0 * np.arange(6), np.floor(draws[:, 0] * 3) * 120.0]),
        np.concatenate([np.tile([20.0, -10.0], 3), -10.0 + 55.0 * draws[:, 1]]),
        radius,
        30.0,
        extent=config.extent,
        num_targets=6,
    )


RIGS: dict[str, Rig] = {
    rig.__name__: rig for rig in (mvdiffusionpp, mvdream, instant3d, gso64, dmv3d, syncdreamer16, zero123pp, gso30, gso30_sparse)
}


def rig_named(name: str) -> Rig:
    """The rig of that name, or of that file (`file:/path/rig.json`), or of that inline JSON (`{...}`).

    Raises:
        UserError: an unknown name (with the nearest), or a file that is missing or wrong.
    """
    if name in RIGS:
        return RIGS[name]
    if name.startswith((FILE_PREFIX, "{")):
        return custom_rig(inline_text(name), taken=RIGS)
    near = difflib.get_close_matches(name, RIGS, 1, 0.3)
    known = f"choose one of: {', '.join(sorted(RIGS))}, or {FILE_PREFIX}PATH for your own"
    raise UserError(f"unknown rig '{name}'", f"did you mean '{near[0]}'? Or {known}" if near else known)


def rig_identity(name: str) -> str:
    """The text that stands for a rig everywhere after the border: its name, or the content of its file as one line.

    A changed rig file is thereby another rig, and workers on other nodes need no file. Raises UserError as `rig_named`.
    """
    rig_named(name)
    return inline_text(name) if name.startswith((FILE_PREFIX, "{")) else name
