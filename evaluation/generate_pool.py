"""[step] Actors that load a generator once and turn objects into pieces: the `generate` step and batch inference share them.

Ray Data spreads the objects over the actors. Each finished object is one small file, written atomically by its actor, so an
interrupted run goes on where it was. What goes wrong with an object is its row in the ledger; the other objects go on.
"""

import atexit
import inspect
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import torch

from evaluation.generate_object import Sampling, generate_one, reason_of
from evaluation.generated_pieces import Pieces
from evaluation.infer.pictures import Unusable
from evaluation.model_source import ModelSource
from infra import cluster, logs
from infra.errors import UserError
from infra.job import Job, Resources
from infra.nodes import Room, rows_while_room
from infra.scratch import make_scratch
from infra.seeds import seed_for
from rendering.view_set import ViewSet
from training.methods.base import Generator

MAX_ATTEMPTS = 2
MISTAKE = "mistake"
# More blocks than this cost Ray Data's scheduler more than they help to balance the actors.
MOST_BLOCKS = 4096
BLOCKS_PER_WORKER = 64


class Objects(Protocol):
    """Where the actors find what the generator is shown. Pickles; each actor has its own copy."""

    def read(self, uid: str, place: str) -> tuple[ViewSet, dict[str, Any]]:
        """The object's views, of which the condition views count, and entries of its ledger row.

        Raises:
            Unusable: this object cannot be generated from.
        """
        ...

    def keep(self, uid: str, shown: ViewSet, made: ViewSet) -> dict[str, Any]:
        """Write what is kept beside the views; entries of the ledger row."""
        ...


@dataclass(frozen=True)
class Work:
    """What all objects of a run have in common.

    Attributes:
        sampling: settings that decide the result.
        source: the model.
        objects: where the conditions are.
        pieces: where finished objects go.
        load: opens a generator folder on a device.
        deadline_s: seconds one object may take.
        refusals_are_rows: a `UserError` of the generator fails the object. Otherwise it ends the run with its one message, as
            wrong settings fail for all objects alike.
        log: how the driver logs.
    """

    sampling: Sampling
    source: ModelSource
    objects: Objects
    pieces: Pieces
    load: Callable[[Path, str], Generator]
    deadline_s: float | None = None
    refusals_are_rows: bool = False
    log: logs.Carried = field(default_factory=logs.carried)


def generate_all(tasks: list[dict[str, str]], work: Work, job: Job, finished: int) -> Iterator[dict[str, str]]:
    """Make the pieces of `tasks` (each `{uid, key, place}`), showing progress; yields `{uid, key, status}` as they are finished.

    Args:
        finished: objects that were done before, for the progress line.

    Raises:
        UserError: the model cannot be opened, or the settings are wrong.
    """
    total = finished + len(tasks)
    if not tasks:
        with job.progress("generate", total, done=finished):
            return
    rows = _results(tasks, work, job)
    # The clock of rate and time left starts at the first result: until then the models are loaded, once.
    rows = itertools.chain([next(rows)], rows)
    with job.progress("generate", total, done=finished + 1) as progress:
        failed = 0
        for number, row in enumerate(rows):
            if row["status"] == MISTAKE:
                raise UserError(row["message"], row["mend"])
            failed += row["status"] != "ok"
            job.meter.items(row["status"], 1, row["reason"])
            job.meter.views(int(row["views"]))
            progress.update(int(number > 0), f"failed {failed}" if failed else "")
            yield {name: row[name] for name in ("uid", "key", "status")}


def _results(tasks: list[dict[str, str]], work: Work, job: Job) -> Iterator[dict[str, Any]]:
    cluster.attach()
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours says it in one line
    workers = max(1, min(job.resources.workers, len(tasks)))
    logs.say(f"generate: {len(tasks)} objects, {workers} actors load {work.source.uri}")
    # The pool gives whole blocks to actors: few objects a block, so that no actor is left with the last long one.
    blocks = min(len(tasks), max(MOST_BLOCKS, BLOCKS_PER_WORKER * workers))
    results = ray.data.from_items(tasks, override_num_blocks=blocks).map_batches(
        GenerateActor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(work, uuid.uuid4().hex, max(1, int(job.resources.cpus))),
        num_cpus=job.resources.cpus,
        num_gpus=job.resources.gpus,
    )
    yield from rows_while_room(results.iter_rows(), Room("generate", job.resources))


