"""The manifest of a batch job: one row an object, as Parquet and as JSON lines, and a summary that is written last."""

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from evaluation.infer.meshes import MADE
from evaluation.infer.results import KEPT
from infra.storage import Location

FORMAT_VERSION = 1
TABLE, LINES, SUMMARY = "manifest.parquet", "manifest.jsonl", "summary.json"
# What a user can use; keys and workers' attempts stay in the rows beside the shards.
OF_VIEWS = [name for name in KEPT.names if name not in ("key",)]
OF_MESHES = [name for name in MADE.names if name not in ("uid", "mesh_key")]
SCHEMA = pa.schema([*(KEPT.field(name) for name in OF_VIEWS), *(MADE.field(name) for name in OF_MESHES)])


def joined(rows: pa.Table, meshes: pa.Table) -> pa.Table:
    """Rows of views with what came of their meshes; null where there is none, or only one of earlier views."""
    place = {uid: number for number, uid in enumerate(meshes.column("uid").to_pylist())}
    good = [uid if status == "ok" else None for uid, status in zip(*(rows.column(n).to_pylist() for n in ("uid", "status")), strict=True)]
    found = meshes.take(pa.array([place.get(uid) for uid in good], pa.int64()))
    columns = [*(rows.column(name) for name in OF_VIEWS), *(found.column(name) for name in OF_MESHES)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write(table: pa.Table, out: Location) -> dict[str, str]:
    """Both forms of the manifest; their SHA-256 by file name."""
    (out / TABLE).write_table(table, compression="zstd")
    (out / LINES).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (TABLE, LINES)}


def counted(table: pa.Table) -> dict[str, Any]:
    """Figures of a manifest: objects by status and reason, of views and of meshes, and the mean seconds of an object."""
    rows = table.select(["status", "reason", "seconds", "views", "mesh_status", "mesh_reason"]).to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    meshes = Counter(row["mesh_status"] for row in rows if row["mesh_status"])
    return {
        "objects": len(rows),
        "completed": len(good),
        "failed": len(rows) - len(good),
        "views": sum(row["views"] or 0 for row in good),
        "reasons": _sorted(Counter(row["reason"] for row in rows if row["status"] != "ok")),
        "meshes": meshes["ok"],
        "meshes_failed": meshes["failed"],
        "mesh_reasons": _sorted(Counter(row["mesh_reason"] for row in rows if row["mesh_status"] == "failed")),
        "seconds_per_object": round(sum(row["seconds"] for row in good) / len(good), 3) if good else None,
    }


def _sorted(counts: Counter) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
