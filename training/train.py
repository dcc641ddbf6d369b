"""[step] One stage of a method -> a checkpoint, its curves and the list of objects it saw. Ray Train lives only here.

Two or more worker processes run `training.stage.train_stage`, the very function a plain process runs. They resume by
themselves from the last sharded checkpoint when a worker dies, and so does a second call with the same build id.
"""

import contextlib
import json
import logging
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from infra import cluster
from infra.errors import UserError
from infra.job import Job, Summary
from infra.storage import Location
from training.checkpoint import Write
from training.data import DataLocations
from training.lookup import method_named
from training.loop import NonFiniteTraining, TrainConfig
from training.plots import loss_plot
from training.stage import StageInputs, train_stage

MAX_FAILURES = 3
KEPT_CHECKPOINTS = 2
POLL_S = 0.5
STOPPED = "stopped.json"

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
    `uids.json` and `loss.png`. Counts are training objects.

    Args:
        arrays: output of the encode step, for stages that train on it.
        init: output of the train step that this stage starts from.
        weights: outputs of earlier train steps by stage name.

    Raises:
        UserError: settings that cannot work, or training that became NaN (the message names the objects).
    """
    _check(config, arrays, init, job)
    inputs = StageInputs(DataLocations(views, kept, arrays), init, dict(weights or {}))
    tracked = _Tracked(job)
    if not (out / "history.jsonl").exists():  # written last: else the workers are through already
        (out / STOPPED).delete()
        job.run.params(asdict(config))
        _train_on_workers(config, inputs, out, job, tracked)
    history, validation = _read_lines(out / "history.jsonl"), _read_lines(out / "validation.jsonl")
    for kind, rows in (("train", history), ("validation", validation)):
        for row in rows:
            tracked.row(kind, row)
    picture = loss_plot(history, validation, f"train.{config.stage}")
    (out / "loss.png").write_bytes(picture)
    job.run.artifact("plots/loss.png", picture)
    job.run.artifact("uids.json", (out / "uids.json").read_bytes())
    for leftover in ("state", "live"):
        (out / leftover).delete()
    uids = (out / "uids.json").read_json()
    facts = {
        "steps": config.steps,
        "last_loss": history[-1]["loss"] if history else None,
        "first_validation": validation[0] if validation else None,
        "last_validation": validation[-1] if validation else None,
    }
    return Summary(completed=len(uids), facts=facts)


def _check(config: TrainConfig, arrays: Location | None, init: Location | None, job: Job) -> None:
    """Refuse before any process starts what could only fail in one."""
    method = method_named(config.method)
    stages = {stage.name: stage for stage in method.stages}
    if config.stage not in stages:
        raise UserError(f"method {config.method} has no stage '{config.stage}'", f"its stages are {', '.join(stages)}")
    stage = stages[config.stage]
    if stage.starts_from and init is None:
        raise UserError(f"train.{config.stage} starts from {stage.starts_from}, whose checkpoint is not given", "pass init=")
    if stage.encodes_with and arrays is None:
        raise UserError(f"train.{config.stage} trains on arrays encoded with {stage.encodes_with}, which are not given", "pass arrays=")
    config.micro_batches(job.resources.workers)


def _train_on_workers(config: TrainConfig, inputs: StageInputs, out: Location, job: Job, tracked: "_Tracked") -> None:
    cluster.attach()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # also how late a checkpoint becomes the one to resume from
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less; nothing here reacts to it
    resources = job.resources
    trainer = _Trainer(
        _worker,
        train_loop_config={"config": config, "inputs": inputs, "out": out},
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the older RunConfig
            # The build id as name: an interrupted build resumes by itself, a new build never does.
            name=job.build_id,
            storage_path=str(out / "state"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    with _forwarded(out, tracked, config, job):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            _raise_if_stopped(out)
            raise RuntimeError(f"train.{config.stage} failed {MAX_FAILURES + 1} times, last: {error}") from error
    _raise_if_stopped(out)


class _Trainer(ray.train.torch.TorchTrainer):
    """Starts quicker: without the actor that would split Ray datasets (none are used) and without the one that watches over
    the placement group through the dashboard (it ends with the job; without a dashboard that actor only logs errors)."""

    LEFT_OUT = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in self.LEFT_OUT]


def _raise_if_stopped(out: Location) -> None:
    if (out / STOPPED).exists():
        reason = (out / STOPPED).read_json()
        log.error("%s", reason["traceback"])
        raise UserError(reason["message"], reason["mend"])


def _worker(setup: dict[str, Any]) -> None:
    """One training process. An error that would come back at every attempt is left in `stopped.json` and ends the retries."""
    import torch

    out: Location = setup["out"]
    if (out / STOPPED).exists():
        return
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    rank = context.get_world_rank()

    def post(kind: str, row: dict[str, float]) -> None:
        (out / "live" / f"{kind}-{int(row['step']):010d}.json").write_json(row)

    try:
        train_stage(setup["config"], setup["inputs"], out, RayCheckpoints(rank), post, device)
    except Exception as error:
        if stop := _stop_reason(error, setup["config"]):
            (out / STOPPED).write_json({**stop, "traceback": traceback.format_exc()})
        raise


def _stop_reason(error: Exception, config: TrainConfig) -> dict[str, str] | None:
    """Message and mend of an error that a new attempt would only repeat; None for one that may pass (a lost peer, a full disk)."""
    if isinstance(error, UserError):
        return {"message": error.message, "mend": error.mend}
    if isinstance(error, NonFiniteTraining):
        return {"message": f"train.{config.stage}: {error}", "mend": "look at these objects; lower lr or set clip"}
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)):
        message = f"train.{config.stage}: {type(error).__name__}: {error}"
        return {"message": message, "mend": "this is an error in code or settings; see the log"}
    return None


class RayCheckpoints:
    """`training.checkpoint.Checkpoints` on Ray Train: each worker reports its shard, Ray merges them into one folder."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def save(self, step: int, write: Write) -> None:
        with tempfile.TemporaryDirectory(prefix="mvforge-shard-") as folder:
            write(Path(folder))
            own = ray.train.Checkpoint.from_directory(folder) if any(Path(folder).iterdir()) else None
            ray.train.report({"step": step}, checkpoint=own)

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)


