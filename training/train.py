"""[step] One stage of a method -> a checkpoint, its curves and the list of objects it saw. Ray Train lives only here.

Two or more worker processes run `training.stage.train_stage`, the very function a plain process runs. They resume by
themselves from the last sharded checkpoint when a worker, their controller or a node dies, and so does a second call with the
same build id.
"""

import contextlib
import json
import logging
import os
import pickle
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import ray
import ray.train
import ray.train.torch

from infra import cluster, logs, notice
from infra.errors import UserError
from infra.job import Job, Resources, Summary
from infra.storage import Location
from training.checkpoint import SharedCheckpoints
from training.checkpoint_age import age_of_newest
from training.config import TrainConfig
from training.data import DataLocations
from training.guard import UnstableTraining
from training.lookup import method_named
from training.node_watch import furthest, room_watched
from training.notice import LEFT, Left, nothing
from training.notice_file import NOTICE, FileNotice, give
from training.pictures import pictures_of
from training.plots import loss_plot
from training.resume import Curves
from training.stage import StageInputs, train_stage
from training.tracked_rows import TrackedRows

MAX_FAILURES = 3
POLL_S = 0.5
STOPPED = "stopped.json"
WORKERS = "workers.pickle"
EARLIER = "earlier"

log = logging.getLogger(__name__)


def run(
    config: TrainConfig,
    *,
    views: Location,
    kept: Location,
    out: Location,
    job: Job,
    arrays: Location | None = None,
    init: Location | None = None,
    weights: dict[str, Location] | None = None,
) -> Summary:
    """Train `config.stage` on `job.resources.workers` processes.

    Writes `checkpoint/` (the method's own format), `history.jsonl`, `validation.jsonl` (first row before training),
    `uids.json` and `loss.png`; with `sample_every` also `previews.jsonl` and `pictures/`. Counts are training objects.

    Args:
        arrays: output of the encode step, for stages that train on it.
        init: output of the train step that this stage starts from.
        weights: outputs of earlier train steps by stage name.

    Raises:
        UserError: settings that cannot work, or training that became NaN (the message names the objects).
    """
    _check(config, arrays, init, weights, job)
    inputs = StageInputs(DataLocations(views, kept, arrays), init, dict(weights or {}))
    tracked = TrackedRows(job.run)
    if not (out / "history.jsonl").exists():  # written last: else the workers are through already
        for old in (STOPPED, NOTICE, LEFT):
            (out / old).delete()
        job.run.params(asdict(config))
        _train_on_workers(config, inputs, out, job, tracked)
    history, validation = _read_lines(out / "history.jsonl"), _read_lines(out / "validation.jsonl")
    previews = _read_lines(out / "previews.jsonl") if (out / "previews.jsonl").exists() else []
    _track_earlier(tracked, {"train": history, "validation": validation, "preview": previews}, out)
    picture = loss_plot(history, validation, f"train.{config.stage}", previews)
    (out / "loss.png").write_bytes(picture)
    job.run.artifact("plots/loss.png", picture)
    job.run.artifact("uids.json", (out / "uids.json").read_bytes())
    for leftover in ("state", "live", WORKERS, NOTICE, LEFT):
        (out / leftover).delete()
    uids = (out / "uids.json").read_json()
    facts = {
        "steps": config.steps,
        "last_loss": history[-1]["loss"] if history else None,
        "first_validation": validation[0] if validation else None,
        "last_validation": validation[-1] if validation else None,
    }
    return Summary(completed=len(uids), facts=facts)


def _check(config: TrainConfig, arrays: Location | None, init: Location | None, weights: dict[str, Location] | None, job: Job) -> None:
    """Refuse before any process starts what could only fail in one."""
    method = method_named(config.method)
    stages = {stage.name: stage for stage in method.stages}
    if config.stage not in stages:
        raise UserError(f"method {config.method} has no stage '{config.stage}'", f"its stages are {', '.join(stages)}")
    stage = stages[config.stage]
    if stage.starts_from and init is None:
        raise UserError(f"train.{config.stage} starts from {stage.starts_from}, whose checkpoint is not given", "pass init=")
    if stage.encodes_with and config.encode_on_the_fly and stage.encodes_with not in (weights or {}):
        raise UserError(f"train.{config.stage} encodes with {stage.encodes_with}, whose checkpoint is not given", "pass weights=")
    if stage.encodes_with and not config.encode_on_the_fly and arrays is None:
        mend = "pass arrays=, or set encode_on_the_fly"
        raise UserError(f"train.{config.stage} trains on arrays encoded with {stage.encodes_with}, which are not given", mend)
    _check_workers(config, job.resources)


