"""[step] Every object of a catalog as a verified file, or a row that says why not."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import pyarrow as pa
import ray

from infra.errors import UserError
from infra.fanout import in_tasks
from infra.job import Job, Summary
from infra.storage import Location
from rendering import catalog as catalog_step
from rendering.fetch_config import FetchConfig
from rendering.fetch_share import DIGITS, FAILED, OK, Row, Share, failed_row, fetch_share
from rendering.part_file import clean
from rendering.quarantine import Failures
from rendering.selection import carry_excluded
from rendering.sources import objaverse
from rendering.sources.base import OBJAVERSE, FetchError, ObjectRef

__all__ = ["MESHES", "SCHEMA", "FetchConfig", "run"]

MESHES = "meshes.parquet"
_TEXTS = ("status", "reason", "detail", "path", "licence_in_file")
SCHEMA = pa.schema([*catalog_step.SCHEMA, *(pa.field(name, pa.string()) for name in _TEXTS), pa.field("licence_conflict", pa.bool_())])
_MAX_CHUNK = 64


def run(config: FetchConfig, *, catalog: Location, out: Location, job: Job) -> Summary:
    """Write `meshes.parquet`, one row per object of the catalog; items are objects.

    Generated and downloaded files go to `files/` in `job.cache` (in `out` without one) under `<uid>-<sha8>.glb` and are
    used again while their content still has that digest. Local files stay in place. Failures are rows, not errors; the
    lasting ones are remembered in the cache and not asked for again unless the job retries failures or starts afresh.

    Raises:
        UserError: not one object could be had.
    """
    objects = catalog_step.read_objects(catalog)
    cache = job.cache or out
    files = cache / "files"
    present = _present(files, job.fresh_since)
    if files.is_local:
        missing = [ref for ref in objects if ref.source == OBJAVERSE and not present.get(ref.uid)]
        clean(files.local_path(), [url for ref in missing for url in objaverse.addresses(ref, config.mirrors)])
    failures = Failures.listed(cache, job.fresh_since, job.retry_failed)
    licences = catalog_step.read_policy(catalog)
    shares, threads = _at_a_time(objects, config, job)
    work = [
        Share(chunk, {uid: present.get(uid, []) for uid in uids}, files, failures.of(uids), licences, config, shares, threads)
        for chunk in _chunks(objects, job, threads)
        if (uids := [ref.uid for ref in chunk])
    ]
    rows: list[Row] = []
    failed = 0
    with job.progress("fetch", len(objects)) as progress:
        for finished in _on_ray(work, job) if ray.is_initialized() else _on_threads(work):
            rows += finished
            failed += sum(row["status"] == FAILED for row in finished)
            _post(finished, job)
            progress.update(len(finished), f"failed {failed}" if failed else "")
    carry_excluded(catalog, out)
    (out / MESHES).write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=SCHEMA))
    return _summary(rows)


def _post(rows: list[Row], job: Job) -> None:
    for row in rows:
        job.meter.items(row["status"], 1, row["reason"])
    job.meter.bytes(sum(row["bytes"] or 0 for row in rows if row["status"] == OK))


def _at_a_time(objects: list[ObjectRef], config: FetchConfig, job: Job) -> tuple[int, int]:
    """(shares worked on at a time, downloads at a time in each): together no more than there may be connections."""
    workers = max(job.resources.workers, 1)
    if not any(ref.source == OBJAVERSE for ref in objects):
        return workers, 1
    shares = min(workers, config.connections)
    return shares, config.connections // shares


def _summary(rows: list[Row]) -> Summary:
    reasons = Counter(row["reason"] for row in rows if row["status"] == FAILED)
    failed = sum(reasons.values())
    if failed == len(rows):
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        first = next((row for row in rows), None)
        example = f"; for example {first['uid']}: {first['detail']}" if first else ""
        raise UserError(f"no importable object among {len(rows)} ({counts}{example})", "check the source, or choose another one")
    size = sum(row["bytes"] or 0 for row in rows if row["status"] == OK)
    conflicts = sum(bool(row["licence_conflict"]) for row in rows)
    facts = {"reasons": dict(reasons), "bytes": size, "licence_conflicts": conflicts}
    return Summary(completed=len(rows) - failed, failed=failed, facts=facts)


def _present(files: Location, fresh_since: float | None) -> dict[str, list[str]]:
    """uid -> names of its finished files; the last digits of a name are those of the content."""
    found: dict[str, list[str]] = {}
    for entry in files.children():
        stem, dot, suffix = entry.name.rpartition(".")
        if dot and suffix == "glb" and (fresh_since is None or entry.mtime >= fresh_since):
            found.setdefault(stem[: -DIGITS - 1], []).append(entry.name)
    return found


def _chunks(objects: list[ObjectRef], job: Job, at_least: int = 1) -> Iterator[list[ObjectRef]]:
    """Shares small enough that all workers stay busy and progress is seen."""
    size = max(at_least, min(_MAX_CHUNK, len(objects) // (4 * max(job.resources.workers, 1))))
    return (objects[start : start + size] for start in range(0, len(objects), size))


def _on_threads(work: list[Share]) -> Iterator[list[Row]]:
    with ThreadPoolExecutor(max_workers=max(1, work[0].shares) if work else 1) as pool:
        for future in as_completed([pool.submit(fetch_share, share) for share in work]):
            yield future.result()


def _on_ray(work: list[Share], job: Job) -> Iterator[list[Row]]:
    """The shares as Ray tasks, a few at a time; a share whose worker dies for good becomes failed rows."""
    resources = replace(job.resources, gpus=0.0)
    for share, result in in_tasks(fetch_share, work, resources, "fetch", at_once=work[0].shares if work else 1):
        if isinstance(result, ray.exceptions.RayError) and not isinstance(result, ray.exceptions.RayTaskError):
            yield [failed_row(ref, FetchError("worker_died", str(result)[:300])) for ref in share.objects]
        elif isinstance(result, Exception):
            raise result
        else:
            yield result
