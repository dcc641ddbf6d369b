"""One MLflow run: what is logged into it, from any process that holds its address and id."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from infra.tracking import calls, outbox
from infra.tracking.faults import is_lost
from infra.tracking.names import clean, flatten
from infra.tracking.patience import patiently, until_it_answers
from infra.tracking.stores import client_of, first_line, sqlite_path
from infra.tracking.system import SystemWatch

log = logging.getLogger(__name__)

PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 500, 5000, 36
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run by address and id; implements `infra.job.Run` and pickles as just these texts.

    What changes the run goes through the outbox of its address where one is open, and returns at once; else to the server.

    Attributes:
        given_id: the server's id, or one of ours for a run that a lost server has yet to make.
    """

    tracking_uri: str
    given_id: str

    def __reduce__(self) -> tuple:
        # Another process has another outbox, or none, and knows nothing of our ids.
        return type(self), (self.tracking_uri, self.run_id)

    @property
    def run_id(self) -> str:
        """The server's id as soon as it is known."""
        box = outbox.opened(self.tracking_uri)
        return box.real(self.given_id) if box is not None else self.given_id

    @property
    def buffered(self) -> int:
        """Calls that wait in this process because the server is lost."""
        box = outbox.opened(self.tracking_uri)
        return box.waiting if box is not None else 0

    def on_server(self) -> str:
        """The server's id of a run, when all that was tracked so far is there: for what must follow on it.

        Raises:
            UserError: the server stayed lost, or has refused to make the run.
        """
        box = outbox.opened(self.tracking_uri)
        if box is not None:
            until_it_answers(self.tracking_uri, lambda: box.require_sent(self.given_id), "sending what was tracked", box.say)
        return self.run_id

    def _call(self, kind: str, given: dict[str, Any], data: bytes | None = None) -> None:
        box = outbox.opened(self.tracking_uri)
        if box is not None:
            box.submit(kind, self.given_id, given, data)
        else:
            calls.perform(self.tracking_uri, kind, self.given_id, given, data)

    def params(self, values: dict[str, Any]) -> None:
        """Log parameters once; nested ones become `a.b.c`, long values are cut. A name that is already logged keeps its value."""
        self._call("params", {"values": {name: value[:PARAM_LENGTH] for name, value in flatten(values).items()}})

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
                entries.append([clean(name), float(value), now, step])
        if entries:
            self._call("metrics", {"rows": entries})

    def tags(self, values: dict[str, str]) -> None:
        if values:
            self._call("tags", {"values": {name: str(value)[:TAG_LENGTH] for name, value in values.items()}})

    def artifact(self, name: str, data: bytes) -> None:
        """Store bytes under a relative name such as `plots/loss.png`."""
        self._call("artifact", {"name": name}, data)

    def dataset(self, name: str, digest: str, *, context: str, source: str, facts: Mapping[str, Any] | None = None) -> None:
        """Note that this run read a set of data: `digest` (cut to MLflow's 36 characters) tells sets apart, `context` is `training`
        or `evaluation`, `source` the place, `facts` what is known of it."""
        kind = source.partition("://")[0] if "://" in source else "local"
        profile = json.dumps(dict(facts or {}), sort_keys=True)
        given = {"name": name, "digest": digest[:DIGEST_LENGTH], "kind": kind, "context": context, "source": source, "profile": profile}
        self._call("dataset", given)

    def describe(self, markdown: str) -> None:
        """The text that the UI shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    @property
    def parent(self) -> "TrackedRun | None":
        """The run this one was opened below."""
        box = outbox.opened(self.tracking_uri)
        if box is not None and box.is_new(self.given_id):
            run_id = box.parent(self.given_id)
        else:
            run_id = _tags_of(self.tracking_uri, self.run_id).get("mlflow.parentRunId")
        return TrackedRun(self.tracking_uri, run_id) if run_id else None

    def last_step(self, metric: str) -> int | None:
        """The largest step at which `metric` is logged; None when it is not."""
        box = outbox.opened(self.tracking_uri)
        if box is not None and box.is_new(self.given_id):
            return box.last_step(self.given_id, clean(metric))
        return _last_step(self.tracking_uri, self.run_id, clean(metric))

    @contextmanager
    def watching_system(self) -> Iterator[None]:
        """While the block runs, processor, memory, disk, network and GPUs of this machine are logged as `system/...`, every
        `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` seconds (default 10)."""
        box = outbox.opened(self.tracking_uri)
        known = box is None or not box.is_new(self.given_id)
        watch = SystemWatch(self.tracking_uri, self.run_id, self.metrics, go_on=known)
        watch.start()
        try:
            yield
        finally:
            watch.finish()

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self._call("end", {"status": status, "at_ms": get_current_time_millis()})

    @property
    def link(self) -> str:
        """Where a person sees the run: a page of the server, or the command that starts the UI on the embedded store."""
        if sqlite_path(self.tracking_uri) is not None:
            return f"mlflow ui --backend-store-uri {self.tracking_uri}  (run {self.run_id})"
        experiment = client_of(self.tracking_uri).get_run(self.run_id).info.experiment_id
        return f"{self.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"


@patiently
def _tags_of(uri: str, run_id: str) -> dict[str, str]:
    return dict(client_of(uri).get_run(run_id).data.tags)


@patiently
def _last_step(uri: str, run_id: str, metric: str) -> int | None:
    return max((m.step for m in client_of(uri).get_metric_history(run_id, metric)), default=None)


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
    if run_id is not None:
        try:
            _reopen(uri, run_id)
            return TrackedRun(uri, run_id)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            log.warning("run %s is gone (%s): starting a new one", run_id, first_line(error))
    all_tags = dict(tags or {})
    if parent_run_id is not None:
        all_tags["mlflow.parentRunId"] = parent_run_id
    given = {"experiment": experiment, "name": name, "tags": all_tags, "artifact_root": artifact_root, "at_ms": get_current_time_millis()}
    box = outbox.opened(uri)
    return TrackedRun(uri, box.create_run(given) if box is not None else calls.create_run(uri, given))


@patiently
def _reopen(uri: str, run_id: str) -> None:
    client_of(uri).update_run(run_id, status="RUNNING")


@patiently
def id_on_server(uri: str, run_id: str) -> str | None:
    """The server's id of a run by whatever id a record has of it; None when the server has no such run.

    A build that was finished while the server was lost is recorded with the id that the run had then.
    """
    if not run_id.startswith(outbox.OWN):
        return run_id
    return calls.find_run(uri, run_id)


def read_artifact(uri: str, run_id: str, name: str) -> bytes | None:
    """The bytes of a run's artifact; None when the run or the file is gone."""
    with TemporaryDirectory(prefix="mvforge-artifact-") as scratch:
        try:
            return _download(uri, run_id, name, scratch).read_bytes()
        except (MlflowException, OSError) as error:
            if is_lost(error):
                raise
            log.warning("artifact %s of run %s cannot be read: %s", name, run_id, first_line(error))
            return None


@patiently
def _download(uri: str, run_id: str, name: str, scratch: str) -> Path:
    return Path(client_of(uri).download_artifacts(run_id, name, scratch))


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