def _check_workers(config: TrainConfig, resources: Resources) -> None:
    """The global batch must divide among every number of workers that the training may come to have."""
    if resources.min_workers is None:
        config.micro_batches(resources.workers)
        return
    if not 1 <= resources.min_workers <= resources.workers:
        raise UserError(
            f"train.{config.stage}: min_workers {resources.min_workers} does not lie between 1 and workers {resources.workers}",
            "set min_workers to at most workers, or leave it out for a fixed number",
        )
    shares = config.global_batch // config.micro_batch
    divide = [world for world in range(1, resources.workers + 1) if shares % world == 0]
    if config.global_batch % config.micro_batch or not set(range(resources.min_workers, resources.workers + 1)) <= set(divide):
        raise UserError(
            f"train.{config.stage}: {resources.min_workers} to {resources.workers} workers cannot all share global_batch "
            f"{config.global_batch} in micro-batches of {config.micro_batch}",
            f"up to {resources.workers} workers, these can: {', '.join(map(str, divide))}; change workers, min_workers or global_batch",
        )


def _train_on_workers(config: TrainConfig, inputs: StageInputs, out: Location, job: Job, tracked: TrackedRows) -> None:
    cluster.attach()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how late the death of a worker is noticed
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less; nothing here reacts to it
    resources = job.resources
    trainer = _Trainer(
        _worker,
        # The build id in the path: an interrupted build resumes by itself, a new build never does.
        train_loop_config={
            **{"config": config, "inputs": inputs, "out": out, "checkpoints": out / "state" / job.build_id},
            "log": logs.carried(),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=_worker_range(resources),
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the older RunConfig
            name=job.build_id,
            storage_path=str(out / "state" / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )

    def give_up(error: UserError) -> None:
        (out / STOPPED).write_json({"message": error.message, "mend": error.mend, "traceback": ""})
        trainer.abort()

    watched = room_watched(f"train.{config.stage}", resources, give_up)
    told = notice.heeding(_passed_on(out), limited=True)
    with job.run.watching_system(), _forwarded(out, tracked, config, job), watched, told:
        try:
            _fit(trainer, out, out / "state" / job.build_id)
        except ray.train.TrainingFailedError as error:
            _raise_if_stopped(out)
            raise RuntimeError(f"train.{config.stage} failed {MAX_FAILURES + 1} times, last: {error}") from error
        if (out / LEFT).exists():  # said in here, since the block's end would only tell that there was a notice
            raise Left((out / LEFT).read_json()["step"])
    _raise_if_stopped(out)


def _passed_on(out: Location) -> Callable[[], None]:
    """Hand a notice that this process gets on to the workers, which have some seconds to write a checkpoint and leave."""

    def pass_on() -> None:
        log.warning("told to end: the workers write a checkpoint and leave")
        give(out, leave=True)

    # In a thread: this is called by a signal handler, perhaps in the middle of a line that is being written.
    return lambda: threading.Thread(target=pass_on, name="notice", daemon=True).start()


def _worker_range(resources: Resources) -> Any:
    """One number, or the smallest and the largest (which mypy's older ScalingConfig does not know)."""
    return (resources.min_workers, resources.workers) if resources.min_workers else resources.workers


def _fit(trainer: "_Trainer", out: Location, checkpoints: Location) -> None:
    """Ray Train restarts dead workers; a dead controller, which is what restarts them, is replaced here.

    Only failures without a new checkpoint in between are too many: a long training on many nodes loses some again and again.
    """
    deaths, reached = 0, furthest(checkpoints)
    while True:
        try:
            trainer.fit()
            return
        except (ray.exceptions.RayActorError, ray.train.TrainingFailedError) as error:
            is_controller = isinstance(error, ray.exceptions.RayActorError)
            if is_controller:
                _free_workers(out)
            if (out / STOPPED).exists():
                return
            before, reached = reached, furthest(checkpoints)
            deaths = deaths + 1 if reached == before else 1
            if reached == before and (not is_controller or deaths > MAX_FAILURES):
                raise
            what = "controller died" if is_controller else f"workers failed {MAX_FAILURES + 1} times"
            log.warning("the training's %s; it is started again from its last checkpoint: %s", what, error)


def _free_workers(out: Location) -> None:
    """The workers of a dead controller die with it, but what they had reserved would stay reserved until this job ends."""
    if (out / WORKERS).exists():
        group = pickle.loads((out / WORKERS).read_bytes())
        ray.util.remove_placement_group(group)
        (out / WORKERS).delete()


class _Trainer(ray.train.torch.TorchTrainer):
    """Starts quicker: without the actor that would split Ray datasets (none are used) and without the one that watches over
    the placement group through the dashboard (`_free_workers` does; without a dashboard that actor only logs errors).

    Ray 2.60 has no public way to leave a default callback out; a test notices when a later one is built differently.
    """

    LEFT_OUT = ("DatasetsCallback", "PlacementGroupCleanerCallback")
    _controller: Any = None

    def fit(self) -> Any:
        try:
            return super().fit()
        finally:
            # Not left to leave by itself: Ray 2.60 sometimes waits for ever on the way out (what is still to be published is posted
            # to the event loop that is being taken down), and such a process outlives its cluster. Nor kept by whoever keeps this
            # object, if only in a traceback.
            self.abort()
            self._controller = None

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in self.LEFT_OUT]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller
        super()._register_sigint_handler(controller)  # type: ignore[misc]

    def abort(self) -> None:
        """End a running `fit` of the main thread with a RayActorError; its workers die with the controller."""
        if self._controller is not None:
            ray.kill(self._controller)


def _raise_if_stopped(out: Location) -> None:
    if (out / STOPPED).exists():
        reason = (out / STOPPED).read_json()
        if reason["traceback"]:
            log.error("%s", reason["traceback"])
        raise UserError(reason["message"], reason["mend"])


def _worker(setup: dict[str, Any]) -> None:
    """One training process. An error that would come back at every attempt is left in `stopped.json` and ends the retries."""
    import torch

    logs.adopt(setup["log"])
    out: Location = setup["out"]
    if (out / STOPPED).exists():
        return
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    if context.get_world_rank() == 0:
        (out / WORKERS).write_bytes(pickle.dumps(ray.util.get_current_placement_group()))

    def post(kind: str, row: dict[str, Any]) -> None:
        (out / "live" / f"{kind}-{int(row['step']):010d}.json").write_json(row)

    def post_earlier(curves: Curves) -> None:
        rows = {"train": curves.history, "validation": curves.validation, "preview": curves.previews}
        (out / "live" / f"{EARLIER}-{uuid.uuid4().hex}.json").write_json(rows)

    config: TrainConfig = setup["config"]
    # Not Ray Train's own: a report holds all ranks until the slowest has uploaded, is known to the controller only and lost
    # with it, and whatever storage returns is loaded unverified.
    checkpoints = SharedCheckpoints(setup["checkpoints"], config.keep_checkpoints, config.keep_best)
    looking = FileNotice(out).looking() if context.get_world_rank() == 0 else contextlib.nullcontext(nothing)
    try:
        with looking as asked:
            train_stage(config, setup["inputs"], out, checkpoints, post, device, asked, post_earlier)
    except Left as left:  # the group ends well; the driver tells that the training is not through
        if context.get_world_rank() == 0:
            (out / LEFT).write_json({"step": left.step})
    except Exception as error:
        if stop := _stop_reason(error, config):
            (out / STOPPED).write_json({**stop, "traceback": traceback.format_exc()})
        raise


def _stop_reason(error: Exception, config: TrainConfig) -> dict[str, str] | None:
    """Message and mend of an error that a new attempt would only repeat; None for one that may pass (a lost peer, a full disk)."""
    if isinstance(error, UserError):
        return {"message": error.message, "mend": error.mend}
    if isinstance(error, UnstableTraining):
        return {"message": f"train.{config.stage}: {error}", "mend": error.mend}
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)):
        message = f"train.{config.stage}: {type(error).__name__}: {error}"
        return {"message": message, "mend": "this is an error in code or settings; see the log"}
    return None


