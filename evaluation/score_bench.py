"""How scoring grows with workers: made-up objects, scored on the cluster that is connected with one number of workers after another."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation import score
from evaluation.conventions.example import bent, example_mesh, pictures_of
from evaluation.mesh_io import glb_bytes
from evaluation.score import ScoreConfig
from infra.job import Job, Resources
from infra.storage import Location
from rendering.cameras import orbit
from rendering.view_set import CONDITION, TARGET, Mesh, ViewSet
from rendering.views import to_table, write_shards


def made_up(place: Location, objects: int, views: int, size_px: int) -> dict[str, Location]:
    """Truth, generated views and meshes of so many procedural objects below `place`, as the steps leave them."""
    places = {name: place / name for name in ("reference", "generated", "meshes")}
    pairs = []
    with tempfile.TemporaryDirectory(prefix="mvforge-bench-") as folder:
        for index in range(objects):
            mesh = example_mesh(Path(folder), index)
            pairs.append((_view_set(f"bench-{index:03d}", mesh, views, size_px, conditions=1), bent(mesh)))
    write_shards((to_table(truth) for truth, _ in pairs), places["reference"])
    generated = []
    for truth, changed in pairs:
        made = _view_set(truth.uid, changed, views, size_px, conditions=0)
        generated.append(replace(made, mesh=None, facts={"reference_azimuth_deg": 0.0, "conditions": [views]}))
        (places["meshes"] / f"{truth.uid}.glb").write_bytes(glb_bytes(changed))
    write_shards(map(to_table, generated), places["generated"])
    for name in ("reference", "generated", "meshes"):
        rows = [{"uid": truth.uid, "status": "ok", "reason": "", "detail": "", "category": ""} for truth, _ in pairs]
        (places[name] / "ledger.parquet").write_table(pa.Table.from_pylist(rows))
    (places["generated"] / "model.json").write_json({"uri": "bench"})
    return places


def _view_set(uid: str, mesh: Mesh, views: int, size_px: int, conditions: int) -> ViewSet:
    rings = max(1, views // 8)
    azimuth = np.append(np.arange(views) * 360.0 * rings / views, np.zeros(conditions))
    elevation = np.append(np.linspace(-30, 60, rings)[np.arange(views) * rings // views], np.full(conditions, 10.0))
    camera = orbit(azimuth, elevation, np.full(len(azimuth), 1.5), np.full(len(azimuth), 60.0))
    roles = (TARGET,) * views + (CONDITION,) * conditions
    radius = np.full(len(azimuth), 1.5)
    return ViewSet(uid, pictures_of(mesh, camera, size_px), camera, roles, azimuth, elevation, radius, "bench", "raycast", mesh=mesh)


def bench(
    objects: int, views: int, size_px: int, workers: list[int], rounds: int = 1, config: ScoreConfig | None = None
) -> list[dict[str, Any]]:
    """Seconds to score with each number of workers, in turns, the quickest of `rounds`; and the gain over the first number.

    A first round with one object each warms the workers up (imports take longer than an object), outside of what is measured.
    """
    config = config or ScoreConfig()
    with tempfile.TemporaryDirectory(prefix="mvforge-bench-") as folder:
        place = Location(folder)
        small = made_up(place / "warm", max(workers), 8, 32)
        places = made_up(place / "objects", objects, views, size_px)
        seconds: dict[int, float] = {}
        for count in sorted(workers, reverse=True):
            _seconds(small, place, count, ScoreConfig(points=500, volume_resolution=8, truth_hull_resolution=16, consistency_resolution=16))
        for _ in range(rounds):
            for count in workers:
                seconds[count] = min(_seconds(places, place, count, config), seconds.get(count, np.inf))
    base = seconds[workers[0]]
    return [
        {"workers": n, "seconds": seconds[n], "seconds_per_object": seconds[n] / objects, "speedup": base / seconds[n]} for n in workers
    ]


def _seconds(places: dict[str, Location], place: Location, workers: int, config: ScoreConfig) -> float:
    out = place / "scores"
    started = time.perf_counter()
    score.run(config, **places, model=None, out=out, job=Job(Resources(workers=workers)))
    took = time.perf_counter() - started
    out.delete()
    return took
