"""[step] Objects -> views: Ray Data over meshes, one Blender child per actor, resumable object by object.

Each finished object, rendered or failed, is one small *piece* (`rendering/pieces.py`) that its actor writes atomically
into the cache under (uid, file hash, render config). The dataset itself carries ledger facts only, so the driver's
memory does not grow with the pictures. Whatever is killed, pieces that exist are never rendered again; packing them
into shards ends the step. Items counted are objects.
"""

import contextlib
import dataclasses
import io
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data

from infra import cluster
from infra.ahead import ahead
from infra.errors import UserError, unwrapped
from infra.job import Job, Summary
from infra.nodes import Room, rows_while_room
from infra.processes import start_time
from infra.shards import shard_names
from infra.storage import Location
from rendering.attribution import COLUMNS, write_attribution
from rendering.blender import BlenderLimits, BlenderWorker, require_bpy
from rendering.ledger import LEDGER, Ledger, ledger_row
from rendering.pieces import DONE, FAILED, QUARANTINED, Piece, list_pieces, object_name, read_outcome, read_piece, remove_abandoned
from rendering.render_actor import RUNS, MakeWorker, RenderActor, RenderTask
from rendering.render_config import RenderConfig
from rendering.render_progress import BlockProgress, Outcomes
from rendering.render_status import Started
from rendering.selection import carry_excluded
from rendering.sheet import contact_sheet
from rendering.store_statistics import Statistics
from rendering.views import from_row, write_shards

__all__ = ["LEDGER", "RenderConfig", "run"]

SHEET_OBJECTS = 16
SHEET_CELL_PX = 64
# Objects handed to an actor at once. More would save little and leave the others idle at the end.
OBJECTS_PER_BLOCK = 32
# Notes of a driver that was killed; no block of objects is in hand for so long.
STALE_RUN_S = 7 * 86400.0
ROWS_AT_ONCE = 1000
PIECES_AHEAD = 4


def run(
    config: RenderConfig,
    *,
    meshes: Location,
    out: Location,
    job: Job,
    limits: BlenderLimits | None = None,
    make_worker: MakeWorker = BlenderWorker,
) -> Summary:
    """Render every fetched mesh and pack the views.

    Reads `meshes/meshes.parquet`; writes `part-*.parquet`, `statistics.json`, `ledger.parquet` (one row per input object,
    those that could not be fetched included), `sheet.webp` and `progress.json` into `out`. `make_worker` is for dry runs.

    Raises:
        UserError: no mesh to render, no bpy, Ray not running, or not one object could be rendered.
    """
    config.views_of("check")  # an impossible rig is refused before anything starts
    if make_worker is BlenderWorker:
        require_bpy()
    objects = (meshes / "meshes.parquet").read_table().sort_by("uid")
    fetched = sum(status == "ok" for status in objects.column("status").to_pylist())
    if not fetched:
        raise UserError(f"no mesh to render among {len(objects)} objects", "see the reasons in the fetch step's meshes.parquet")
    pieces = (job.cache or out) / "pieces" / config.digest()
    remove_abandoned(pieces, out)
    found, missing = left_to_do(config, objects, pieces, job)
    limits = dataclasses.replace(limits or BlenderLimits(), gpu=config.device != "cpu")
    task = RenderTask(config, pieces, _run_id(), limits, make_worker)
    _start(config, objects, found, missing, job).write(out)
    _render_missing(task, missing, found, job, total=fetched)
    ledger, completed = _pack(config, objects, found, pieces, out)
    _write_sheet(config, objects, found, pieces, out)
    write_attribution(_rows((out / "ledger.parquet").read_table(columns=[*COLUMNS, "status"])), out)
    carry_excluded(meshes, out)
    if job.cache is None:
        (out / "pieces").delete()
    facts = {"reasons": dict(ledger.reasons), "rendered_now": len(missing), "views": ledger.views}
    return Summary(completed=completed, failed=len(objects) - completed, facts=facts)


def piece_of(config: RenderConfig, row: dict[str, Any]) -> str:
    """Name of an object's piece, without state and ending."""
    return object_name(row["uid"], row["sha256"], config.wants_mesh(row["split"]))