@contextlib.contextmanager
def _forwarded(out: Location, tracked: TrackedRows, config: TrainConfig, job: Job) -> Iterator[None]:
    """While the block runs, rows that rank 0 leaves in `out/live` become progress and tracked metrics.

    So workers need no tracking client, and rows survive the death of this process.
    """
    ended = threading.Event()
    job.meter.gauge("mvforge_checkpoint_age_seconds", age_of_newest(out / "state" / job.build_id))

    def forward() -> None:
        with job.progress(f"train.{config.stage}", config.steps, unit="step") as progress:
            last = False
            while not last:
                last = ended.wait(POLL_S)
                for kind, row in _take_rows(out / "live"):
                    if kind == "train":
                        job.meter.training(row)
                        waits = f", {tracked.run.buffered} tracking calls wait for MLflow" if tracked.run.buffered else ""
                        progress.update(max(0, int(row["step"]) - progress.done), note=f"loss {row['loss']:.4f}{waits}")
                    if kind == EARLIER:
                        _track_earlier(tracked, row, out)
                    elif kind == "pictures":
                        for path in row["paths"]:
                            _track_picture(tracked, path, out)
                    else:
                        tracked.row(kind, row)

    thread = threading.Thread(target=_reporting(forward), name="training rows", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=60)


def _track_earlier(tracked: TrackedRows, rows: Mapping[str, list[dict[str, float]]], out: Location) -> None:
    """Rows that the run lacks, with the sample pictures of those."""
    steps = [int(row["step"]) for row in tracked.earlier(rows).get("preview", [])]
    for path in pictures_of(out, steps):
        _track_picture(tracked, path, out)


def _track_picture(tracked: TrackedRows, path: str, out: Location) -> None:
    tracked.run.artifact(path.partition("/")[2], (out / path).read_bytes())


def _take_rows(live: Location) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in live.children():
        yield entry.name.partition("-")[0], (live / entry.name).read_json()
        (live / entry.name).delete()


def _reporting(forward: Callable[[], None]) -> Callable[[], None]:
    """Trouble with tracking must not end a training that works, but is said loudly."""

    def report() -> None:
        try:
            forward()
        except Exception:
            log.exception("training goes on, but its figures are no longer tracked")

    return report


def _read_lines(place: Location) -> list[dict[str, float]]:
    return [json.loads(line) for line in place.read_text().splitlines()]
