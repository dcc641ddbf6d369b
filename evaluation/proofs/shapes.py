"""Shape figures of generated views: the hull of their silhouettes against the object's own surface, and against themselves.

They need the geometry libraries. Where those are missing (a machine with torch alone) the figure is null with the reason,
and running the same command where mvforge is installed fills it in from the saved pictures, without training again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation.proofs.data import ProofData
from rendering.cameras import orbit, turn_about_z
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_views import condition_views

POINTS = 5000


def chamfer(data: ProofData, uid: str, config: Config, made: np.ndarray, reference: int = 0) -> float:
    """Mean of both mean distances between the hull of `made` (canonical order) and the object's surface, world units.

    Raises HullError-like exceptions of `evaluation.hull` when there is no hull, ImportError without the libraries.
    """
    import trimesh
    from scipy.spatial import cKDTree

    mesh = _hull(config, made)
    points, _ = trimesh.sample.sample_surface(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), POINTS, seed=0)
    views = data.views(uid)
    turn = turn_about_z(-float(views.azimuth_deg[condition_views(views)[reference]]))[:3, :3]
    truth = data.surface_of(uid) @ turn.T
    there, back = cKDTree(points).query(truth)[0], cKDTree(truth).query(points)[0]
    return float((there.mean() + back.mean()) / 2)


def consistency(config: Config, made: np.ndarray) -> float:
    """Mean IoU of every silhouette with that of the views' common hull (evaluation specification, section 5)."""
    from evaluation.metrics.consistency import silhouette_iou

    return float(np.mean(silhouette_iou(_hull(config, made), made, canonical_camera(config))))


def canonical_camera(config: Config):  # type: ignore[no-untyped-def]
    """Cameras of the targets in canonical order; the reference has azimuth 0."""
    wanted = np.arange(config.num_targets)
    elevation = np.asarray(config.elevations_deg, float)[wanted // config.num_azimuths]
    return orbit((wanted % config.num_azimuths) * (360.0 / config.num_azimuths), elevation, config.radius, config.fov_deg)


def known(figure: Callable[[], float]) -> tuple[float | None, str]:
    """The figure, or None and why there is none."""
    try:
        return figure(), ""
    except ImportError as error:
        return None, f"not measured here: {error}"
    except Exception as error:  # noqa: BLE001  one odd object must not cost the others their figures
        return None, f"{type(error).__name__}: {error}"


def reasons(found: list[tuple[float | None, str]]) -> dict[str, Any]:
    """Mean of the known figures, how many are missing, and why."""
    values = [value for value, _ in found if value is not None]
    why = sorted({reason for value, reason in found if value is None})
    return {"mean": float(np.mean(values)) if values else None, "known": len(values), "missing": len(found) - len(values), "reasons": why}


def _hull(config: Config, made: np.ndarray):  # type: ignore[no-untyped-def]
    from evaluation.hull import HullSettings, visual_hull

    return visual_hull(made, canonical_camera(config), HullSettings(resolution=64))[0]
