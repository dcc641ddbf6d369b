"""What decoding, judging, meshing and scoring cost on this machine, on made-up objects and without Ray."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evaluation.meshing.pipeline import reconstruct
from evaluation.meshing.settings import STAGES, ReconstructConfig
from evaluation.score import ScoreConfig
from evaluation.score_bench import made_up
from evaluation.score_object import ScoreInputs, score_object
from infra.storage import Location
from pipelines.recipes import by_name
from rendering.curate import CurateConfig, look_at
from rendering.view_set import TARGET
from rendering.views import ViewStore, from_row

Repeats = dict[str, list[float]]
VIEWS, SIZE_PX = 8, 64
MESH_VIEWS, MESH_PX = 32, 128
REFINE_STEPS = (20, 60)


def measure_pictures(repeats: int) -> tuple[Repeats, str]:
    """`load.megapixels` and `curate.s`: raycast pictures from a view store."""
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
        views = made_up(Location(folder), 1, MESH_VIEWS, MESH_PX)["reference"]
        store = ViewStore(views)
        uid = store.uids()[0]
        row = store.row(uid)
        megapixels = len(row["images"]) * MESH_PX**2 / 1e6
        loads = [_cpu_s(lambda: from_row(row)) for _ in range(repeats)]
        looks = [_cpu_s(lambda: look_at([uid], views, CurateConfig())) for _ in range(repeats)]
    note = f"one raycast object, {MESH_VIEWS} views of {MESH_PX} px"
    return {"load.megapixels": [megapixels / s for s in loads], "curate.s": [s / megapixels for s in looks]}, note


def measure_reconstruct(repeats: int) -> tuple[Repeats, str]:
    """`reconstruct.s_32`, `reconstruct.s_64`, and `reconstruct.refine_s` from two lengths of the fit."""
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
        store = ViewStore(made_up(Location(folder), 1, MESH_VIEWS, MESH_PX)["reference"])
        views = store.read(store.uids()[0]).with_role(TARGET)
    fast = ReconstructConfig()

    def seconds(config: ReconstructConfig) -> float:
        return _cpu_s(lambda: reconstruct(views.rgba, views.camera, config, device="cpu").glb())

    seconds(fast)  # imports and lookups outside the clock
    found: Repeats = {f"reconstruct.s_{cells}": [seconds(replace(fast, resolution=cells)) for _ in range(repeats)] for cells in (32, 64)}
    coarse = views.rgba[:, ::2, ::2]
    found["reconstruct.s_64_px64"] = [
        _cpu_s(lambda: reconstruct(coarse, views.camera, replace(fast, resolution=64), device="cpu").glb()) for _ in range(repeats)
    ]
    short, long = (replace(fast, stages=STAGES, refine_steps=steps) for steps in REFINE_STEPS)
    seconds(short)  # what only refining imports and sets up, which would make the first short one as long as a long one
    found["reconstruct.refine_s"] = [
        max(0.0, (seconds(long) - seconds(short)) / (long.refine_steps - short.refine_steps)) for _ in range(repeats)
    ]
    return found, f"one raycast object, {MESH_VIEWS} views of {MESH_PX} px"


def measure_score(repeats: int) -> tuple[Repeats, str]:
    """`score.s` and `score.s_20k`: views and mesh of one object at the default protocol, and at that of the recipe `tiny`."""
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
        places = made_up(Location(folder), 1, VIEWS, SIZE_PX)
        uid = ViewStore(places["generated"]).uids()[0]

        def seconds(config: ScoreConfig) -> list[float]:
            protocol, hull = config.resolved(), config.truth_hull_resolution
            inputs = ScoreInputs(places["reference"], places["generated"], places["meshes"], {}, protocol, hull)
            score_object(uid, inputs=inputs)  # imports outside the clock
            return [_cpu_s(lambda: score_object(uid, inputs=inputs)) for _ in range(repeats)]

        found = {"score.s": seconds(ScoreConfig()), "score.s_20k": seconds(by_name("tiny").score)}
    return found, f"one object, {VIEWS} views of {SIZE_PX} px"


def _cpu_s(work: Callable[[], Any]) -> float:
    """Processor seconds of this process, which other load on the machine does not lengthen as it does the clock on the wall."""
    started = time.process_time()
    work()
    return time.process_time() - started
