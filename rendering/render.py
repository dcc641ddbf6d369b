"""[step] Objects -> views: Ray Data over meshes, one Blender child per actor, resumable object by object.

Each finished object, rendered or failed, is one small Parquet *piece* that its actor writes atomically into the
cache under (uid, file hash, render config). The dataset itself carries ledger rows only. Whatever is killed, pieces
that exist are never rendered again; packing them into shards ends the step. Items counted are objects.
"""

import contextlib
import dataclasses
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from infra import cluster
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from rendering.blender import DENOISE, LIGHT, BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest, require_bpy
from rendering.rigs import RigConfig, rig_named
from rendering.sheet import contact_sheet
from rendering.views import FORMAT_VERSION, SCHEMA, ViewStore, to_table, write_shards

# Raise when the same config would give other pictures; pieces of the old version are then left alone.
RENDER_VERSION = 1
# Times an object may be begun in one run before the death of its actors is held against it.
BEGINNINGS = 3
SHEET_OBJECTS = 16
SHEET_CELL_PX = 64
OUTCOME = b"mvforge_outcome"

CATALOG_COLUMNS = ("uid", "sha256", "split", "group", "category", "licence", "attribution")
LEDGER = pa.schema(
    [(name, pa.string()) for name in CATALOG_COLUMNS]
    + [
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("worker", pa.string()),
        ("views", pa.int32()),
        ("peak_rss_mb", pa.float64()),
        ("phases", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What decides the pictures.

    Attributes:
        rig: a name in `rendering.rigs.RIGS`.
        num_conditions: condition views beside the rig's targets.
        resolution: width and height in pixels.
        samples: Cycles samples per pixel.
        denoise: `none`, `fast`, `balanced` or `accurate`.
        light: `white` (uniform, a white surface renders 255) or `syncdreamer` (uniform grey 0.5).
        extent: longest side of the normalised object's box.
        transparent_glass: glass over nothing gets alpha below 1 instead of counting as the object.
        frame: animation frame at which objects are frozen.
        mesh: whose normalised triangles are stored: `heldout` (val and test), `all` or `none`.
        seed: of the random cameras and of the sampling noise.
    """

    rig: str = "mvdiffusionpp"
    num_conditions: int = 10
    resolution: int = 512
    samples: int = 32
    denoise: str = "balanced"
    light: str = "white"
    extent: float = 1.0
    transparent_glass: bool = False
    frame: int = 1
    mesh: str = "heldout"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("denoise", DENOISE), ("light", LIGHT), ("mesh", ("heldout", "all", "none"))):
            if getattr(self, name) not in allowed:
                raise UserError(f"render.{name} is '{getattr(self, name)}'", f"choose one of: {', '.join(allowed)}")
        for name in ("resolution", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"render.{name} is {getattr(self, name)}", "give a whole number above zero")

    def digest(self) -> str:
        """Names the cache folder: 12 hex digits of everything that changes pictures."""
        settings = {**dataclasses.asdict(self), "mesh": None, "version": RENDER_VERSION, "format": FORMAT_VERSION}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def wants_mesh(self, split: str) -> bool:
        return self.mesh == "all" or (self.mesh == "heldout" and split != "train")


def run(config: RenderConfig, *, meshes: Location, out: Location, job: Job, limits: BlenderLimits | None = None) -> Summary:
    """Render every fetched mesh and pack the views.

    Reads `meshes/meshes.parquet`; writes `part-*.parquet`, `ledger.parquet` (one row per input object, those that
    could not be fetched included) and `sheet.webp` into `out`.

    Raises:
        UserError: no mesh to render, no bpy, Ray not running, or not one object could be rendered.
    """
    rig_named(config.rig)("check", _rig_config(config))  # an impossible rig is refused before anything starts
    require_bpy()
    objects = (meshes / "meshes.parquet").read_table().to_pylist()
    fetched = [row for row in objects if row["status"] == "ok"]
    if not fetched:
        raise UserError(f"no mesh to render among {len(objects)} objects", "see the reasons in the fetch step's meshes.parquet")
    pieces = (job.cache or out) / "pieces" / config.digest()
    missing = _missing(config, fetched, pieces, job)
    _render_missing(config, missing, pieces, job, limits or BlenderLimits(), total=len(fetched))
    ledger = [_ledger_row(row, _outcome(pieces, config, row) if row["status"] == "ok" else None) for row in objects]
    (out / "ledger.parquet").write_table(pa.Table.from_pylist(ledger, schema=LEDGER))
    reasons = Counter(row["reason"] for row in ledger if row["status"] != "ok")
    if sum(reasons.values()) == len(ledger):
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise UserError(f"none of {len(ledger)} objects could be rendered: {counts}", f"details are in {out / 'ledger.parquet'}")
    completed = _pack([row for row in objects if row["status"] == "ok"], config, pieces, out)
    _write_sheet(out)
    if job.cache is None:
        (out / "pieces").delete()
    facts = {"reasons": dict(reasons), "rendered_now": len(missing), "views": sum(row["views"] for row in ledger)}
    return Summary(completed=completed, failed=len(ledger) - completed, facts=facts)


def _rig_config(config: RenderConfig) -> RigConfig:
    return RigConfig(num_conditions=config.num_conditions, extent=config.extent, seed=config.seed)


def piece_name(config: RenderConfig, row: dict[str, Any]) -> str:
    """File name of an object's piece; an object that comes with its mesh is another piece than one without."""
    return f"{quote(row['uid'], safe='')}-{row['sha256'][:12]}{'-mesh' if config.wants_mesh(row['split']) else ''}.parquet"


def _missing(config: RenderConfig, rows: list[dict], pieces: Location, job: Job) -> list[dict]:
    """The objects without a usable piece."""
    since = job.fresh_since or 0.0
    present = {entry.name for entry in pieces.children() if entry.mtime >= since}
    return [
        row
        for row in rows
        if (name := piece_name(config, row)) not in present or (job.retry_failed and read_outcome(pieces / name)["status"] != "ok")
    ]


def _render_missing(config: RenderConfig, rows: list[dict], pieces: Location, job: Job, limits: BlenderLimits, total: int) -> None:
    """Send the objects through a pool of `RenderActor`s; every result lies in `pieces` when this returns."""
    with job.progress("render", total, done=total - len(rows)) as progress:
        if not rows:
            return
        cluster.attach()
        failed = 0
        with _quiet_ray_data(), _unwrapped_errors():
            for outcome in _dataset(config, rows, pieces, job, limits).iter_rows():
                failed += outcome["status"] != "ok"
                progress.update(1, f"failed {failed}" if failed else "")


def _dataset(config: RenderConfig, rows: list[dict], pieces: Location, job: Job, limits: BlenderLimits) -> ray.data.Dataset:
    """The lazy pipeline: one row per object in, its uid and status out."""
    columns = ("uid", "path", "sha256", "split")
    table = pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows])
    # A manifest is one block, which one actor would take whole: a block per object lets all share.
    return (
        ray.data.from_arrow(table)
        .repartition(len(rows))
        .map_batches(
            RenderActor,
            fn_constructor_args=(config, pieces.uri, limits, job.fresh_since, job.retry_failed, uuid.uuid4().hex),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=job.resources.cpus,
            compute=ray.data.ActorPoolStrategy(size=max(1, min(job.resources.workers, len(rows))), max_tasks_in_flight_per_actor=1),
        )
    )


@contextlib.contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Our own progress line replaces Ray Data's bars, which fill a job's log."""
    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = before


@contextlib.contextmanager
def _unwrapped_errors() -> Iterator[None]:
    """A `UserError` raised inside an actor arrives wrapped; hand on what the user is meant to read."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, UserError):
            raise UserError(cause.message, cause.mend) from error
        raise


class RenderActor:
    """A Ray Data actor with its own Blender child. Turns manifest rows into pieces and returns their outcomes.

    Ray restarts dead actors and repeats their tasks without end; `run_id` tells beginnings of this run from older ones.
    """

    def __init__(
        self,
        config: RenderConfig,
        pieces: str,
        limits: BlenderLimits,
        fresh_since: float | None,
        retry_failed: bool,
        run_id: str,
    ) -> None:
        self.config, self.pieces, self.run_id = config, Location(pieces), run_id
        self.fresh_since, self.retry_failed = fresh_since or 0.0, retry_failed
        self.name = ray.get_runtime_context().get_actor_id() or "local"
        self.worker = BlenderWorker(limits)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([{"uid": row["uid"], "status": self._render(row)["status"]} for row in batch.to_pylist()])

    def _render(self, row: dict[str, Any]) -> dict[str, Any]:
        target = self.pieces / piece_name(self.config, row)
        if self._done_meanwhile(target):
            return read_outcome(target)
        beginning = self.pieces / "begun" / f"{target.name}.json"
        count = self._beginnings(beginning)
        if count >= BEGINNINGS:
            detail = f"the actor died {count} times while rendering it, perhaps for want of memory"
            result: Rendered | RenderFailure = RenderFailure(row["uid"], "worker_died", detail, attempts=count)
        else:
            beginning.write_json({"run": self.run_id, "count": count + 1})
            result = self._rendered(row)
        outcome = self._write_piece(target, result)
        beginning.delete()
        return outcome

    def _beginnings(self, place: Location) -> int:
        """How often this run has begun the object without finishing it."""
        if not place.exists():
            return 0
        note = place.read_json()
        return note["count"] if note["run"] == self.run_id else 0

    def _write_piece(self, target: Location, result: Rendered | RenderFailure) -> dict[str, Any]:
        if isinstance(result, RenderFailure):
            outcome: dict[str, Any] = {
                "status": "failed",
                "reason": result.reason,
                "detail": result.detail,
                "attempts": result.attempts,
                "seconds": result.seconds,
                "views": 0,
                "peak_rss_mb": None,
                "phases": {},
            }
            table = SCHEMA.empty_table()
        else:
            outcome = {
                "status": "ok",
                "reason": None,
                "detail": None,
                "attempts": result.attempts,
                "seconds": result.seconds,
                "views": len(result.views),
                "peak_rss_mb": result.peak_rss_mb,
                "phases": result.phases_s,
            }
            table = to_table(result.views)
        outcome["worker"] = self.name
        target.write_table(table.replace_schema_metadata({**(SCHEMA.metadata or {}), OUTCOME: json.dumps(outcome).encode()}))
        return outcome

    def _done_meanwhile(self, target: Location) -> bool:
        """Ray repeats a task whose actor died; what that actor finished is not done twice."""
        if self.retry_failed or not target.exists():
            return False
        return target.fs.get_file_info(target.path).mtime_ns / 1e9 >= self.fresh_since

    def _rendered(self, row: dict[str, Any]) -> Rendered | RenderFailure:
        config = self.config
        views = rig_named(config.rig)(row["uid"], _rig_config(config))
        try:
            with Location(row["path"]).as_local() as mesh:
                return self.worker.render(
                    RenderRequest(
                        uid=row["uid"],
                        mesh=Path(mesh),
                        views=views,
                        resolution=config.resolution,
                        samples=config.samples,
                        denoise=config.denoise,
                        light=config.light,
                        extent=config.extent,
                        transparent_glass=config.transparent_glass,
                        frame=config.frame,
                        want_mesh=config.wants_mesh(row["split"]),
                        seed=config.seed,
                    )
                )
        except OSError as error:  # the mesh could not be read, or the scratch disk is full: this object's failure
            return RenderFailure(row["uid"], "io_error", f"{type(error).__name__}: {error}")

    def __del__(self) -> None:
        if hasattr(self, "worker"):
            self.worker.close()


def read_outcome(piece: Location) -> dict[str, Any]:
    """How the rendering of one object ended, from its piece's footer."""
    with pq.ParquetFile(piece.path, filesystem=piece.fs) as file:
        return json.loads(file.schema_arrow.metadata[OUTCOME])


def _outcome(pieces: Location, config: RenderConfig, row: dict[str, Any]) -> dict[str, Any]:
    return read_outcome(pieces / piece_name(config, row))


def _ledger_row(row: dict[str, Any], outcome: dict[str, Any] | None) -> dict[str, Any]:
    """Catalog facts plus the outcome; an object that was not fetched keeps the fetch step's reason."""
    if outcome is None:
        outcome = {"status": "failed", "reason": row["reason"], "detail": row["detail"], "attempts": 0, "seconds": 0.0, "views": 0}
    facts = {name: row.get(name) for name in CATALOG_COLUMNS}
    return {**facts, **outcome, "phases": json.dumps(outcome.get("phases", {}), sort_keys=True)}


def _pack(rows: list[dict], config: RenderConfig, pieces: Location, out: Location) -> int:
    """Pieces of this catalog's rendered objects -> shards; returns the number of objects."""
    for entry in out.children():
        if entry.name.startswith("part-"):  # from a packing that was interrupted
            (out / entry.name).delete()
    places = [pieces / piece_name(config, row) for row in sorted(rows, key=lambda row: row["uid"])]
    tables = (piece.read_table() for piece in places)
    return write_shards((table for table in tables if table.num_rows), out)


def _write_sheet(out: Location) -> None:
    """`sheet.webp`: a contact sheet of up to `SHEET_OBJECTS` objects, evenly chosen."""
    store = ViewStore(out)
    uids = store.uids()
    step = max(1, -(-len(uids) // SHEET_OBJECTS))
    sheet = contact_sheet([store.read(uid) for uid in uids[::step]], cell_px=SHEET_CELL_PX)
    with contextlib.closing(pa.BufferOutputStream()) as buffer:
        sheet.save(buffer, "WEBP", quality=85)
        (out / "sheet.webp").write_bytes(buffer.getvalue().to_pybytes())