def left_to_do(config: RenderConfig, objects: pa.Table, pieces: Location, job: Job) -> tuple[dict[str, Piece], pa.Table]:
    """Pieces that there are, by object name, and the rows of `objects` (as `meshes.parquet` has them) to render now."""
    found = list_pieces(pieces)
    return found, _missing(config, objects, found, pieces, job)


def _missing(config: RenderConfig, objects: pa.Table, found: dict[str, Piece], pieces: Location, job: Job) -> pa.Table:
    """The objects to render now, as rows for `RenderActor`."""
    since, todo = job.fresh_since or 0.0, []
    for row in _rows(objects.select(["uid", "path", "sha256", "split", "status"])):
        if row["status"] != "ok":
            continue
        name = piece_of(config, row)
        piece = found.get(name)
        current = piece if piece is not None and piece.mtime >= since else None
        again = current is not None and job.retry_failed and _may_try_again(config, current, pieces)
        if current is None or again:
            previous = piece.name if piece is not None else None
            todo.append((name, row["uid"], row["path"], config.wants_mesh(row["split"]), previous, again))
    columns = list(zip(*todo, strict=True)) if todo else [()] * len(TODO)
    return pa.Table.from_arrays([pa.array(values, field.type) for values, field in zip(columns, TODO, strict=True)], schema=TODO)


def _may_try_again(config: RenderConfig, piece: Piece, pieces: Location) -> bool:
    """Failures may; quarantined ones only where the limit was raised since."""
    if piece.state == QUARANTINED:
        return read_outcome(pieces / piece.name)["attempts"] < config.max_attempts
    return piece.state == FAILED


TODO = pa.schema(
    [
        ("name", pa.string()),
        ("uid", pa.string()),
        ("path", pa.string()),
        ("with_mesh", pa.bool_()),
        ("previous", pa.string()),
        ("counted", pa.bool_()),
    ]
)


def _start(config: RenderConfig, objects: pa.Table, found: dict[str, Piece], missing: pa.Table, job: Job) -> Started:
    """What is known before the first object is rendered."""
    again, kept = set(missing.column("name").to_pylist()), Counter[tuple[str, str | None]]()
    for row in _rows(objects.select(["uid", "sha256", "split", "status", "reason"])):
        if row["status"] != "ok":
            kept[FAILED, row["reason"]] += 1
        elif (name := piece_of(config, row)) not in again:
            kept[found[name].state, found[name].reason] += 1
    states = [(state, reason, count) for (state, reason), count in kept.items()]
    return Started(config.digest(), len(objects), states, len(config.views_of("check")), job.resources.workers)


def _render_missing(task: RenderTask, missing: pa.Table, found: dict[str, Piece], job: Job, total: int) -> None:
    """Send the objects through a pool of `RenderActor`s; every result lies in its piece, listed in `found`, when this returns."""
    with job.progress("render", total, done=total - len(missing)) as progress:
        if not len(missing):
            return
        cluster.attach()
        _remove_stale_notes(task.pieces / RUNS)
        outcomes = Outcomes(job.meter, len(task.config.views_of("check")))
        watched = BlockProgress(progress, task.notes, outcomes)
        with _quiet_ray_data(), unwrapped(), watched.watching():
            batches: Iterator[Any] = iter(
                _dataset(task, missing, job).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            )
            gpus = gpus_per_worker(task.config, job)
            for batch in rows_while_room(batches, Room("render", dataclasses.replace(job.resources, gpus=gpus))):
                answers = batch.to_pylist()
                for answer in answers:
                    found[answer["name"]] = Piece(answer["piece"], answer["state"], answer["reason"], time.time())
                for block in {answer["block"] for answer in answers}:
                    outcomes.tell(block, {each["name"]: each for each in answers if each["block"] == block}, answered=True)
                watched.answer({answer["block"] for answer in answers}, len(answers), sum(answer["state"] != DONE for answer in answers))
        task.notes.delete()


def _dataset(task: RenderTask, missing: pa.Table, job: Job) -> ray.data.Dataset:
    """The lazy pipeline: one row per object in, its outcome in short out."""
    workers = max(1, min(job.resources.workers, len(missing)))
    return ray.data.from_arrow(list(blocks(missing, workers))).map_batches(
        RenderActor,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=job.resources.cpus,
        num_gpus=gpus_per_worker(task.config, job) or None,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
    )


