"""Finished builds of a store -> one `ProofData` file; the only part of the proofs that needs the store's format."""

import numpy as np
import trimesh

from evaluation.proofs.data import ProofData
from infra.errors import UserError
from infra.seeds import seed_for
from infra.storage import Location
from rendering.view_set import CONDITION, ViewSet
from rendering.views import ViewStore
from training.data import kept_uids

SURFACE_POINTS = 2000


def collect(objects: Location, views: Location, kept: Location, fov_deg: float) -> ProofData:
    """Every kept object of a catalog, render and curate build.

    Args:
        objects: output of the catalog step, for the families.

    Raises:
        UserError: nothing is kept, or objects differ in their number of views.
    """
    splits = {uid: split for split, uids in kept_uids(kept).items() for uid in uids}
    table = (objects / "objects.parquet").read_table(columns=["uid", "category"])
    families = dict(zip(table["uid"].to_pylist(), table["category"].to_pylist(), strict=True))
    store = ViewStore(views)
    found = [store.read(uid) for uid in sorted(splits) if uid in store]
    if not found:
        raise UserError("no object is left to prove anything with", "see rejected.parquet of the curate step")
    roles = {tuple(item.roles) for item in found}
    if len(roles) > 1:
        raise UserError("objects differ in their views", "render all of them with one rig")
    return ProofData(
        uids=[item.uid for item in found],
        families=[families[item.uid] or "" for item in found],
        splits=[splits[item.uid] for item in found],
        pictures=np.stack([item.rgba for item in found]),
        is_condition=np.array([role == CONDITION for role in found[0].roles]),
        azimuth_deg=np.stack([item.azimuth_deg for item in found]),
        elevation_deg=np.stack([item.elevation_deg for item in found]),
        radius=np.stack([item.radius for item in found]),
        fov_deg=fov_deg,
        surface=np.stack([_surface_points(item) for item in found]),
        encoded={},
    )


def _surface_points(views: ViewSet) -> np.ndarray:
    """float32 `[P, 3]` spread over the object's own triangles by area; NaN where no mesh is kept (training objects)."""
    if views.mesh is None:
        return np.full((SURFACE_POINTS, 3), np.nan, np.float32)
    mesh = trimesh.Trimesh(views.mesh.vertices, views.mesh.faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, SURFACE_POINTS, seed=seed_for(views.uid, "surface") % (1 << 32))
    return np.asarray(points, np.float32)
