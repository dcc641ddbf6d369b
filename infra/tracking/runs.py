"""One MLflow run: what is logged into it, from any process that holds its address and id."""

import json
import logging
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.time import get_current_time_millis

from infra.errors import UserError
from infra.tracking import stores
from infra.tracking.stores import client_of, first_line, sqlite_path

log = logging.getLogger(__name__)

# The UI has two faces and shows runs and models with their figures in this one only.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Runs of mvforge: one a pipeline run, its steps below it. To choose a model, open Models (under Model training) "
    "and sort by a figure (figures of one dataset compare); the registered version's description is the model's card, its run holds report "
    "and pictures.",
}
PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH, BATCH = 500, 5000, 36, 100


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run by address and id; implements `infra.job.Run` and pickles as just these texts."""

    tracking_uri: str
    run_id: str

    def params(self, values: dict[str, Any]) -> None:
        """Log parameters once; nested ones become `a.b.c`, long values are cut. A name that is already logged keeps its value."""
        client = client_of(self.tracking_uri)
        known = client.get_run(self.run_id).data.params
        fresh = [Param(k, v[:PARAM_LENGTH]) for k, v in flatten(values).items() if k not in known]
        for chunk in _chunks(fresh):
            client.log_batch(self.run_id, params=chunk)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log figures at `step`; a value that is not finite is left out with a warning."""
        self.metric_rows([(step, values)])

    def metric_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Log figures of several steps in few calls."""
        now = get_current_time_millis()
        entries = []
        for step, values in rows:
            for name, value in values.items():
                if value is None or not math.isfinite(float(value)):
                    log.warning("metric %s at step %d is %s: not logged", name, step, value)
                    continue
                entries.append(Metric(clean(name), float(value), now, step))
        for chunk in _chunks(entries, 500):
            client_of(self.tracking_uri).log_batch(self.run_id, metrics=chunk)

    def tags(self, values: dict[str, str]) -> None:
        entries = [RunTag(name, str(value)[:TAG_LENGTH]) for name, value in values.items()]
        for chunk in _chunks(entries):
            client_of(self.tracking_uri).log_batch(self.run_id, tags=chunk)

    def artifact(self, name: str, data: bytes) -> None:
        """Store bytes under a relative name such as `plots/loss.png`."""
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mvforge-artifact-") as scratch:
            path = Path(scratch) / file_name
            path.write_bytes(data)
            client_of(self.tracking_uri).log_artifact(self.run_id, str(path), folder or None)

    def dataset(self, name: str, digest: str, *, context: str, source: str, facts: Mapping[str, Any] | None = None) -> None:
        """Note that this run read a set of data: `digest` (cut to MLflow's 36 characters) tells sets apart, `context` is `training`
        or `evaluation`, `source` the place, `facts` what is known of it."""
        kind = source.partition("://")[0] if "://" in source else "local"
        entry = Dataset(
            name, digest[:DIGEST_LENGTH], kind, json.dumps({"uri": source}), profile=json.dumps(dict(facts or {}), sort_keys=True)
        )
        client_of(self.tracking_uri).log_inputs(self.run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", context)])])

    def describe(self, markdown: str) -> None:
        """The text that the UI shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    @property
    def parent(self) -> "TrackedRun | None":
        """The run this one was opened below."""
        run_id = client_of(self.tracking_uri).get_run(self.run_id).data.tags.get("mlflow.parentRunId")
        return TrackedRun(self.tracking_uri, run_id) if run_id else None

    def last_step(self, metric: str) -> int | None:
        """The largest step at which `metric` is logged; None when it is not."""
        return max((m.step for m in client_of(self.tracking_uri).get_metric_history(self.run_id, clean(metric))), default=None)

    @contextmanager
    def watching_system(self) -> Iterator[None]:
        """While the block runs, processor, memory, disk, network and GPUs of this machine are logged as `system/...`, every
        `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` seconds (default 10)."""
        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        client_of(self.tracking_uri).set_terminated(self.run_id, status)

    @property
    def link(self) -> str:
        """Where a person sees the run: a page of the server, or the command that starts the UI on the embedded store."""
        if sqlite_path(self.tracking_uri) is not None:
            return f"mlflow ui --backend-store-uri {self.tracking_uri}  (run {self.run_id})"
        experiment = client_of(self.tracking_uri).get_run(self.run_id).info.experiment_id
        return f"{self.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings -> `a.b.c` names that MLflow accepts, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{clean(str(key))}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def clean(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)


def _chunks(entries: list, size: int = BATCH) -> Iterator[list]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def open_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    parent_run_id: str | None = None,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
    artifact_root: str | None = None,
) -> TrackedRun:
    """Start a run, below `parent_run_id` when given; with `run_id`, open that run again if it still exists.

    `artifact_root` is where a new experiment keeps its files; by default a folder beside an embedded store,
    the server's choice otherwise.
    """
    client = client_of(uri)
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            return TrackedRun(uri, run_id)
        except MlflowException as error:
            log.warning("run %s is gone (%s): starting a new one", run_id, first_line(error))
    all_tags = dict(tags or {})
    if parent_run_id is not None:
        all_tags["mlflow.parentRunId"] = parent_run_id
    experiment_id = _experiment(uri, experiment, artifact_root)
    return TrackedRun(uri, client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id)


def _experiment(uri: str, name: str, root: str | None) -> str:
    """Id of the experiment, created when missing; with its own artifact place, else mlflow would use ./mlruns."""
    client = client_of(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = root or stores.artifact_root(uri)
        try:
            return client.create_experiment(name, f"{location}/{clean(name)}" if location else None, EXPERIMENT_TAGS)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(f"MLflow experiment '{name}' was deleted", "restore it in the MLflow UI or choose another name")
    return found.experiment_id


def read_artifact(uri: str, run_id: str, name: str) -> bytes | None:
    """The bytes of a run's artifact; None when the run or the file is gone."""
    with tempfile.TemporaryDirectory(prefix="mvforge-artifact-") as scratch:
        try:
            return Path(client_of(uri).download_artifacts(run_id, name, scratch)).read_bytes()
        except (MlflowException, OSError) as error:
            log.warning("artifact %s of run %s cannot be read: %s", name, run_id, first_line(error))
            return None


@contextmanager
def running(run: TrackedRun) -> Iterator[TrackedRun]:
    """End the run when the block ends: FINISHED, KILLED on an interrupt, FAILED on anything else."""
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")
