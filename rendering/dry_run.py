"""The render step with a stand-in for Blender: what catalog rows, actors, pieces, packing and ledger cost by themselves."""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from infra.job import Job, Resources
from infra.storage import Location
from rendering import render
from rendering.blender import BlenderLimits, Rendered, RenderFailure, RenderRequest
from rendering.view_set import ViewSet

CONFIG = render.RenderConfig(rig="syncdreamer16", resolution=8, samples=1, denoise="none", mesh="none")
FAILS_EVERY = 97
ROWS_AT_ONCE = 1000
SAMPLED_EVERY_S = 0.2


class FakeWorker:
    """Answers at once with one 8x8 picture that depends on the uid; every `FAILS_EVERY`-th object fails."""

    def __init__(self, limits: BlenderLimits) -> None:
        del limits

    def render(self, request: RenderRequest) -> Rendered | RenderFailure:
        number = int(request.uid.rpartition("-")[2])
        if number % FAILS_EVERY == 0:
            return RenderFailure(request.uid, "dry_failure", "every so many objects fail, for the sake of the ledger")
        rig = request.views.select([0])
        rgba = np.full((1, request.resolution, request.resolution, 4), 255, np.uint8)
        rgba[..., :3] = [number >> shift & 255 for shift in (16, 8, 0)]
        angles = rig.azimuth_deg, rig.elevation_deg, rig.radius
        views = ViewSet(request.uid, rgba, rig.camera, rig.roles, *angles, rig.name, "dry-run", facts={"coverage": [1.0]})
        return Rendered(views, 1, 0.0, {}, 0.0)

    def close(self) -> None:
        pass


def dry_run(objects: int, workers: int = 2, folder: Path | None = None) -> dict[str, Any]:
    """Push so many made-up objects through the render step on the connected Ray cluster, or on a local one.

    Returns counts, `ms_per_object` (wall time of the whole step by objects, starting the actors included),
    `driver_cpu_ms_per_object` (processor time of this process alone) and its resident memory in MB. The results are kept
    only when `folder` is given.
    """
    with tempfile.TemporaryDirectory(prefix="mvforge-dry-") as scratch:
        place = Location(str((folder or Path(scratch)).absolute()))
        write_manifest(place / "meshes" / "meshes.parquet", objects)
        job = Job(resources=Resources(workers=workers), cache=place / "cache")
        with _Memory() as memory:
            started, worked = time.perf_counter(), time.process_time()
            summary = render.run(CONFIG, meshes=place / "meshes", out=place / "out", job=job, make_worker=FakeWorker)
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return {
        "objects": objects,
        "workers": workers,
        "completed": summary.completed,
        "failed": summary.failed,
        "seconds": round(seconds, 3),
        "ms_per_object": round(1000 * seconds / objects, 4),
        "driver_cpu_ms_per_object": round(1000 * cpu_seconds / objects, 4),
        "driver_rss_mb": memory.facts(),
    }


def write_manifest(place: Location, objects: int) -> None:
    """A `meshes.parquet` as the fetch step would have written it, without any file behind it."""
    with place.writing() as file, pq.ParquetWriter(file, MANIFEST) as writer:
        for start in range(0, objects, ROWS_AT_ONCE):
            rows = list(_rows(start, min(start + ROWS_AT_ONCE, objects)))
            writer.write_table(pa.Table.from_pylist(rows, schema=MANIFEST))


def _rows(start: int, end: int) -> Iterator[dict[str, Any]]:
    for number in range(start, end):
        uid = f"dry-{number:07d}"
        text = {"group": uid, "category": "none", "licence": "CC0-1.0", "attribution": "nobody", "path": f"/nowhere/{uid}.glb"}
        yield {"uid": uid, "sha256": f"{number:064x}"[::-1], "split": "train", "status": "ok", "reason": None, "detail": None, **text}


MANIFEST = pa.schema(
    [
        (name, pa.string())
        for name in ("uid", "sha256", "split", "group", "category", "licence", "attribution", "path", "status", "reason", "detail")
    ]
)


class _Memory:
    """Watches this process's resident memory from a thread."""

    def __init__(self) -> None:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._samples = [self._now()]
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _now(self) -> float:
        return self._process.memory_info().rss / 2**20

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLED_EVERY_S):
            self._samples.append(self._now())

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._samples.append(self._now())

    def facts(self) -> dict[str, float]:
        half = len(self._samples) // 2
        values = {
            "before": self._samples[0],
            "peak_of_first_half": max(self._samples[: half + 1]),
            "peak": max(self._samples),
            "after": self._samples[-1],
        }
        return {name: round(value, 1) for name, value in values.items()}
