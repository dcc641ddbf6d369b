"""[step] Views -> the objects worth keeping, and why the others are not. Items counted are objects.

Blank and clipped objects are dropped from every split. Objects of the training split that look like a held-out
object are dropped from training, so that no score is earned by memory.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.blender import coverage, touches_border
from rendering.fingerprint import Fingerprint, fingerprint, likeness
from rendering.views import TARGET, ViewSet, ViewStore

CHUNK_OBJECTS = 32
KEPT = pa.schema([("uid", pa.string()), ("split", pa.string())])
REJECTED = pa.schema([("uid", pa.string()), ("split", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Thresholds.

    Attributes:
        min_coverage: an object is `blank` when its fullest target covers less than this part of the picture.
        max_clipped: an object is `clipped` when more than this fraction of its targets touch the border.
        max_hash_distance: mean differing pHash bits (of 64) up to which two objects may be the same ...
        max_colour_distance: ... if their foreground RMS colour difference (0..1) is also at most this.
    """

    min_coverage: float = 0.002
    max_clipped: float = 0.5
    max_hash_distance: float = 6.0
    max_colour_distance: float = 0.05


@dataclass(frozen=True)
class Look:
    """What curation measures on one object."""

    uid: str
    fullest: float
    clipped: float
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Rejection:
    """One row of `rejected.parquet`."""

    uid: str
    split: str
    reason: str
    detail: str


def run(config: CurateConfig, *, views: Location, out: Location, job: Job) -> Summary:
    """Write `kept.parquet` (uid, split) and `rejected.parquet` (uid, split, reason, detail).

    Raises:
        UserError: nothing is left to train on.
    """
    ledger = (views / "ledger.parquet").read_table(columns=["uid", "split", "status"]).to_pylist()
    splits = {row["uid"]: row["split"] for row in ledger if row["status"] == "ok"}
    looks = _looks(sorted(splits), views, job)
    rejected = [rejection for look in looks.values() if (rejection := _picture_fault(look, splits[look.uid], config))]
    gone = {rejection.uid for rejection in rejected}
    heldout = [look for uid, look in looks.items() if splits[uid] != "train" and uid not in gone]
    training = [look for uid, look in looks.items() if splits[uid] == "train" and uid not in gone]
    rejected += list(heldout_duplicates(training, heldout, config))
    gone = {rejection.uid for rejection in rejected}
    kept = [{"uid": uid, "split": split} for uid, split in sorted(splits.items()) if uid not in gone]
    (out / "rejected.parquet").write_table(pa.Table.from_pylist([dataclasses.asdict(r) for r in rejected], schema=REJECTED))
    (out / "kept.parquet").write_table(pa.Table.from_pylist(kept, schema=KEPT))
    if not any(row["split"] == "train" for row in kept):
        raise UserError(f"curation leaves nothing to train on ({_counts(rejected)})", "loosen curate.* or add objects to the source")
    facts = {
        "reasons": dict(Counter(r.reason for r in rejected)),
        "kept": dict(Counter(row["split"] for row in kept)),
        "training_objects_like_heldout": sum(r.reason == "heldout_duplicate" for r in rejected),
    }
    return Summary(completed=len(kept), rejected=len(rejected), facts=facts)


def _counts(rejected: list[Rejection]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(r.reason for r in rejected).most_common()) or "nothing rejected"


def _looks(uids: list[str], views: Location, job: Job) -> dict[str, Look]:
    """Measure every object, in chunks, on the cluster when one is connected."""
    chunks = [tuple(uids[start : start + CHUNK_OBJECTS]) for start in range(0, len(uids), CHUNK_OBJECTS)]
    found: dict[str, Look] = {}
    for _, result in fan_out(look_at, chunks, job, "curate", views=views):
        if isinstance(result, Exception):
            raise result
        found.update({look.uid: look for look in result})
    return dict(sorted(found.items()))


def look_at(uids: Iterable[str], views: Location) -> list[Look]:
    """Measure some objects of a store."""
    store = ViewStore(views)
    return [_look(store.read(uid)) for uid in uids]


def _look(views: ViewSet) -> Look:
    rgba = views.with_role(TARGET).rgba
    return Look(views.uid, float(coverage(rgba).max()), float(touches_border(rgba).mean()), fingerprint(views))


def _picture_fault(look: Look, split: str, config: CurateConfig) -> Rejection | None:
    if look.fullest < config.min_coverage:
        return Rejection(look.uid, split, "blank", f"the fullest view covers {look.fullest:.4%} of the picture")
    if look.clipped > config.max_clipped:
        return Rejection(look.uid, split, "clipped", f"{look.clipped:.0%} of the views touch the border")
    return None


def heldout_duplicates(training: Iterable[Look], heldout: Iterable[Look], config: CurateConfig) -> Iterable[Rejection]:
    """Training objects that look like a held-out one, whichever way they face."""
    rest = list(heldout)
    means = np.array([other.fingerprint.thumbnails.mean((0, 1, 2)) for other in rest]).reshape(len(rest), 4)
    covers = np.array([other.fingerprint.thumbnails[..., 3].mean() for other in rest])
    for look in training:
        mean = look.fingerprint.thumbnails.mean((0, 1, 2))
        # The mean over the ring is the same for every turn, and bounds the RMS difference from below.
        bound = np.sqrt(((means - mean) ** 2).mean(1) / np.maximum(covers + mean[3], 1e-6))
        for index in np.flatnonzero(bound <= config.max_colour_distance):
            alike = likeness(look.fingerprint, rest[index].fingerprint)
            if alike.bits <= config.max_hash_distance and alike.colour <= config.max_colour_distance:
                detail = f"looks like held-out {rest[index].uid}: {alike.bits:.1f} bits, colour {alike.colour:.3f}"
                yield Rejection(look.uid, "train", "heldout_duplicate", detail)
                break
