"""Meshes of what a batch job generated: the `reconstruct` step's own work on each object, resumable and recorded.

meshes/<uid>.glb
mesh_rows/part-00000.parquet    one row an object, added to and never rewritten; a later row replaces an earlier one
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from evaluation import reconstruct
from evaluation.generated_pieces import digest
from evaluation.infer.results import VIEWS
from evaluation.pieces import Pieces
from evaluation.reconstruct import ReconstructConfig, reconstruct_object
from infra import cluster
from infra.fanout import fan_out
from infra.job import Job
from infra.shards import shard_name, shard_names
from infra.storage import Location

MESHES, ROWS = "meshes", "mesh_rows"
PACKED_TOGETHER = 128
MADE = pa.schema(
    [
        ("uid", pa.string()),
        ("mesh_key", pa.string()),
        ("mesh_status", pa.string()),
        ("mesh_reason", pa.string()),
        ("mesh_detail", pa.string()),
        ("mesh_fallbacks", pa.list_(pa.string())),
        ("mesh_seconds", pa.float64()),
        ("mesh_file", pa.string()),
        ("mesh_sha256", pa.string()),
    ]
)


def make_meshes(config: ReconstructConfig, rows: pa.Table, out: Location, job: Job, retry_failed: bool = False) -> int:
    """Mesh every generated object of `rows` (uid, status, views_sha256) that has no mesh of these settings yet; returns how many
    were made now."""
    rows = rows.select(["uid", "status", "views_sha256"])
    wanted = {row["uid"]: _key(row["views_sha256"], config) for row in rows.to_pylist() if row["status"] == "ok"}
    done = {row["uid"]: row for row in mesh_rows(out).to_pylist()}
    there = {f"{MESHES}/{entry.name}" for entry in (out / MESHES).walk()}
    missing = []
    for uid, key in wanted.items():
        row = done.get(uid)
        finished = (
            row is not None and row["mesh_key"] == key and (row["mesh_file"] in there if row["mesh_status"] == "ok" else not retry_failed)
        )
        if not finished:
            missing.append(uid)
    if not missing:
        return 0
    cluster.attach()
    pieces = Pieces(out / "work" / MESHES, retry_failed=retry_failed)
    waiting: list[dict[str, Any]] = []
    for uid, result in fan_out(_mesh_one, missing, job, "mesh", config=config, out=out, pieces=pieces):
        failure = {"mesh_status": "failed", "mesh_reason": type(result).__name__, "mesh_detail": str(result)[:2000]}
        waiting.append({"uid": uid, "mesh_key": wanted[uid], **(failure if isinstance(result, Exception) else result)})
        if len(waiting) >= PACKED_TOGETHER:
            _add(out, waiting)
            waiting = []
    _add(out, waiting)
    pieces.place.delete()
    return len(missing)


def mesh_rows(out: Location) -> pa.Table:
    """The newest row of every object that was meshed."""
    table = pa.concat_tables([MADE.empty_table(), *((out / ROWS / name).read_table() for name in shard_names(out / ROWS))])
    newest = {uid: number for number, uid in enumerate(table.column("uid").to_pylist())}
    return table.take(pa.array(newest.values(), pa.int64()))


def _mesh_one(uid: str, *, config: ReconstructConfig, out: Location, pieces: Pieces) -> dict[str, Any]:
    row = reconstruct_object(uid, config=config, views=out / VIEWS, pieces=pieces, out=out / MESHES)
    made = {f"mesh_{name}": row[name] for name in ("status", "reason", "detail", "fallbacks", "seconds")}
    if row["status"] != "ok":
        return made
    file = f"{MESHES}/{uid}.glb"
    return made | {"mesh_file": file, "mesh_sha256": hashlib.sha256((out / file).read_bytes()).hexdigest()}


def _key(views_sha256: str, config: ReconstructConfig) -> str:
    return digest(json.dumps([reconstruct.ALGORITHM_VERSION, views_sha256, asdict(config)], sort_keys=True).encode())


def _add(out: Location, rows: list[dict[str, Any]]) -> None:
    if rows:
        number = 1 + max((int(name[5:].removesuffix(".parquet")) for name in shard_names(out / ROWS)), default=-1)
        (out / ROWS / shard_name(number)).write_table(pa.Table.from_pylist(rows, schema=MADE))
