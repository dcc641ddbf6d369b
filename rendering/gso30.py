"""GSO-30: the thirty Google Scanned Objects of SyncDreamer's evaluation, and the two rigs of MVDiffusion++'s tables on them.

Only names, angles and cameras are here; the objects are fetched by whoever evaluates (`mvforge protocols show`).
Objects are recognised by their name at the head of a uid: `shoe`, or `shoe-` and the eight hex digits that a local source adds.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np

from infra.seeds import rng_for
from rendering.rig_views import RigConfig, RigViews, build

# The list as SyncDreamer's followers repeat it (HarmonyView's README and others); `stucking_cups` is spelt so in the data.
NAMES = (
    "alarm", "backpack", "bell", "blocks", "chicken", "cream", "elephant", "grandfather", "grandmother", "hat",
    "leather", "lion", "lunch_bag", "mario", "oil", "school_bus1", "school_bus2", "shoe", "shoe1", "shoe2",
    "shoe3", "soap", "sofa", "sorter", "sorting_board", "stucking_cups", "teapot", "toaster", "train", "turtle",
)  # fmt: skip

# SyncDreamer, eval_mesh.py: the truth is turned by minus this angle about the vertical before anything is compared, so its
# input camera (azimuth 0 on +X there) stands at plus this angle about the untouched mesh. Objects not named: 0.
ANGLES_DEG = {
    **dict.fromkeys(
        ("blocks", "alarm", "backpack", "chicken", "soap", "grandfather", "grandmother", "lion", "lunch_bag", "mario", "oil"), 270.0
    ),
    "sofa": -90.0,
    **dict.fromkeys(("elephant", "school_bus1"), 180.0),
    **dict.fromkeys(("school_bus2", "shoe", "train", "turtle"), 225.0),
    "sorter": 112.5,
}
# Its azimuth 0 is a camera on +X, ours one on -Y.
OUR_AZIMUTH_OF_THEIR_ZERO_DEG = 90.0

FOV_DEG = float(np.degrees(2 * np.arctan(16.0 / 35.0)))  # blender_script.py: 35 mm lens, 32 mm sensor; 49.13 deg
VIEWS_FILE = Path(__file__).with_name("gso30_sparse_views.json")
SPARSE_VIEWS = 10


def object_name(uid: str) -> str | None:
    """The name in the list that a uid stands for, or None."""
    stem = re.sub(r"-[0-9a-f]{8}$", "", uid)
    return stem if stem in NAMES else None


def input_azimuth_deg(uid: str) -> float:
    """Our azimuth, about the untouched Z-up mesh, of the view that SyncDreamer gives as input; 0 for objects not in the list."""
    name = object_name(uid)
    return 0.0 if name is None else (ANGLES_DEG.get(name, 0.0) + OUR_AZIMUTH_OF_THEIR_ZERO_DEG) % 360.0


def gso30(uid: str, config: RigConfig) -> RigViews:
    """SyncDreamer's 16 evaluation views, numbered from the input view as there, and the input view again as the condition."""
    # SyncDreamer, camera-16.pkl: every 22.5 deg at elevation 30, distance 1.5; the input is view 0 (its issues 46 and 51).
    azimuth = input_azimuth_deg(uid) + np.append(np.arange(16) * 22.5, 0.0)
    return build("gso30", azimuth % 360.0, 30.0, 1.5, FOV_DEG, extent=config.extent, num_targets=16)


def gso30_sparse(uid: str, config: RigConfig) -> RigViews:
    """MVDiffusion++'s sparse-view set: 32 targets counted from the first of ten frozen condition views."""
    # MVDiffusion++ §5.2: conditions anywhere around, elevation [-10, 45]; the truth is rendered anew in the frame of the first.
    views = np.array(sparse_views(uid, config.seed))
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid([-30.0, 0.0, 30.0, 60.0], np.arange(8) * 45.0, indexing="ij"))
    return build(
        "gso30_sparse",
        np.concatenate([azimuth + views[0, 0], views[:, 0]]) % 360.0,
        np.concatenate([elevation, views[:, 1]]),
        np.concatenate([np.full(32, 1.5), views[:, 2]]),
        60.0,
        extent=config.extent,
        num_targets=32,
    )


def sparse_views(uid: str, seed: int = 0) -> list[list[float]]:
    """Ten condition views `[azimuth_deg, elevation_deg, radius]`; the first k are those of the k-view experiment.

    Objects of the list have theirs in `gso30_sparse_views.json`, whatever the seed; others draw them from (seed, uid).
    """
    name = object_name(uid)
    return _frozen()[name] if name is not None else drawn_views(seed, uid)


def drawn_views(seed: int, name: str) -> list[list[float]]:
    """What `gso30_sparse_views.json` was made with (seed 0): azimuth U[0, 360), elevation U[-10, 45], distance U[1.5, 2.2]."""
    # The distance is not given for the test set; that of the training set (§5.1) is taken.
    draws = rng_for(seed, name, "mvdiffusionpp-sparse").random((SPARSE_VIEWS, 3))
    return [[round(float(v), 4) for v in row] for row in draws * [360.0, 55.0, 0.7] + [0.0, -10.0, 1.5]]


@cache
def _frozen() -> dict[str, list[list[float]]]:
    return json.loads(VIEWS_FILE.read_text())["views"]
