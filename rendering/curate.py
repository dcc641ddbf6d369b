"""[step] Views -> the objects worth keeping, and why the others are not. Items counted are objects.

Objects whose pictures are faulty are dropped from every split (`rendering/gates.py`). Of objects that look the same one
is kept: a held-out one before one of the training split, so that no score is earned by memory, then the smallest uid.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.duplicates import alike_pairs
from rendering.fingerprint import Fingerprint, fingerprint
from rendering.gates import GateConfig, Measures, faults, measure
from rendering.rejected_page import Rejection, rejected_page
from rendering.views import ViewStore

CHUNK_OBJECTS = 32
DUPLICATE, HELDOUT_DUPLICATE = "duplicate", "heldout_duplicate"
KEPT = pa.schema([("uid", pa.string()), ("split", pa.string())])
REJECTED = pa.schema([(name, pa.string()) for name in ("uid", "split", "reason", "detail", "like")])
MEASURES = pa.schema(
    [
        ("fullest", pa.float64()),
        ("emptiest", pa.float64()),
        ("clipped", pa.float64()),
        ("pink", pa.float64()),
        ("colour_std", pa.float64()),
        ("colours", pa.int64()),
        ("brightness", pa.float64()),
        ("distinct_views", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class CurateConfig(GateConfig):
    """Thresholds: those of the picture gates, and when two objects look the same.

    Attributes:
        duplicates: `all` drops every object that looks like another, `heldout` only training objects that look like a
            held-out one, `none` keeps all.
        max_hash_distance: mean differing pHash bits (of 64) up to which two objects may be the same ...
        max_colour_distance: ... if their foreground RMS colour difference (0..1) is also at most this.
    """

    duplicates: str = "all"
    max_hash_distance: float = 6.0
    max_colour_distance: float = 0.05

    def __post_init__(self) -> None:
        if self.duplicates not in ("all", "heldout", "none"):
            raise UserError(f"curate.duplicates is '{self.duplicates}'", "choose one of: all, heldout, none")


@dataclass(frozen=True)
class Look:
    """What curation measures on one object."""

    uid: str
    measures: Measures
    faults: tuple[tuple[str, str], ...]
    fingerprint: Fingerprint


def run(config: CurateConfig, *, views: Location, out: Location, job: Job) -> Summary:
    """Write `kept.parquet` (uid, split), `rejected.parquet` (uid, split, reason, detail, like), `rejected.html`, and
    `ledger.parquet`: the rows of the render's ledger with the verdict and what it was measured on.

    Raises:
        UserError: nothing is left to train on.
    """
    ledger = (views / "ledger.parquet").read_table()
    rows = ledger.select(["uid", "split", "status"]).to_pylist()
    splits = {row["uid"]: row["split"] for row in rows if row["status"] == "ok"}
    looks = _looks(sorted(splits), views, config, job)
    rejected = [_picture_fault(look, splits[look.uid]) for look in looks.values() if look.faults]
    rejected += duplicates([look for look in looks.values() if not look.faults], splits, config)
    gone = {rejection.uid for rejection in rejected}
    kept = [{"uid": uid, "split": split} for uid, split in sorted(splits.items()) if uid not in gone]
    (out / "rejected.parquet").write_table(pa.Table.from_pylist([dataclasses.asdict(r) for r in rejected], schema=REJECTED))
    (out / "rejected.html").write_text(rejected_page(rejected, ViewStore(views), len(splits)))
    (out / "ledger.parquet").write_table(_judged(ledger, looks, rejected))
    (out / "kept.parquet").write_table(pa.Table.from_pylist(kept, schema=KEPT))
    if not any(row["split"] == "train" for row in kept):
        raise UserError(f"curation leaves nothing to train on ({_counts(rejected)})", "loosen curate.* or add objects to the source")
    facts = {
        "reasons": dict(Counter(r.reason for r in rejected)),
        "kept": dict(Counter(row["split"] for row in kept)),
        "training_objects_like_heldout": sum(r.reason == HELDOUT_DUPLICATE for r in rejected),
    }
    return Summary(completed=len(kept), rejected=len(rejected), facts=facts)


def _counts(rejected: list[Rejection]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(r.reason for r in rejected).most_common()) or "nothing rejected"


def _looks(uids: list[str], views: Location, config: CurateConfig, job: Job) -> dict[str, Look]:
    """Measure every object, in chunks, on the cluster when one is connected."""
    chunks = [tuple(uids[start : start + CHUNK_OBJECTS]) for start in range(0, len(uids), CHUNK_OBJECTS)]
    found: dict[str, Look] = {}
    for _, result in fan_out(look_at, chunks, job, "curate", views=views, config=config):
        if isinstance(result, Exception):
            raise result
        found.update({look.uid: look for look in result})
    return dict(sorted(found.items()))


def look_at(uids: Iterable[str], views: Location, config: CurateConfig) -> list[Look]:
    """Measure some objects of a store."""
    store, looks = ViewStore(views), []
    for uid in uids:
        one = store.read(uid)
        measures = measure(one, config)
        looks.append(Look(uid, measures, tuple(faults(measures, config)), fingerprint(one)))
    return looks


def _picture_fault(look: Look, split: str) -> Rejection:
    """The first fault is the reason; the others follow in the detail."""
    (reason, detail), *others = look.faults
    return Rejection(look.uid, split, reason, "; also ".join([detail, *(f"{name}: {text}" for name, text in others)]))


def duplicates(looks: list[Look], splits: dict[str, str], config: CurateConfig) -> list[Rejection]:
    """The objects that look like one that is kept, whichever way they face."""
    if config.duplicates == "none":
        return []
    # Held-out objects come first, so the earlier one of a pair is the one to keep.
    order = sorted(looks, key=lambda look: (splits[look.uid] == "train", look.uid))
    pairs = list(alike_pairs([look.fingerprint for look in order], config.max_hash_distance, config.max_colour_distance))
    found: dict[str, Rejection] = {}
    for first, second, alike in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
        keep, drop = order[first].uid, order[second].uid
        leak = splits[keep] != "train" and splits[drop] == "train"
        if keep in found or drop in found or not (leak or config.duplicates == "all"):
            continue
        what = f"held-out {keep}" if leak else keep
        detail = f"looks like {what}: {alike.bits:.1f} bits, colour {alike.colour:.3f}"
        found[drop] = Rejection(drop, splits[drop], HELDOUT_DUPLICATE if leak else DUPLICATE, detail, keep)
    return [found[uid] for uid in sorted(found)]


def _judged(ledger: pa.Table, looks: dict[str, Look], rejected: list[Rejection]) -> pa.Table:
    """The ledger with `gate` (kept, rejected, or null where there are no pictures), `gate_reason`, `gate_detail` and measures."""
    reasons, uids = {one.uid: one for one in rejected}, ledger.column("uid").to_pylist()
    verdicts = [None if uid not in looks else "rejected" if uid in reasons else "kept" for uid in uids]
    ledger = ledger.append_column("gate", pa.array(verdicts, pa.string()))
    for name in ("reason", "detail"):
        values = [getattr(reasons[uid], name) if uid in reasons else None for uid in uids]
        ledger = ledger.append_column(f"gate_{name}", pa.array(values, pa.string()))
    for field in MEASURES:
        measured = [getattr(looks[uid].measures, field.name) if uid in looks else None for uid in uids]
        ledger = ledger.append_column(field.name, pa.array(measured, field.type))
    return ledger
