"""Whether every file that a manifest names is there and holds what was made."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.generated_pieces import views_sha256
from evaluation.infer.manifest import LINES, SUMMARY, TABLE
from infra.errors import UserError
from infra.fanout import fan_out
from infra.job import Job
from infra.storage import Location

FILES_TOGETHER = 64
Problem = dict[str, str]


def verify(out: Location, job: Job) -> list[Problem]:
    """What is wrong in a finished output folder, as `{uid, file, problem}`; uid is empty for the manifest's own files.

    Reads everything: as Ray tasks where a cluster is connected, else in this process.

    Raises:
        UserError: the folder holds no finished job.
    """
    if not (out / SUMMARY).exists():
        raise UserError(f"{out.shown} holds no finished batch job: no {SUMMARY}", "run `mvforge generate` to its end, or check the path")
    summary = (out / SUMMARY).read_json()
    problems = [
        {"uid": "", "file": name, "problem": said}
        for name, wanted in summary["files"].items()
        if (said := _file_problem(out / name, wanted)) is not None
    ]
    if any(problem["file"] == TABLE for problem in problems):
        return problems
    table = (out / TABLE).read_table()
    problems += _rows_problems(table, summary)
    checks = [*_shard_checks(table), *_file_checks(table)]
    for check, found in fan_out(_checked, checks, job, "verify", out=out):
        if isinstance(found, Exception):
            found = [{"uid": "", "file": check["file"], "problem": f"{type(found).__name__}: {found}"}]
        problems += found
    return sorted(problems, key=lambda problem: (problem["file"], problem["uid"]))


def _rows_problems(table: pa.Table, summary: dict[str, Any]) -> Iterator[Problem]:
    uids, statuses, reasons = (table.column(name).to_pylist() for name in ("uid", "status", "reason"))
    for uid, count in Counter(uids).items():
        if count > 1:
            yield {"uid": uid, "file": TABLE, "problem": f"{count} rows"}
    for uid, status, reason in zip(uids, statuses, reasons, strict=True):
        if status not in ("ok", "failed") or (status == "failed") != bool(reason):
            yield {"uid": uid, "file": TABLE, "problem": f"status {status!r} with reason {reason!r}"}
    if len(uids) != summary["counts"]["objects"]:
        yield {"uid": "", "file": LINES, "problem": f"{summary['counts']['objects']} objects were counted, {len(uids)} are listed"}


def _shard_checks(table: pa.Table) -> list[dict[str, Any]]:
    shards: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
    for row in table.select(["uid", "status", "views_file", "views_sha256", "views"]).to_pylist():
        if row["status"] == "ok":
            shards[row["views_file"] or ""][row["uid"]] = (row["views_sha256"], row["views"])
    return [{"file": name, "objects": objects} for name, objects in sorted(shards.items())]


def _file_checks(table: pa.Table) -> list[dict[str, Any]]:
    named = []
    for kind, status in (("sheet", "status"), ("mesh", "mesh_status")):
        for row in table.select(["uid", status, f"{kind}_file", f"{kind}_sha256"]).to_pylist():
            if row[f"{kind}_file"] or (kind == "mesh" and row[status] == "ok"):
                named.append((row["uid"], row[f"{kind}_file"] or "", row[f"{kind}_sha256"]))
    return [{"file": "", "files": named[start : start + FILES_TOGETHER]} for start in range(0, len(named), FILES_TOGETHER)]


def _checked(check: dict[str, Any], *, out: Location) -> list[Problem]:
    if "objects" in check:
        return list(_shard_problems(out, check["file"], check["objects"]))
    return [
        {"uid": uid, "file": file, "problem": said}
        for uid, file, wanted in check["files"]
        if (said := _file_problem(out / file, wanted)) is not None
    ]


def _shard_problems(out: Location, file: str, objects: dict[str, tuple[str, int]]) -> Iterator[Problem]:
    """Each object of a shard is read by itself, as one row group."""
    if not file or not (out / file).exists():
        yield {"uid": "", "file": file, "problem": f"absent, with the views of {len(objects)} objects"}
        return
    seen: Counter[str] = Counter()
    try:
        with pq.ParquetFile((out / file).path, filesystem=out.fs) as shard:
            for group in range(shard.num_row_groups):
                for row in shard.read_row_group(group).to_pylist():
                    seen[row["uid"]] += 1
                    if row["uid"] in objects and (views_sha256(row), len(row["images"])) != tuple(objects[row["uid"]]):
                        yield {"uid": row["uid"], "file": file, "problem": "its views are not those that were made"}
    except (pa.ArrowException, OSError) as error:
        yield {"uid": "", "file": file, "problem": f"cannot be read: {error}"[:500]}
        return
    for uid in objects:
        if seen[uid] != 1:
            yield {"uid": uid, "file": file, "problem": f"{seen[uid]} rows of views"}


def _file_problem(file: Location, sha256: str) -> str | None:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        return f"cannot be read: {error}"
    return None if hashlib.sha256(data).hexdigest() == sha256 else "is not the file that was written"
