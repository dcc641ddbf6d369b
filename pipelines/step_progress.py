"""How far a step in progress is, from what lies in the store: pieces, downloads, checkpoints. Nothing is asked of the processes.

What cannot be known from there is None: a step that takes finished pieces of earlier builds has no certain total.
"""

import time
from dataclasses import dataclass, field

from infra.storage import Entry, Location
from pipelines.artifact import Building, Store
from pipelines.lease import Holder
from rendering.render_status import render_status
from training.checkpoint_age import whole_checkpoints


@dataclass(frozen=True)
class Progress:
    """Counts of a step in progress.

    Attributes:
        unit: what is counted.
        done: finished, in this build; total: of so many, None where that is not known.
        failed, reasons: items that failed, and by reason where the store tells.
        per_s: finished a second lately, None while there is too little to tell.
        seconds_left: None without a rate and a total.
        note: what the counts leave out, for the reader.
    """

    unit: str
    done: int
    total: int | None = None
    failed: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    per_s: float | None = None
    seconds_left: float | None = None
    note: str = ""


def step_progress(store: Store, step: str, label: str, building: Building, holder: Holder | None, total: int | None) -> Progress | None:
    """Progress of the build that `building.json` names; None where the store tells nothing.

    Args:
        holder: the living process that builds, None when it is interrupted: then there is no rate.
        total: training steps of a stage, for `train.*`.
    """
    out = store.folder(step, label) / building.build_id
    if step == "render":
        return _rendering(store, out)
    if step.startswith("train."):
        return _training(out, building.build_id, holder, total)
    if step == "fetch":
        files = (store.cache(step) / "files").children()
        return _counted("downloads", files, building.started_at, holder, "without those that were there before")
    pieces = [e for e in (store.cache(step) / "pieces").children() if e.name.endswith((".json", ".parquet")) and ".attempts." not in e.name]
    return _counted("objects", pieces, building.started_at, holder, "without pieces of earlier builds") if pieces else None


def _rendering(store: Store, out: Location) -> Progress | None:
    status = render_status(out, [store.cache("render") / "pieces", out / "pieces"])
    if status is None:
        return None
    rate = status.objects_per_min / 60 if status.objects_per_min and status.state == "running" else None
    bad = status.failed + status.quarantined
    return Progress("objects", status.done + bad, status.objects, bad, status.reasons, rate, status.seconds_left)


def _training(out: Location, build_id: str, holder: Holder | None, total: int | None) -> Progress | None:
    """By whole checkpoints: figures between two of them are in the tracking store and the log."""
    marks = whole_checkpoints(out / "state" / build_id)
    if not marks:
        return Progress("steps", 0, total, note="no checkpoint yet")
    step, at = marks[-1]
    rate = left = None
    # Two checkpoints of this attempt, or the time between them is partly that of the interruption.
    if holder is not None and len(marks) > 1 and marks[-2][1] >= holder.since and at > marks[-2][1]:
        rate = (step - marks[-2][0]) / (at - marks[-2][1])
        if total is not None and rate > 0:
            left = max(0.0, (total - step) / rate - (time.time() - at))
    return Progress("steps", step, total, per_s=rate, seconds_left=left, note="at the newest checkpoint")


def _counted(unit: str, entries: list[Entry], began: float, holder: Holder | None, note: str) -> Progress:
    """Files that are newer than the build."""
    new = [entry for entry in entries if not entry.is_dir and entry.mtime >= began]
    rate = None
    if holder is not None:
        lately = [entry for entry in new if entry.mtime >= holder.since]
        seconds = time.time() - holder.since
        rate = len(lately) / seconds if lately and seconds > 0 else None
    return Progress(unit, len(new), per_s=rate, note=note)
