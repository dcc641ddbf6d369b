"""Whether one Blender child can go on for ever: resident memory and processor time, object after object, never replaced."""

import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rendering.blender import BlenderLimits, BlenderWorker, RenderFailure, RenderRequest
from rendering.rigs import RigConfig, rig_named
from rendering.sources import procedural
from rendering.views import to_table

RESOLUTION, SAMPLES, VIEWS = 64, 1, (0, 5)
# Real files are dozens of times heavier than generated ones; so many of each kind in turn keep a run short.
GENERATED_BETWEEN = 3
NEVER = 10**9


@dataclass
class Series:
    """What was seen after each object: resident MB of the child and of this process, processor seconds of the child.

    `failed` are the files that gave no views, with their reasons; `children` the processes that served them all.
    """

    child_mb: list[float] = field(default_factory=list)
    own_mb: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    children: set[int] = field(default_factory=set)


def measure(objects: int, files: Sequence[Path] = (), seed: int = 0) -> Series:
    """Render so many objects of two small views in one child that is never replaced.

    Generated objects, all different, with the given files in turn between them. A file that fails counts as an object.
    """
    rig, series, own = rig_named("syncdreamer16"), Series(), psutil.Process()
    limits = BlenderLimits(recycle_objects=NEVER, recycle_rss_mb=NEVER)
    with tempfile.TemporaryDirectory(prefix="mvforge-memory-") as scratch, BlenderWorker(limits) as worker:
        for number, mesh in enumerate(itertools.islice(_meshes(objects, files, Path(scratch), seed), objects)):
            views = rig(f"object-{number}", RigConfig()).select(VIEWS)
            request = RenderRequest(
                f"object-{number}", mesh, views, RESOLUTION, samples=SAMPLES, passes=("depth", "normal"), want_mesh=True
            )
            result = worker.render(request)
            if isinstance(result, RenderFailure):
                series.failed[mesh.name] = result.reason
            else:
                to_table(result.views)
            if worker.pid is None:  # the first file was refused, or Blender died of one
                continue
            child = psutil.Process(worker.pid)
            series.children.add(child.pid)
            series.child_mb.append(child.memory_info().rss / 2**20)
            series.own_mb.append(own.memory_info().rss / 2**20)
            series.cpu_s.append(child.cpu_times().user + child.cpu_times().system)
    return series


def _meshes(objects: int, files: Sequence[Path], scratch: Path, seed: int) -> Iterator[Path]:
    """Generated objects, each gone when the next is asked for, and the files in turn: at least `objects`."""
    generated = scratch / "generated.glb"
    real = itertools.cycle(files)
    for index, reference in enumerate(procedural.list_objects(objects, seed)):
        generated.write_bytes(procedural.make_glb(reference.uri))
        yield generated
        if files and index % GENERATED_BETWEEN == GENERATED_BETWEEN - 1:
            yield next(real)


def summary(series: Series) -> dict[str, Any]:
    """Medians of the second and of the last fifth (the first is warming up), and the last by the second."""
    fifth = max(1, len(series.child_mb) // 5)
    early, late = slice(fifth, 2 * fifth), slice(len(series.child_mb) - fifth, None)
    facts: dict[str, Any] = {"objects": len(series.child_mb), "children": len(series.children), "failed": dict(series.failed)}
    for name, values in (("child_rss_mb", series.child_mb), ("own_rss_mb", series.own_mb)):
        first, last = statistics.median(values[early]), statistics.median(values[late])
        facts |= {f"{name}_early": round(first, 1), f"{name}_late": round(last, 1), f"{name}_growth": round(last / first, 3)}
    facts["child_rss_mb_peak"] = round(max(series.child_mb), 1)
    for name, part in (("early", early), ("late", late)):
        spent = series.cpu_s[part]
        facts[f"child_cpu_s_per_object_{name}"] = round((spent[-1] - spent[0]) / max(1, len(spent) - 1), 4)
    return facts


def bench_memory(objects: int, files: Sequence[Path] | None = None) -> dict[str, Any]:
    """`measure` and `summary`: what `mvforge bench render --memory` prints."""
    return summary(measure(objects, files or ()))
