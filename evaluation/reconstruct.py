"""[step] Generated views -> one textured mesh per object, as GLB.

Objects are independent Ray tasks. A finished object is a piece (its ledger row, and the mesh where there is one) under
a name made of everything that determines it, so an interrupted run goes on where it was and unchanged objects are
taken over from earlier builds. An object without a surface is a ledger row with its reason; a stage that failed, or that the
guard refused, is told in the row of the mesh that was made without it.
"""

import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from evaluation.hull import HullFailure
from evaluation.meshing.pipeline import Report, reconstruct
from evaluation.meshing.settings import ReconstructConfig
from evaluation.pieces import Pieces, key_of
from infra import logs
from infra.fanout import fan_out
from infra.job import Job, Summary
from infra.storage import Location
from rendering.view_set import TARGET
from rendering.views import ViewStore, from_row

__all__ = ["ReconstructConfig", "reconstruct_object", "run"]

# Raised when the same views and settings would give another mesh than before.
ALGORITHM_VERSION = 2

LEDGER = pa.schema(
    [
        ("uid", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("seconds", pa.float64()),
        ("vertices", pa.int64()),
        ("faces", pa.int64()),
        # Stages that took effect, and `stage: reason` of those that failed; see `evaluation.meshing.pipeline.Report`.
        ("stages", pa.list_(pa.string())),
        ("fallbacks", pa.list_(pa.string())),
        ("odd_views", pa.list_(pa.int64())),
        ("offset", pa.float64()),
        ("guard", pa.string()),
        ("held_out", pa.int64()),
        ("hull_mask_iou", pa.float64()),
        ("hull_psnr", pa.float64()),
        ("refined_mask_iou", pa.float64()),
        ("refined_psnr", pa.float64()),
        ("eikonal", pa.float64()),
        ("steps", pa.int64()),
    ]
)


def run(config: ReconstructConfig, *, views: Location, out: Location, job: Job) -> Summary:
    """Mesh every object of the view store `views`; writes `<uid>.glb` and `ledger.parquet` into `out`.

    The meshes are Y up as glTF is; turned back to Z up they lie in the frame of the views. Counts are objects.
    Raises UserError when `views` holds no view store.
    """
    uids = ViewStore(views).uids()
    job.run.params({"reconstruct": asdict(config)})
    pieces = Pieces.of(job, out)
    rows = []
    constants = {"config": config, "views": views, "pieces": pieces, "out": out}
    for uid, result in fan_out(reconstruct_object, uids, job, "reconstruct", lambda row: (row["status"], row["reason"]), **constants):
        rows.append(_failed(uid, type(result).__name__, str(result)) if isinstance(result, Exception) else result)
    rows.sort(key=lambda row: row["uid"])
    (out / "ledger.parquet").write_table(pa.Table.from_pylist(rows, schema=LEDGER))
    pieces.end(job)
    made = [row for row in rows if row["status"] == "ok"]
    failed = Counter(row["reason"] for row in rows if row["status"] == "failed")
    refined, fell_back = sum("refine" in row["stages"] for row in made), sum(bool(row["fallbacks"]) for row in made)
    job.run.metrics(
        {
            "reconstruct/completed": len(made),
            "reconstruct/failed": len(rows) - len(made),
            "reconstruct/refined": refined,
            "reconstruct/fell_back": fell_back,
        }
    )
    facts = {"reasons": dict(sorted(failed.items())), "refined": refined, "fell_back": fell_back}
    return Summary(len(made), len(rows) - len(made), facts=facts)


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
        if row["status"] != "ok":
            logs.failed(uid, row["reason"], row["detail"])
    if row["status"] == "ok":
        (out / f"{uid}.glb").write_bytes(pieces.file(key).read_bytes())
    else:
        (out / f"{uid}.glb").delete()
    return row


def _mesh(raw: dict[str, Any], config: ReconstructConfig) -> tuple[dict[str, Any], bytes | None]:
    targets = from_row(raw).with_role(TARGET)
    try:
        made = reconstruct(targets.rgba, targets.camera, config)
    except HullFailure as failure:
        return _failed(raw["uid"], failure.reason, failure.detail), None
    counts = {"vertices": len(made.mesh.vertices), "faces": len(made.mesh.faces)}
    return {"uid": raw["uid"], "status": "ok", "reason": "", "detail": ""} | counts | asdict(made.report), made.glb()


def _failed(uid: str, reason: str, detail: str) -> dict[str, Any]:
    nothing = {"seconds": None, "vertices": None, "faces": None} | asdict(Report())
    return nothing | {"uid": uid, "status": "failed", "reason": reason, "detail": detail}


def _key(raw: dict[str, Any], config: ReconstructConfig) -> str:
    described = [ALGORITHM_VERSION, asdict(config), raw["uid"], raw["roles"], raw["c2w"], raw["intrinsics"]]
    return key_of(described, raw["images"])