class _Tracked:
    """Rows become tracked metrics once per step, also when a resumed training repeats steps (with the same figures)."""

    def __init__(self, job: Job) -> None:
        self.run = job.run
        self.last = {kind: job.run.last_step(f"{kind}/loss") for kind in ("train", "validation")}

    def row(self, kind: str, row: dict[str, float]) -> None:
        step, last = int(row["step"]), self.last[kind]
        if last is None or step > last:
            self.last[kind] = step
            self.run.metrics({f"{kind}/{name}": value for name, value in row.items() if name != "step"}, step=step)


@contextlib.contextmanager
def _forwarded(out: Location, tracked: _Tracked, config: TrainConfig, job: Job) -> Iterator[None]:
    """While the block runs, rows that rank 0 leaves in `out/live` become progress and tracked metrics.

    So workers need no tracking client, and rows survive the death of this process.
    """
    ended = threading.Event()

    def forward() -> None:
        with job.progress(f"train.{config.stage}", config.steps, unit="step") as progress:
            last = False
            while not last:
                last = ended.wait(POLL_S)
                for kind, row in _take_rows(out / "live"):
                    if kind == "train":
                        progress.update(max(0, int(row["step"]) - progress.done), note=f"loss {row['loss']:.4f}")
                    tracked.row(kind, row)

    thread = threading.Thread(target=_reporting(forward), name="training rows", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=60)


def _take_rows(live: Location) -> Iterator[tuple[str, dict[str, float]]]:
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
