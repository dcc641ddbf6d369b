"""[step] Generated views -> one coloured mesh per object, as GLB.

Objects are independent Ray tasks. A finished object is a piece (its ledger row, and the mesh where there is one) under
a name made of everything that determines it, so an interrupted run goes on where it was and unchanged objects are
taken over from earlier builds. An object without a surface is a ledger row with its reason.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from evaluation.hull import HullFailure, HullSettings, visual_hull
from evaluation.mesh_io import glb_bytes
from evaluation.pieces import Pieces, key_of
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.view_set import TARGET
from rendering.views import ViewStore, from_row

# Raised when the same views and settings would give another mesh than before.
ALGORITHM_VERSION = 1

LEDGER = pa.schema(
    [
        ("uid", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("seconds", pa.float64()),
        ("vertices", pa.int64()),
        ("faces", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ReconstructConfig:
    """How meshes are made from views.

    Attributes:
        resolution: cells along the longest side of the object's box.
        votes: views that may contradict a point without carving it; None: 1 from 16 views on, else 0.
    """

    resolution: int = 64
    votes: int | None = None


def run(config: ReconstructConfig, *, views: Location, out: Location, job: Job) -> Summary:
    """Mesh every object of the view store `views`; writes `<uid>.glb` and `ledger.parquet` into `out`.

    The meshes are Y up as glTF is; turned back to Z up they lie in the frame of the views. Counts are objects.
    Raises UserError when `views` holds no view store.
    """
    uids = ViewStore(views).uids()
    job.run.params({"reconstruct": asdict(config)})
    pieces = Pieces.of(job, out)
    rows = []
    for uid, result in fan_out(reconstruct_object, uids, job, "reconstruct", config=config, views=views, pieces=pieces, out=out):
        rows.append(_failed(uid, type(result).__name__, str(result)) if isinstance(result, Exception) else result)
    rows.sort(key=lambda row: row["uid"])
    (out / "ledger.parquet").write_table(pa.Table.from_pylist(rows, schema=LEDGER))
    pieces.end(job)
    completed = sum(row["status"] == "ok" for row in rows)
    job.run.metrics({"reconstruct/completed": completed, "reconstruct/failed": len(rows) - completed})
    reasons = [row["reason"] for row in rows if row["status"] == "failed"]
    return Summary(completed, len(rows) - completed, facts={"reasons": {r: reasons.count(r) for r in sorted(set(reasons))}})


def reconstruct_object(uid: str, *, config: ReconstructConfig, views: Location, pieces: Pieces, out: Location) -> dict[str, Any]:
    """Put one object's mesh into `out`, from its piece where there is one; returns its ledger row."""
    raw = ViewStore(views).row(uid)
    key = _key(raw, config)
    row = pieces.row(key)
    if row is None:
        started = time.monotonic()
        row, glb = _mesh(raw, config)
        row["seconds"] = round(time.monotonic() - started, 3)
        pieces.write(key, row, glb)
    if row["status"] == "ok":
        (out / f"{uid}.glb").write_bytes(pieces.file(key).read_bytes())
    else:
        (out / f"{uid}.glb").delete()
    return row


def _mesh(raw: dict[str, Any], config: ReconstructConfig) -> tuple[dict[str, Any], bytes | None]:
    targets = from_row(raw).with_role(TARGET)
    try:
        mesh, colors = visual_hull(targets.rgba, targets.camera, HullSettings(config.resolution, config.votes))
    except HullFailure as failure:
        return _failed(raw["uid"], failure.reason, failure.detail), None
    row = {"uid": raw["uid"], "status": "ok", "reason": "", "detail": "", "vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    return row, glb_bytes(mesh, colors)


def _failed(uid: str, reason: str, detail: str) -> dict[str, Any]:
    return {"uid": uid, "status": "failed", "reason": reason, "detail": detail, "seconds": None, "vertices": None, "faces": None}


def _key(raw: dict[str, Any], config: ReconstructConfig) -> str:
    described = [ALGORITHM_VERSION, asdict(config), raw["uid"], raw["roles"], raw["c2w"], raw["intrinsics"]]
    return key_of(described, raw["images"])
