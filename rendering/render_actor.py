"""What runs in a render worker process: manifest rows in, pieces written, short outcomes out.

Ray restarts a dead actor and repeats the block of objects it had in hand, without end. A note per block says what of it
is finished and where the object in hand was begun, so nothing is rendered twice and a killer is given up. That an actor ended
with its whole node is not held against the object.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from infra import logs
from infra.errors import UserError
from infra.nodes import here, still_there
from infra.storage import Location
from rendering.blender import BlenderLimits, BlenderWorker, Rendered, RenderFailure, RenderRequest
from rendering.lights import lights_for
from rendering.pieces import DONE, FAILED, QUARANTINED, read_outcome, write_piece
from rendering.render_config import RenderConfig
from rendering.views import to_table

# Times an object may be begun in one run before the death of its actors is held against it.
BEGINNINGS = 3
RUNS = "runs"


class Worker(Protocol):
    """Renders one object after the other; `rendering.blender.BlenderWorker`, or a stand-in for dry runs."""

    def render(self, request: RenderRequest) -> Rendered | RenderFailure: ...
    def close(self) -> None: ...


MakeWorker = Callable[[BlenderLimits], Worker]


@dataclass(frozen=True)
class RenderTask:
    """What all actors of one run share.

    Attributes:
        pieces: where pieces go.
        run_id: tells notes of this run from those of a run that was killed.
        make_worker: called once per actor.
        log: how the driver logs.
    """

    config: RenderConfig
    pieces: Location
    run_id: str
    limits: BlenderLimits = BlenderLimits()
    make_worker: MakeWorker = BlenderWorker
    log: logs.Carried = field(default_factory=logs.carried)

    @property
    def notes(self) -> Location:
        return self.pieces / RUNS / self.run_id


class RenderActor:
    """A callable for Ray Data with its own worker, and so its own Blender child.

    A batch has the columns `block`, `name` (of the object's piece), `uid`, `path`, `with_mesh`, `previous` (the piece that
    is replaced, or null) and `counted` (whether that piece's attempts count); the answer `block` (its note's
    name), `name`, `piece`, `state`, `reason`.
    """

    def __init__(self, task: RenderTask) -> None:
        logs.adopt(task.log)
        self.task = task
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.node = here()
        self.worker = task.make_worker(task.limits)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        block = f"{rows[0]['block']:06d}.json"
        place = self.task.notes / block
        note = place.read_json() if place.exists() else {"finished": {}, "begun": None, "nodes": []}
        for row in rows:
            if row["name"] in note["finished"]:
                continue
            deaths = still_there(note["nodes"]) if note["begun"] == row["name"] else 0
            note["nodes"] = [*(note["nodes"] if note["begun"] == row["name"] else []), self.node]
            note["begun"] = row["name"]
            if deaths < BEGINNINGS:
                _write_note(place, note)  # before the object is touched: it may be the last thing this process does
            note["finished"][row["name"]] = self._finish(row, deaths)
        _write_note(place, note)
        return pa.Table.from_pylist([{"block": block, "name": row["name"], **note["finished"][row["name"]]} for row in rows], schema=ANSWER)

    def _finish(self, row: dict[str, Any], deaths: int) -> dict[str, Any]:
        """Render one object that so many actors died of in this run, and write its piece."""
        if deaths >= BEGINNINGS:
            detail = f"the actor died {deaths} times while rendering it, perhaps for want of memory"
            result: Rendered | RenderFailure = RenderFailure(row["uid"], "worker_died", detail, attempts=deaths)
        else:
            result = self._rendered(row)
        before = read_outcome(self.task.pieces / row["previous"])["attempts"] if row["counted"] else 0
        views = None
        if isinstance(result, Rendered):
            try:
                views = to_table(result.views)
            except ValueError as error:  # a pass that no reader could use, for example a depth that is not finite
                result = RenderFailure(row["uid"], "bad_views", str(error), result.attempts, result.seconds)
        outcome = self._outcome(result, before)
        piece = write_piece(self.task.pieces, row["name"], outcome, views, row["previous"])
        if outcome["state"] != DONE:
            logs.failed(row["uid"], outcome["reason"], outcome["detail"], outcome["attempts"])
        return {"piece": piece, "state": outcome["state"], "reason": outcome["reason"]}

    def _outcome(self, result: Rendered | RenderFailure, attempts_before: int) -> dict[str, Any]:
        attempts = attempts_before + result.attempts
        shared = {"attempts": attempts, "seconds": result.seconds, "worker": self.name}
        if isinstance(result, Rendered):
            facts = {"views": len(result.views), "peak_rss_mb": result.peak_rss_mb, "phases": result.phases_s}
            return {"state": DONE, "reason": None, "detail": None, **shared, **facts}
        state = QUARANTINED if attempts >= self.task.config.max_attempts else FAILED
        return {"state": state, "reason": result.reason, "detail": result.detail, **shared, "views": 0, "peak_rss_mb": None, "phases": {}}

    def _rendered(self, row: dict[str, Any]) -> Rendered | RenderFailure:
        config = self.task.config
        views = config.views_of(row["uid"])
        lights = lights_for(config.light, row["uid"], config.seed, sets=max(views.light_of_view) + 1)
        try:
            with Location(row["path"]).as_local() as mesh:
                request = RenderRequest(
                    uid=row["uid"],
                    mesh=Path(mesh),
                    views=views,
                    resolution=config.resolution,
                    profile=config.sampling,
                    device=config.device,
                    passes=config.passes,
                    lights=lights,
                    extent=config.extent,
                    transparent_glass=config.transparent_glass,
                    frame=config.frame,
                    want_mesh=row["with_mesh"],
                    seed=config.seed,
                )
                result = self.worker.render(request)
        except OSError as error:  # the mesh could not be read, or the scratch disk is full: this object's failure
            return RenderFailure(row["uid"], "io_error", f"{type(error).__name__}: {error}")
        if isinstance(result, RenderFailure) and result.reason == "no_device":  # would be every object's failure
            raise UserError(f"render.device is {config.device}: {result.detail}", "set render.device=cpu, or use nodes that have one")
        return result

    def __del__(self) -> None:
        if hasattr(self, "worker"):
            self.worker.close()


def _write_note(place: Location, note: dict[str, Any]) -> None:
    place.write_bytes(json.dumps(note).encode(), sync=False)  # it need not survive the machine, only this process


ANSWER = pa.schema([(name, pa.string()) for name in ("block", "name", "piece", "state", "reason")])
