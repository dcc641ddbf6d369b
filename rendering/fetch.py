"""[step] Every object of a catalog as a verified file, or a row that says why not."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering import catalog as catalog_step
from rendering.download import DownloadPolicy
from rendering.glb_header import check_file, content_sha256
from rendering.sources import local, objaverse, procedural
from rendering.sources.base import LOCAL, PROCEDURAL, Fetched, FetchError, ObjectRef

MESHES = "meshes.parquet"
OK, FAILED = "ok", "failed"
SCHEMA = pa.schema([*catalog_step.SCHEMA, *(pa.field(name, pa.string()) for name in ("status", "reason", "detail", "path"))])
_DIGITS = 8
_MAX_CHUNK = 64

Row = dict[str, Any]


@dataclass(frozen=True)
class FetchConfig:
    """How patiently objects are fetched, and where finished ones may already lie.

    Attributes:
        attempts: tries per download.
        timeout_s: longest wait for a connection or for the next bytes.
        limit_s: longest duration of one try.
        backoff_s: pause before the second try; doubles with each.
        objaverse_cache: folder of the `objaverse` package's cache; empty means the package's own.
    """

    attempts: int = 4
    timeout_s: float = 30.0
    limit_s: float = 1800.0
    backoff_s: float = 1.0
    objaverse_cache: str = ""

    @property
    def policy(self) -> DownloadPolicy:
        return DownloadPolicy(self.attempts, self.timeout_s, self.limit_s, self.backoff_s)


@dataclass(frozen=True)
class _Work:
    """One share of objects, with all a worker needs; `present` are the finished files of these objects."""

    objects: list[ObjectRef]
    present: dict[str, list[str]]
    files: Location
    config: FetchConfig


def run(config: FetchConfig, *, catalog: Location, out: Location, job: Job) -> Summary:
    """Write `meshes.parquet`, one row per object of the catalog; items are objects.

    Generated and downloaded files go to `files/` in `job.cache` (in `out` without one) under `<uid>-<sha8>.glb` and are
    used again while their content still has that digest. Local files stay in place. Failures are rows, not errors.

    Raises:
        UserError: not one object could be had.
    """
    objects = catalog_step.read_objects(catalog)
    files = (job.cache or out) / "files"
    present = _present(files, job.fresh_since)
    work = [_Work(chunk, {ref.uid: present.get(ref.uid, []) for ref in chunk}, files, config) for chunk in _chunks(objects, job)]
    rows: list[Row] = []
    with job.progress("fetch", len(objects)) as progress:
        for finished in _on_ray(work, job) if ray.is_initialized() else _on_threads(work, job):
            rows += finished
            failed = sum(row["status"] == FAILED for row in rows)
            progress.update(len(finished), f"failed {failed}" if failed else "")
    (out / MESHES).write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=SCHEMA))
    return _summary(rows)


def _summary(rows: list[Row]) -> Summary:
    reasons = Counter(row["reason"] for row in rows if row["status"] == FAILED)
    failed = sum(reasons.values())
    if failed == len(rows):
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        first = next((row for row in rows), None)
        example = f"; for example {first['uid']}: {first['detail']}" if first else ""
        raise UserError(f"no importable object among {len(rows)} ({counts}{example})", "check the source, or choose another one")
    size = sum(row["bytes"] or 0 for row in rows if row["status"] == OK)
    return Summary(completed=len(rows) - failed, failed=failed, facts={"reasons": dict(reasons), "bytes": size})


def _present(files: Location, fresh_since: float | None) -> dict[str, list[str]]:
    """uid -> names of its finished files; the last digits of a name are those of the content."""
    found: dict[str, list[str]] = {}
    for entry in files.children():
        stem, dot, suffix = entry.name.rpartition(".")
        if dot and suffix == "glb" and (fresh_since is None or entry.mtime >= fresh_since):
            found.setdefault(stem[: -_DIGITS - 1], []).append(entry.name)
    return found


def _chunks(objects: list[ObjectRef], job: Job) -> Iterator[list[ObjectRef]]:
    """Shares small enough that all workers stay busy and progress is seen."""
    size = max(1, min(_MAX_CHUNK, len(objects) // (4 * max(job.resources.workers, 1))))
    return (objects[start : start + size] for start in range(0, len(objects), size))


def _on_threads(work: list[_Work], job: Job) -> Iterator[list[Row]]:
    with ThreadPoolExecutor(max_workers=max(job.resources.workers, 1)) as pool:
        for future in as_completed([pool.submit(fetch_share, share) for share in work]):
            yield future.result()


def _on_ray(work: list[_Work], job: Job) -> Iterator[list[Row]]:
    """The shares as Ray tasks, at most `workers` at a time; a share whose worker dies for good becomes failed rows."""
    task = ray.remote(num_cpus=job.resources.cpus)(fetch_share)
    waiting = list(reversed(work))
    running: dict[ray.ObjectRef, _Work] = {}
    while waiting or running:
        while waiting and len(running) < max(job.resources.workers, 1):
            share = waiting.pop()
            running[task.remote(share)] = share
        ready, _ = ray.wait(list(running))
        for reference in ready:
            share = running.pop(reference)
            try:
                yield ray.get(reference)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
                yield [_failed(ref, FetchError("worker_died", str(error)[:300])) for ref in share.objects]


def fetch_share(work: _Work) -> list[Row]:
    """One row per object of the share."""
    return [_fetch_row(ref, work) for ref in work.objects]


def _fetch_row(ref: ObjectRef, work: _Work) -> Row:
    try:
        fetched = _fetch(ref, work)
    except FetchError as error:
        return _failed(ref, error)
    except OSError as error:
        return _failed(ref, FetchError("storage", f"{type(error).__name__}: {error}"))
    return asdict(ref) | asdict(fetched) | {"status": OK, "reason": "", "detail": ""}


def _failed(ref: ObjectRef, error: FetchError) -> Row:
    return asdict(ref) | {"status": FAILED, "reason": error.reason, "detail": error.detail[:1000], "path": ""}


def _fetch(ref: ObjectRef, work: _Work) -> Fetched:
    if ref.source == LOCAL:
        return local.verify(ref)
    for name in work.present[ref.uid]:
        if (fetched := _whole(work.files / name, ref)) is not None:
            return fetched
    if work.files.is_local:
        return _make(ref, work.files.local_path(), work.config)
    with tempfile.TemporaryDirectory(prefix="mvforge-fetch-") as folder:
        fetched = _make(ref, Path(folder), work.config)
        if Path(fetched.path).parent != Path(folder):
            return fetched  # Lies in the package's cache and stays there.
        target = work.files / Path(fetched.path).name
        target.upload(Path(fetched.path))
        return replace(fetched, path=str(target))


def _make(ref: ObjectRef, folder: Path, config: FetchConfig) -> Fetched:
    """Generate or download one object into `folder` as `<uid>-<sha8>.glb`."""
    if ref.source == PROCEDURAL:
        data = procedural.make_glb(ref.uri)
        sha256 = hashlib.sha256(data).hexdigest()
        place = Location(str(folder / f"{ref.uid}-{sha256[:_DIGITS]}.glb"))
        place.write_bytes(data)
        return Fetched(str(place), sha256, len(data))
    package_cache = Path(config.objaverse_cache) if config.objaverse_cache else objaverse.default_cache()
    return objaverse.fetch_object(ref, folder, package_cache, config.policy)


def _whole(place: Location, ref: ObjectRef) -> Fetched | None:
    """A finished file that still is what its name and the catalog say, else None."""
    with place.as_local() as path:
        try:
            check_file(path)
            sha256, size = content_sha256(path), path.stat().st_size
        except (FetchError, OSError):
            return None
    named = place.name.rpartition(".")[0][-_DIGITS:]
    return Fetched(str(place), sha256, size) if named == sha256[:_DIGITS] and ref.sha256 in (None, sha256) else None