def usual_resources(workers: int | None, cpus: float, gpus: float | None) -> Resources:
    """Actors for this cluster: one a GPU where there are GPUs, else two; what is given stands."""
    cluster.attach()
    have = int(ray.cluster_resources().get("GPU", 0))
    each = gpus if gpus is not None else (1.0 if have else 0.0)
    return Resources(workers or (max(1, int(have / each)) if each and have else 2), cpus, each)


class GenerateActor:
    """Holds one loaded generator; turns tasks into pieces."""

    def __init__(self, work: Work, session: str, threads: int) -> None:
        logs.adopt(work.log)
        self.work, self.session = work, session
        context = ray.get_runtime_context()
        self.worker = f"{context.get_node_id()[:6]}-{(context.get_actor_id() or context.get_worker_id())[:10]}"
        self.device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(threads)

    @cached_property
    def generator(self) -> Generator:
        """Loaded once, at the first object."""
        self._scratch = make_scratch("model")
        atexit.register(self._scratch.remove)
        try:
            generator = self.work.load(self.work.source.open(self._scratch.folder), self.device)
        except UserError:
            raise
        except Exception as error:  # no object can be made: one message instead of a row for each
            message = f"the model {self.work.source.uri} cannot be opened: {type(error).__name__}: {error}"
            raise UserError(message[:2000], "check its files, and that it fits into memory") from error
        if self.work.deadline_s is not None and not _can_be_watched(generator):
            raise UserError("a generator of this method does not tell how far it is", "leave the deadline out")
        return generator

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        rows = [self._answer(*map(str, task)) for task in zip(batch["uid"], batch["key"], batch["place"], strict=True)]
        told = {name: [row.get(name) or "" for row in rows] for name in ("uid", "key", "status", "reason", "message", "mend")}
        return told | {"views": [int(row.get("views") or 0) for row in rows]}

    def _answer(self, uid: str, key: str, place: str) -> dict[str, Any]:
        try:
            entry = self._one(uid, key, place)
            return {"uid": uid, "key": key} | {name: entry.get(name) for name in ("status", "reason", "views")}
        except UserError as error:  # wrong settings fail for every object alike: the step ends, with this one message
            return {"uid": uid, "key": key, "status": MISTAKE, "message": error.message, "mend": error.mend}

    def _one(self, uid: str, key: str, place: str) -> dict[str, Any]:
        pieces = self.work.pieces
        if pieces.done(key):  # a block is repeated as a whole when its actor died
            return pieces.entry(key)
        # Ray repeats a task whose actor died, without end; an object that kills its actor twice is given up. An actor that ended
        # with its whole node does not count.
        attempts = pieces.attempt(key, self.session)
        entry: dict[str, Any] = {"uid": uid, "reason": "", "detail": "", "attempts": attempts, "worker": self.worker}
        entry |= {"seed": seed_for(self.work.sampling.seed, uid), "key": key}
        generator = self.generator
        started = time.monotonic()
        result = None
        if attempts > MAX_ATTEMPTS:
            entry |= _failed("crash", f"the worker died {attempts - 1} times on this object") | {"attempts": attempts - 1}
        else:
            try:
                shown, facts = self.work.objects.read(uid, place)
                entry |= facts
                result = self._generated(generator, shown)
                entry |= self.work.objects.keep(uid, shown, result) | {"status": "ok", "views": len(result)}
            except Unusable as error:
                entry |= _failed(error.reason, f"{error.message}; {error.mend}" if error.mend else error.message)
            except UserError:
                raise
            except Exception as error:  # the contract of a batch job: one bad object is a row, not the end
                result = None
                entry |= _failed(reason_of(error), f"{type(error).__name__}: {error}")
        pieces.write(key, entry | {"seconds": time.monotonic() - started}, result)
        if entry["status"] != "ok":
            logs.failed(uid, entry["reason"], entry["detail"], entry["attempts"])
        return entry

    def _generated(self, generator: Generator, shown: ViewSet) -> ViewSet:
        work = self.work
        try:
            return generate_one(generator, shown, work.sampling, work.source.uri, work.deadline_s)
        except UserError as error:
            if not work.refusals_are_rows:
                raise
            raise Unusable("refused", error.message, error.mend) from error


def _can_be_watched(generator: Generator) -> bool:
    taken = inspect.signature(generator.generate).parameters.values()
    return any(each.name == "progress" or each.kind is each.VAR_KEYWORD for each in taken)


def _failed(reason: str, detail: str) -> dict[str, str]:
    return {"status": "failed", "reason": reason, "detail": detail[:2000]}
