"""What a finished run left in its store, read without the code that wrote it: by Parquet, JSON and hashes alone."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

# The table of a step that has a row for every object it was given.
LEDGERS = {
    "catalog": "objects.parquet",
    "fetch": "meshes.parquet",
    "render": "ledger.parquet",
    "curate": "ledger.parquet",
    "encode": "ledger.parquet",
    "generate": "ledger.parquet",
    "reconstruct": "ledger.parquet",
}
PACKED = ("render", "encode", "generate")
# Columns of a shard that say how it was made here and now, not what it is.
UNLIKE = ("facts",)


@dataclass(frozen=True)
class Finished:
    """A step's finished build."""

    step: str
    record: dict[str, Any]
    folder: Path


def finished(store: Path, steps: list[str]) -> dict[str, Finished]:
    """The finished builds by step; a step without one is missing."""
    found = {}
    for step in steps:
        for record in sorted((store / step).glob("*/record.json")):
            content = json.loads(record.read_text())
            found[step] = Finished(step, content, record.parent / content["build_id"])
    return found


def statuses(build: Finished) -> list[tuple[str, str]]:
    """(uid, status) of every row of a step's ledger, sorted; a table without a status has `listed`."""
    table = pq.read_table(build.folder / LEDGERS[build.step])
    status = table.column("status").to_pylist() if "status" in table.column_names else ["listed"] * len(table)
    return sorted(zip(table.column("uid").to_pylist(), status, strict=True))


def packed_digests(build: Finished) -> list[tuple[str, str]]:
    """(uid, SHA-256 over all columns that say what it is) of every row of a step's shards, sorted."""
    found = []
    for shard in sorted(build.folder.glob("part-*.parquet")):
        table = pq.read_table(shard)
        for row in table.drop_columns([name for name in UNLIKE if name in table.column_names]).to_pylist():
            digest = hashlib.sha256()
            for name in sorted(row):
                digest.update(repr((name, row[name])).encode())
            found.append((row["uid"], digest.hexdigest()))
    return sorted(found)


def amount(build: Finished) -> int:
    """Pieces of work in a step: updates of a training, objects of others; 0 where neither is known."""
    if build.step.startswith("train."):
        return len(curve(build, "history.jsonl"))
    return len(statuses(build)) if build.step in LEDGERS else 0


def doubled(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def curve(build: Finished, name: str) -> list[dict[str, Any]]:
    """Rows of `history.jsonl` or `validation.jsonl`."""
    return [json.loads(line) for line in (build.folder / name).read_text().splitlines()]


def scores(build: Finished) -> dict[str, float | None]:
    """Every value of a score step: `uid metric view` -> value."""
    rows = pq.read_table(build.folder / "scores.parquet").to_pylist()
    return {f"{row['uid']} {row['metric']} {row['view']}": row["value"] for row in rows}
