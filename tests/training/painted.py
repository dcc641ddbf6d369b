"""Painted views: objects for training tests that need no renderer. A ball with coloured sectors, seen from any side."""

import numpy as np
import pyarrow as pa

from infra.storage import Location
from rendering.cameras import orbit
from rendering.view_set import CONDITION, TARGET, ViewSet
from rendering.views import to_table, write_shards

ELEVATIONS_DEG = (-30.0, 0.0, 30.0, 60.0)


def painted_views(uid: str, size: int = 32, num_conditions: int = 4, seed: int = 0) -> ViewSet:
    """32 targets and `num_conditions` conditions of a ball whose colour depends smoothly on the direction of its surface."""
    rng = np.random.default_rng([seed, *uid.encode()])
    azimuth = np.concatenate([np.tile(np.arange(8) * 45.0, 4), rng.integers(8, size=num_conditions) * 45.0])
    elevation = np.concatenate([np.repeat(ELEVATIONS_DEG, 8), rng.uniform(-10, 45, num_conditions)])
    radius = np.concatenate([np.full(32, 1.5), rng.uniform(1.5, 2.2, num_conditions)])
    camera = orbit(azimuth, elevation, radius, 60.0)
    ball, waves = rng.uniform(0.44, 0.5), rng.normal(size=(3, 3)) * 0.8
    phase = rng.uniform(0, 6.28, 3)
    origin, direction = camera.rays(size, size)
    along = -(origin * direction).sum(-1)
    inside = ball**2 - (origin**2).sum(-1) + along**2
    surface = (origin + (along - np.sqrt(np.maximum(inside, 0)))[..., None] * direction) / ball
    colour = 0.5 + 0.4 * np.sin(surface @ waves.T + phase)
    rgba = np.concatenate([colour, np.ones_like(colour[..., :1])], -1) * (inside > 0)[..., None]
    return ViewSet(
        uid=uid,
        rgba=np.round(rgba * 255).astype(np.uint8),
        camera=camera,
        roles=(TARGET,) * 32 + (CONDITION,) * num_conditions,
        azimuth_deg=azimuth,
        elevation_deg=elevation,
        radius=radius,
        rig="mvdiffusionpp",
        origin="painted",
    )


def write_painted(folder: Location, train: int, val: int, size: int = 32) -> tuple[Location, Location]:
    """A view store and a kept list of painted objects `object0`, `object1`, ...; returns (views, kept)."""
    uids = [f"object{i}" for i in range(train + val)]
    write_shards([to_table(painted_views(uid, size)) for uid in uids], folder / "views")
    rows = [{"uid": uid, "split": "train" if n < train else "val"} for n, uid in enumerate(uids)]
    (folder / "kept" / "kept.parquet").write_table(pa.Table.from_pylist(rows))
    return folder / "views", folder / "kept"