def gpus_per_worker(config: RenderConfig, job: Job) -> float:
    """Without GPUs of its own an actor would be hidden from all of them, and asking for absent ones would wait for ever.

    Raises:
        UserError: the device is a GPU, and the cluster has none.
    """
    if config.device == "cpu":
        return job.resources.gpus
    wanted = job.resources.gpus or 1.0
    if ray.cluster_resources().get("GPU", 0.0) < wanted:
        raise UserError(
            f"render.device is {config.device}, and this Ray cluster has no GPU", "set render.device=cpu, or add nodes with GPUs"
        )
    return wanted


def blocks(rows: pa.Table, workers: int) -> Iterator[pa.Table]:
    """Cut the rows into what an actor takes at once: up to `OBJECTS_PER_BLOCK` while there are many, single ones at the end.

    A small set is thereby shared by all actors, and a large one costs the driver little.
    """
    start = number = 0
    while start < len(rows):
        size = min(OBJECTS_PER_BLOCK, max(1, (len(rows) - start) // (workers * 4)))
        block = rows.slice(start, size)
        yield block.append_column("block", pa.array([number] * len(block), pa.int32())).combine_chunks()
        start, number = start + size, number + 1


def _run_id() -> str:
    """Names a run's notes, with the driver in it: random, host, process id, start of the process."""
    return "+".join([uuid.uuid4().hex, socket.gethostname(), str(os.getpid()), start_time(os.getpid())])


def _remove_stale_notes(runs: Location) -> None:
    """Notes of drivers that were killed: known dead where they ran on this host, else by age."""
    for entry in runs.children():
        host, pid, started = (entry.name.split("+") + [""] * 3)[1:4]
        is_dead = host == socket.gethostname() and pid.isdigit() and start_time(int(pid)) != started
        notes = [note.mtime for note in (runs / entry.name).children()]
        if is_dead or time.time() - max(notes, default=entry.mtime) > STALE_RUN_S:
            (runs / entry.name).delete()


@contextlib.contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Our own progress line replaces Ray Data's bars, which fill a job's log."""
    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    context.raise_original_map_exception = True  # else what a person is meant to read would not arrive
    try:
        yield
    finally:
        context.enable_progress_bars = before


def _pack(config: RenderConfig, objects: pa.Table, found: dict[str, Piece], pieces: Location, out: Location) -> tuple[Ledger, int]:
    """Pieces of this catalog's objects -> shards, statistics and ledger, in one pass; returns the ledger and the objects completed.

    Raises:
        UserError: there is not one view to pack; the ledger is written all the same.
    """
    for name in shard_names(out):  # from a packing that was interrupted
        (out / name).delete()
    statistics, digest = Statistics(), config.digest()

    def outcome(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, pa.Table | None]:
        if row["status"] != "ok":
            return row, None, None
        return row, *read_piece(pieces / found[piece_of(config, row)].name)

    def tables(ledger: Ledger) -> Iterator[pa.Table]:
        for row, result, table in ahead(outcome, _rows(objects), PIECES_AHEAD):
            ledger.add(ledger_row(row, result, digest))
            if table is not None:
                statistics.add(table, row.get("licence"))
                yield table

    with Ledger.writing(out / "ledger.parquet") as ledger:
        completed = write_shards(tables(ledger), out)
    if not completed:
        counts = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons.most_common())
        raise UserError(f"none of {len(objects)} objects could be rendered: {counts}", f"details are in {out / 'ledger.parquet'}")
    (out / "statistics.json").write_json(statistics.summary(config.described()) | {"rig": config.rig, "profile": config.profile})
    return ledger, completed


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _write_sheet(config: RenderConfig, objects: pa.Table, found: dict[str, Piece], pieces: Location, out: Location) -> None:
    """`sheet.webp`: a contact sheet of up to `SHEET_OBJECTS` objects, evenly chosen."""
    fetched = (row for row in _rows(objects.select(["uid", "sha256", "split", "status"])) if row["status"] == "ok")
    done = [piece.name for row in fetched if (piece := found[piece_of(config, row)]).state == DONE]
    tables = [read_piece(pieces / name)[1] for name in done[:: max(1, -(-len(done) // SHEET_OBJECTS))]]
    sheet = contact_sheet(
        [from_row(table.to_pylist()[0]) for table in tables if table is not None], cell_px=SHEET_CELL_PX, background="grey"
    )
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=85)
    (out / "sheet.webp").write_bytes(buffer.getvalue())
