"""What a view costs on this machine: real Blender renders of procedural objects, split into what grows with pixels and what does not."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.errors import UserError
from rendering.bench import ONCE, VIEWS_PER_OBJECT, bind_to_one_core
from rendering.blender import BlenderLimits, BlenderWorker, RenderFailure, RenderRequest
from rendering.profiles import Sampling
from rendering.rigs import RigConfig, rig_named
from rendering.sources import procedural
from rendering.views import to_table

VIEWS = (9, 20, 36)  # of the mvdiffusionpp rig, as `mvforge bench render` takes
WARM_UP_PX = 32


@dataclass(frozen=True)
class ViewCost:
    """One object at one size; processor seconds per view, but `once` per object.

    Attributes:
        megapixels: of a view.
        samples: per pixel.
        stored: bytes of a view with depth and normals.
        file: bytes of the 3D file.
    """

    megapixels: float
    samples: int
    once: float
    sample: float
    denoise: float
    setup: float
    encode: float
    stored: float
    file: int


Repeats = dict[str, list[float]]


def measure_render(objects: int, sizes: tuple[int, ...], profile: str | Sampling = "quality") -> tuple[Repeats, str]:
    """Repeats of every `render.` unit, one an object, and what they were measured on.

    Raises:
        UserError: Blender cannot render a procedural object.
    """
    costs: list[list[ViewCost]] = []
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder, _one_core(), BlenderWorker(BlenderLimits()) as worker:
        files = []
        for reference in procedural.list_objects(objects, seed=0):
            files.append(Path(folder) / f"{reference.uid}.glb")
            files[-1].write_bytes(procedural.make_glb(reference.uri))
        started = time.monotonic()
        _cost(worker, files[0], WARM_UP_PX, profile)
        first = time.monotonic() - started
        started = time.monotonic()
        _cost(worker, files[0], WARM_UP_PX, profile)
        start_s = max(0.0, first - (time.monotonic() - started))
        for file in files:
            costs.append([_cost(worker, file, size, profile) for size in sorted(sizes)])
    repeats: Repeats = {"render.start_s": [start_s]}
    for by_size in costs:
        for name, value in split(by_size).items():
            repeats.setdefault(name, []).append(value)
    name = profile if isinstance(profile, str) else f"{profile.samples} samples"
    sides = " and ".join(str(size) for size in sorted(sizes))
    return repeats, f"{objects} procedural objects, {len(VIEWS)} views, {sides} px, {name}, one core"


def split(by_size: list[ViewCost]) -> dict[str, float]:
    """The units of one object from its costs at one or two sizes: each part is a constant and a share that grows with the picture.

    With one size there are no constants to find. A part that shrinks with size is noise and counts as constant.
    """
    small, large = by_size[0], by_size[-1]
    sample, sample_0 = _line(small.megapixels * small.samples, small.sample, large.megapixels * large.samples, large.sample)
    denoise, denoise_0 = _line(small.megapixels, small.denoise, large.megapixels, large.denoise)
    encode, encode_0 = _line(small.megapixels, small.encode, large.megapixels, large.encode)
    return {
        "render.import_s": sum(cost.once for cost in by_size) / len(by_size),
        "render.sample_s": sample,
        "render.denoise_s": denoise,
        "render.encode_s": encode,
        "render.view_s": sum(cost.setup for cost in by_size) / len(by_size) + sample_0 + denoise_0 + encode_0,
        "render.samples": float(large.samples),
        "render.bytes": large.stored / (large.megapixels * 1e6),
        "render.object_bytes": float(large.file),
    }


def _line(x_small: float, y_small: float, x_large: float, y_large: float) -> tuple[float, float]:
    """Slope and intercept through two points, neither below zero; through the origin where there is one point."""
    if x_large <= x_small:
        return y_large / x_large, 0.0
    slope = max(0.0, (y_large - y_small) / (x_large - x_small))
    intercept = y_small - slope * x_small
    return (slope, intercept) if intercept >= 0 else (y_large / x_large, 0.0)


def _cost(worker: BlenderWorker, file: Path, size: int, profile: str | Sampling) -> ViewCost:
    views = rig_named("mvdiffusionpp")(file.stem, RigConfig(num_conditions=10)).select(VIEWS)
    child, own = _child_seconds(worker), time.process_time()
    result = worker.render(RenderRequest(file.stem, file, views, resolution=size, profile=profile, passes=("depth", "normal")))
    if isinstance(result, RenderFailure):
        raise UserError(f"Blender cannot render {file.name}: {result.reason}: {result.detail}", "see docs/rendering.md")
    table = to_table(result.views)
    encode = time.process_time() - own
    busy = _child_seconds(worker) - child
    # Wall times of the phases, scaled to processor time: on a busy machine they are longer (as `rendering/bench.py` does).
    phases = {name: seconds for name, seconds in result.phases_s.items() if name != "encode"}
    scale = busy / max(sum(phases.values()), 1e-9)
    count = len(views)
    return ViewCost(
        size**2 / 1e6,
        result.views.facts["samples"],
        sum(phases.get(name, 0.0) for name in ONCE) * scale,
        (phases["sample"] / count + phases["probe"] / VIEWS_PER_OBJECT) * scale,
        phases["denoise"] * scale / count,
        phases["sync"] * scale / count,
        (phases["develop"] * scale + encode) / count,
        table.nbytes / count,
        file.stat().st_size,
    )


def _child_seconds(worker: BlenderWorker) -> float:
    if worker.pid is None:
        return 0.0
    times = psutil.Process(worker.pid).cpu_times()
    return times.user + times.system


@contextmanager
def _one_core() -> Iterator[None]:
    """A one-thread child spins on a second core while it waits; on one core its processor time is what it uses."""
    before = os.sched_getaffinity(0)
    bind_to_one_core()
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
