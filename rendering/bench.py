"""What a view costs and how good it is: every profile on given files, side by side with Blender's defaults.

Cost is processor time of the Blender child, which is bound to one core for this (otherwise a one-thread child spins on a
second core while it waits, and reads up to twice what it uses), plus that of reading and encoding its pictures. Profiles
take turns on each object, so that a noisy machine treats them alike. Work done once per object (import, bounds, noise
probe) is spread over `VIEWS_PER_OBJECT` views. The probe is sampling too, and counted as such.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from skimage.metrics import structural_similarity

from infra.errors import UserError
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest
from rendering.profiles import PROFILES, STEPS
from rendering.rigs import RigConfig, rig_named
from rendering.view_set import ViewSet, on_white
from rendering.views import to_table

VIEWS_PER_OBJECT = 42
ONCE = ("clear", "import", "normalise")
BASELINE, TRUTH = "blender_default", "reference"
KNOWN, ALL_STEPS = PROFILES | STEPS, "steps"
DEADLINE_S = 3600.0
WARM_UP_PX = 256


@dataclass(frozen=True)
class Cost:
    """One profile on one object. Seconds are core seconds per view; decibels are means over its views."""

    asset: str
    profile: str
    samples: int
    seconds: float
    sample: float
    denoise: float
    around: float
    once: float
    peak_rss_mb: float
    foreground_db: float
    foreground_ssim: float
    alpha_db: float


def bench(
    files: Iterable[Path],
    profiles: Iterable[str],
    cache: Path,
    *,
    views: Iterable[int] = (9, 20, 36),
    resolution: int = 512,
    rounds: int = 1,
    say: Callable[[str], None] = print,
) -> list[Cost]:
    """Measure each profile and the baseline on each file, on some views of the `mvdiffusionpp` rig.

    The converged pictures that qualities are measured against are kept in `cache`.

    Raises:
        UserError: an unknown profile, or a file that cannot be rendered.
    """
    asked = [step for name in profiles for step in (STEPS if name == ALL_STEPS else [name])]
    names = [BASELINE, *(name for name in asked if name not in (BASELINE, TRUTH))]
    for name in names:
        if name not in KNOWN:
            raise UserError(f"there is no render profile '{name}'", f"choose from: {', '.join(PROFILES)}")
    costs = []
    bind_to_one_core()
    with BlenderWorker(BlenderLimits(deadline_s=DEADLINE_S)) as worker:
        for file in files:
            cameras = rig_named("mvdiffusionpp")(file.stem, RigConfig(num_conditions=10)).select(views)
            request = RenderRequest(file.stem, file, cameras, resolution=resolution)
            truth = _truth(worker, request, cache, say)
            _warm_up(worker, request, names)
            measured: dict[str, list[Cost]] = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    measured[name].append(_measure(worker, replace(request, profile=KNOWN[name]), name, truth))
                    say(describe(measured[name][-1]))
            costs += [min(found, key=lambda cost: cost.seconds) for found in measured.values()]
    return costs


def _warm_up(worker: BlenderWorker, request: RenderRequest, names: Iterable[str]) -> None:
    """Let the child start and time each kind of denoiser, which it does once in its life."""
    for name in names:
        small = replace(
            request, profile=replace(KNOWN[name], samples=1, target_db=0.0), resolution=WARM_UP_PX, views=request.views.select([0])
        )
        to_table(_rendered(worker, small).views)


def bind_to_one_core() -> None:
    """This process and the children it starts from now on."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _truth(worker: BlenderWorker, request: RenderRequest, cache: Path, say: Callable[[str], None]) -> ViewSet:
    """The converged views of an object; rendered once, since they take longer than everything else together."""
    place = cache / f"{request.uid}-{request.resolution}-{'-'.join(str(round(a)) for a in request.views.azimuth_deg)}.npz"
    if not place.exists():
        say(f"{request.uid}: rendering the reference of {PROFILES[TRUTH].samples} samples, once")
    # Another seed: sharing noise with what is measured would flatter it.
    if place.exists():
        with np.load(place) as arrays:
            rgba = arrays["rgba"]
    else:
        rgba = _rendered(worker, replace(request, profile=TRUTH, seed=77)).views.rgba
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, rgba=rgba)
        temporary.rename(place)
    rig = request.views
    return ViewSet(request.uid, rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, TRUTH)


