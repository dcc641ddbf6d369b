"""[step] Views -> the arrays (latents, image tokens) that later stages train on; Ray Data over objects, one model per actor.

Each finished object, encoded or failed, is one small Parquet piece that its actor writes atomically below `out/pieces`,
so an interrupted step goes on where it stopped; packing the pieces by uid ends it. Items counted are objects.
"""

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

from infra import cluster, logs
from infra.attempts import Attempts
from infra.errors import UserError, unwrapped
from infra.job import Job, Summary
from infra.nodes import Room, rows_while_room
from infra.shards import DamagedShard
from infra.storage import Location
from rendering.views import ViewStore
from training.data import kept_uids
from training.encoded import to_table, write_shards
from training.lookup import method_named

FAILURE = b"mvforge_failure"
MOST_BLOCKS, BLOCKS_PER_WORKER = 4096, 64
MOST_DEATHS = 2  # of workers, before an object is given up
LEDGER = pa.schema([(name, pa.string()) for name in ("uid", "status", "reason", "detail")])


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What decides the arrays.

    Attributes:
        method, model: name in `METHODS` and that method's own config.
        stage: the stage whose checkpoint encodes.
    """

    method: str = ""
    model: Any = None
    stage: str = ""


def run(config: EncodeConfig, *, views: Location, kept: Location, checkpoint: Location, out: Location, job: Job) -> Summary:
    """Encode every kept training and validation object.

    Args:
        checkpoint: output of the train step of `config.stage`.

    Writes `part-*.parquet` (`training.encoded.EncodedStore`) and `ledger.parquet` (uid, status, reason, detail).

    Raises:
        UserError: not one object could be encoded.
    """
    splits = kept_uids(kept)
    uids = sorted(uid for split in ("train", "val") for uid in splits.get(split, []))
    if not uids:
        raise UserError("no objects to encode", "see rejected.parquet of the curate step")
    pieces = out / "pieces"
    _encode_missing(config, views, uids, checkpoint, pieces, job)
    ledger = [_outcome(pieces, uid) for uid in uids]
    done = [row["uid"] for row in ledger if row["status"] == "ok"]
    if not done:
        raise UserError(
            f"none of {len(uids)} objects could be encoded; first: {ledger[0]['detail']}", f"redo train.{config.stage} or the render step"
        )
    (out / "ledger.parquet").write_table(pa.Table.from_pylist(ledger, schema=LEDGER))
    write_shards(((pieces / _piece(uid)).read_table() for uid in done), out)
    job.run.metrics({"objects": len(done), "failed": len(uids) - len(done)})
    pieces.delete()
    reasons = Counter(row["reason"] for row in ledger if row["status"] != "ok")
    return Summary(completed=len(done), failed=len(uids) - len(done), facts={"reasons": dict(reasons)})


def _piece(uid: str) -> str:
    return f"{quote(uid, safe='')}.parquet"


def _outcome(pieces: Location, uid: str) -> dict[str, Any]:
    place = pieces / _piece(uid)
    failure = (pq.read_schema(place.path, filesystem=place.fs).metadata or {}).get(FAILURE)
    if failure is None:
        return {"uid": uid, "status": "ok", "reason": None, "detail": None}
    return {"uid": uid, "status": "failed", **json.loads(failure)}


def _blocks(uids: list[str], workers: int) -> Iterator[pa.Table]:
    """One object each while there are few; of many objects several, as each block costs the driver and Ray's head time and memory."""
    size = -(-len(uids) // max(MOST_BLOCKS, BLOCKS_PER_WORKER * workers))
    return (pa.table({"uid": uids[start : start + size]}) for start in range(0, len(uids), size))


def _encode_missing(config: EncodeConfig, views: Location, uids: list[str], checkpoint: Location, pieces: Location, job: Job) -> None:
    """Every uid has its piece when this returns."""
    present = {entry.name for entry in pieces.children()}
    missing = [uid for uid in uids if _piece(uid) not in present]
    with job.progress("encode", len(uids), done=len(uids) - len(missing)) as progress:
        if not missing:
            return
        cluster.attach()
        resources = job.resources
        context = ray.data.DataContext.get_current()
        before, context.enable_progress_bars = context.enable_progress_bars, False  # our own line replaces them
        context.raise_original_map_exception = True  # else what a damaged shard says would not arrive
        try:
            # A block goes to one actor whole.
            rows = (
                ray.data.from_arrow(list(_blocks(missing, resources.workers)))
                .map_batches(
                    EncodeActor,
                    fn_constructor_args=(config, views, checkpoint, Attempts(pieces, uuid.uuid4().hex), logs.carried()),
                    batch_size=1,
                    batch_format="pyarrow",
                    num_cpus=resources.cpus,
                    num_gpus=resources.gpus or None,
                    compute=ray.data.ActorPoolStrategy(size=max(1, min(resources.workers, len(missing))), max_tasks_in_flight_per_actor=1),
                )
                .iter_rows()
            )
            failed = 0
            with unwrapped():
                for row in rows_while_room(rows, Room("encode", resources)):
                    failed += row["status"] != "ok"
                    job.meter.items(row["status"], 1, row["reason"])
                    progress.update(note=f"failed {failed}" if failed else "")
        finally:
            context.enable_progress_bars = before


class WorkerDied(Exception):
    """An object's failure: it ends the process that encodes it."""


class EncodeActor:
    """Opens the encoder once, at the first object, and writes one piece per object."""

    def __init__(self, config: EncodeConfig, views: Location, checkpoint: Location, attempts: Attempts, log: logs.Carried) -> None:
        logs.adopt(log)
        self.config, self.checkpoint, self.attempts = config, checkpoint, attempts
        self.store = ViewStore(views)
        self._encoder: Any = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        uids = batch.column("uid").to_pylist()
        reasons = [self._encode(uid) for uid in uids]
        return pa.table({"uid": uids, "status": ["failed" if reason else "ok" for reason in reasons], "reason": reasons})

    def _encode(self, uid: str) -> str:
        """Write the piece; returns the reason of a failure, or nothing."""
        if (self.attempts.place / _piece(uid)).exists():
            # A worker that died later in this block of objects had finished it.
            return _outcome(self.attempts.place, uid)["reason"] or ""
        reason = ""
        key = quote(uid, safe="")
        deaths = self.attempts.begin(key)
        try:
            if deaths >= MOST_DEATHS:
                raise WorkerDied(f"the worker died {deaths} times on this object")
            table = to_table(uid, self._opened()(self.store.read(uid)))
        except DamagedShard:  # the render step's, and to be mended there; not this object's failure
            raise
        except Exception as error:  # becomes the object's row in the ledger
            reason = type(error).__name__
            logs.failed(uid, reason, str(error), error=error)
            failure = json.dumps({"reason": reason, "detail": str(error)[:2000]}).encode()
            table = pa.table({"uid": [uid]}).replace_schema_metadata({FAILURE: failure})
        (self.attempts.place / _piece(uid)).write_table(table)
        self.attempts.end(key)
        return reason

    def _opened(self) -> Any:
        if self._encoder is None:
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
            method = method_named(self.config.method)
            with (self.checkpoint / "checkpoint").as_local() as folder:
                self._encoder = method.encoder(self.config.stage, self.config.model, Path(folder), device)
        return self._encoder
