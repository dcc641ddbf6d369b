"""`mvforge bench scale`: measure how the steps grow, point by point, each in a process of its own."""

import argparse
import json
import subprocess
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from infra.cluster import ROOT
from infra.errors import UserError
from infra.provenance import git_commit
from infra.storage import Location
from pipelines.scale.growth import growth
from pipelines.scale.point import Point
from pipelines.scale.probes import PROBES
from pipelines.scale.show import lines, write_plot
from rendering.bench import machine

SIZES = {
    "catalog": (1_000, 10_000, 100_000, 1_000_000),
    "render": (1_000, 10_000, 100_000),
    "duplicates": (1_000, 10_000, 100_000),
    "render-left": (1_000, 10_000, 100_000, 1_000_000),
    "generate-left": (1_000, 10_000, 100_000, 1_000_000),
}


def bench_scale(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is not measured yet, then show everything.

    Raises:
        UserError: an unknown probe, no number, or a point that failed.
    """
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    points = []
    for probe in _chosen(options.only):
        for size in SIZES[probe]:
            if options.largest is None or size <= options.largest:
                points.append(_point(probe, size, out))
    if options.plot:
        write_plot(points, options.plot)
    facts = machine()
    if not options.json:
        print("\n".join(lines(points)))
        print(f"\n{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, commit {git_commit()[:12]}")
        if options.plot:
            print(f"plot: {options.plot}")
    faster = [
        {"probe": p, "figure": step.what, "exponent": step.exponent, "from": step.small[0], "to": step.large[0]}
        for p in dict.fromkeys(point.probe for point in points)
        for step in growth(point for point in points if point.probe == p)
        if step.faster
    ]
    return {"points": [point.__dict__ for point in points], "faster_than_linear": faster, "machine": facts, "git_commit": git_commit()}


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(SIZES)
    for name in names:
        if name not in PROBES:
            near = get_close_matches(name, PROBES, n=1, cutoff=0.0)[0]
            raise UserError(f"there is no probe '{name}'; did you mean '{near}'?", f"the probes are {', '.join(PROBES)}")
    return names


def _point(probe: str, size: int, out: Path) -> Point:
    """From the file of an earlier call, else measured now."""
    place = Location(str(out)) / f"{probe}-{size}.json"
    if not place.exists():
        print(f"{probe} of {size:,} objects", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pipelines.scale.point", probe, str(size), str(out)]
        ended = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if ended.returncode or not place.exists():
            raise UserError(f"{probe} of {size:,} objects ended with status {ended.returncode}", "see above; the same command goes on here")
    try:
        return Point(**place.read_json())
    except (TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{place} is damaged: {error}", f"delete {place}") from error
