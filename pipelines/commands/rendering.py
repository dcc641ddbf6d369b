"""How a render step stands: `mvforge status render` and `mvforge status RECIPE render`."""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from pipelines.artifact import CACHE, Store
from pipelines.context import store_location
from rendering.render_status import LEDGER_NAME, NOTE, RenderStatus, render_status

STEP = "render"


@dataclass(frozen=True)
class Rendering:
    """One render build: its label (None where `mvforge render` wrote straight into the store), folder and state."""

    label: str | None
    out: Location
    status: RenderStatus


def show_renderings(options: argparse.Namespace, label: str | None) -> dict[str, Any]:
    """Every rendering of the store, or that of one label.

    Raises:
        UserError: there is none.
    """
    place = store_location(options.store)
    found = [rendering for rendering in _renderings(place) if label is None or rendering.label in (label, None)]
    if not found:
        what = f"of label '{label}' " if label else ""
        raise UserError(f"no rendering {what}in {place.shown}", "give its --store, or wait until catalog and fetch are done")
    if not options.json:
        print("\n\n".join(_text(rendering) for rendering in found))
    rows = [{"label": one.label, "path": str(one.out), **dataclasses.asdict(one.status)} for one in found]
    return {"store": str(place), "renders": rows}


def _renderings(place: Location) -> list[Rendering]:
    """What `mvforge render` wrote at this place, or the newest build of each label of a pipeline's store."""
    if (place / NOTE).exists():
        status = render_status(place, [place / CACHE / STEP / "pieces", place / "pieces"])
        return [Rendering(None, place, status)] if status is not None else []
    store, found = Store(place), []
    for label in store.labels(STEP):
        build = store.building(STEP, label) or store.record(STEP, label)
        if build is None:
            continue
        out = store.folder(STEP, label) / build.build_id
        status = render_status(out, [store.cache(STEP) / "pieces", out / "pieces"])
        if status is not None:
            found.append(Rendering(label, out, status))
    return found


def _text(rendering: Rendering) -> str:
    status = rendering.status
    lines = [f"render {rendering.label or ''}".strip() + f": {status.state}, {status.driver}"]
    counts = [f"{status.done} of {status.objects} objects done"]
    counts += [f"{count} {name}" for name in ("failed", "quarantined", "waiting") if (count := getattr(status, name))]
    lines.append(f"  {', '.join(counts)}")
    if status.reasons:
        lines.append("  reasons  " + ", ".join(f"{reason} {count}" for reason, count in status.reasons.items()))
    if status.objects_per_min:
        left = f", about {_duration(status.seconds_left)} left" if status.seconds_left is not None else ""
        lines.append(f"  speed    {status.objects_per_min:.4g} objects/min, {status.views_per_s or 0:.4g} views/s{left}")
    lines.append(f"  time     {_duration(status.seconds)}, {status.rendered_now} objects in this run")
    if status.facts:
        peak = f", at most {status.facts['peak_rss_mb']:.0f} MB a worker" if status.facts["peak_rss_mb"] else ""
        lines.append(f"  cost     {_duration(status.facts['worker_seconds'])} of worker time for {status.facts['views']} views{peak}")
    lines.append(f"  {'ledger' if status.state == 'finished' else 'folder'}   ")
    lines[-1] += ((rendering.out / LEDGER_NAME) if status.state == "finished" else rendering.out).shown
    if status.state == "interrupted":
        lines.append("  the same command goes on where it was")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