def _rendered(worker: BlenderWorker, request: RenderRequest) -> Rendered:
    result = worker.render(request)
    if isinstance(result, RenderFailure):
        raise UserError(f"{request.mesh} cannot be rendered: {result.reason}: {result.detail}", "bench on files that can")
    return result


def _measure(worker: BlenderWorker, request: RenderRequest, name: str, truth: ViewSet) -> Cost:
    child, own = _child_seconds(worker), time.process_time()
    result = _rendered(worker, request)
    to_table(result.views)
    encode = time.process_time() - own
    busy = _child_seconds(worker) - child
    # Wall times of the phases, scaled to processor time: on a busy machine they are longer.
    phases = {name: seconds for name, seconds in result.phases_s.items() if name != "encode"}
    scale = busy / max(sum(phases.values()), 1e-9)
    views = len(request.views)
    once = sum(phases.get(name, 0.0) for name in ONCE) * scale / VIEWS_PER_OBJECT
    around = ((phases["sync"] + phases["develop"]) * scale + encode) / views
    sample, denoise = (phases[name] * scale / views for name in ("sample", "denoise"))
    sample += phases["probe"] * scale / VIEWS_PER_OBJECT
    quality = np.array([compare(one, other) for one, other in zip(result.views.rgba, truth.rgba, strict=True)])
    return Cost(
        request.uid,
        name,
        result.views.facts["samples"],
        once + around + sample + denoise,
        sample,
        denoise,
        around,
        once,
        result.peak_rss_mb,
        *quality.mean(0).tolist(),
    )


def _child_seconds(worker: BlenderWorker) -> float:
    """Processor time of the living child so far; one that was replaced would start from zero, so there must be one."""
    if worker.pid is None:
        return 0.0
    times = psutil.Process(worker.pid).cpu_times()
    return times.user + times.system


def compare(rgba: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Foreground PSNR (premultiplied colour where either has alpha), foreground SSIM (on white), alpha PSNR.

    uint8 `[H, W, 4]` each; PSNR in dB with a peak of 1.
    """
    one, other = (picture.astype(np.float64) / 255.0 for picture in (rgba, truth))
    seen = (one[..., 3] > 0) | (other[..., 3] > 0)
    if not seen.any():
        return float("nan"), float("nan"), float("nan")
    colour = (one[..., :3] * one[..., 3:] - other[..., :3] * other[..., 3:])[seen]
    _, similarity = structural_similarity(on_white(rgba), on_white(truth), channel_axis=2, data_range=1.0, full=True)
    return _psnr(colour), float(similarity[seen].mean()), _psnr(one[..., 3] - other[..., 3])


def _psnr(difference: np.ndarray) -> float:
    return float(-10 * np.log10(max((difference**2).mean(), 1e-12)))


def describe(cost: Cost) -> str:
    """One line for a person."""
    return (
        f"{cost.asset:24s} {cost.profile:16s} {cost.samples:4d} spp  {cost.seconds:7.3f} core-s/view  "
        f"fg {cost.foreground_db:5.2f} dB  SSIM {cost.foreground_ssim:.4f}  alpha {cost.alpha_db:5.2f} dB  {cost.peak_rss_mb:5.0f} MB"
    )


def summary(costs: list[Cost]) -> list[dict[str, Any]]:
    """Means over the objects, one row a profile; `speedup` against Blender's defaults in the same run."""
    rows = []
    for name in dict.fromkeys(cost.profile for cost in costs):
        mine = [cost for cost in costs if cost.profile == name]
        mean = {field: float(np.mean([getattr(cost, field) for cost in mine])) for field in MEANS}
        slow = float(np.mean([cost.seconds for cost in costs if cost.profile == BASELINE]))
        rest = (mean["around"] + mean["once"]) / mean["seconds"]
        extra = {"views_per_s": 1 / mean["seconds"], "speedup": slow / mean["seconds"], "rest": rest}
        worst = {"worst_db": min(cost.foreground_db for cost in mine), "peak_rss_mb": max(cost.peak_rss_mb for cost in mine)}
        rows.append({"profile": name, **mean, **extra, **worst})
    return rows


MEANS = ("samples", "seconds", "sample", "denoise", "around", "once", "foreground_db", "foreground_ssim", "alpha_db")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = {line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    memory_gb = round(psutil.virtual_memory().total / 2**30)
    return {
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": memory_gb,
        "load": os.getloadavg(),
    }
