"""The calls that change a run, each of which may be made twice and leaves what making it once leaves."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from infra.errors import UserError
from infra.tracking import stores
from infra.tracking.names import clean
from infra.tracking.stores import client_of

OWN_ID_TAG = "mvforge.own_run_id"
PARAMS_A_CALL, METRICS_A_CALL = 100, 500
# What a server that was cut off in a request has then done is to be seen a moment later.
SETTLE_S = 1.0

# The UI has two faces and shows runs and models with their figures in this one only.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Runs of mvforge: one a pipeline run, its steps below it. To choose a model, open Models (under Model training) "
    "and sort by a figure (figures of one dataset compare); the registered version's description is the model's card, its run holds report "
    "and pictures.",
}


def perform(uri: str, kind: str, run_id: str, given: dict[str, Any], data: bytes | None = None) -> None:
    """Make a call of `KINDS` for a run that the server knows."""
    KINDS[kind](uri, run_id, given, data)


def _params(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    client = client_of(uri)
    known = client.get_run(run_id).data.params
    fresh = [Param(name, value) for name, value in given["values"].items() if name not in known]
    for chunk in _chunks(fresh, PARAMS_A_CALL):
        client.log_batch(run_id, params=chunk)


def _metrics(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    # A figure with the same name, step, time and value is one row to MLflow's databases, however often it comes.
    entries = [Metric(name, value, at_ms, step) for name, value, at_ms, step in given["rows"]]
    for chunk in _chunks(entries, METRICS_A_CALL):
        client_of(uri).log_batch(run_id, metrics=chunk)


def _tags(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    entries = [RunTag(name, value) for name, value in given["values"].items()]
    for chunk in _chunks(entries, PARAMS_A_CALL):
        client_of(uri).log_batch(run_id, tags=chunk)


def _artifact(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    folder, _, file_name = given["name"].rpartition("/")
    with tempfile.TemporaryDirectory(prefix="mvforge-artifact-") as scratch:
        path = Path(scratch) / file_name
        path.write_bytes(data or b"")
        client_of(uri).log_artifact(run_id, str(path), folder or None)


def _dataset(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    source = json.dumps({"uri": given["source"]})
    entry = Dataset(given["name"], given["digest"], given["kind"], source, profile=given["profile"])
    client_of(uri).log_inputs(run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", given["context"])])])


def _end(uri: str, run_id: str, given: dict[str, Any], data: bytes | None) -> None:
    client_of(uri).set_terminated(run_id, given["status"], given["at_ms"])


KINDS: dict[str, Callable[[str, str, dict[str, Any], bytes | None], None]] = {
    "params": _params,
    "metrics": _metrics,
    "tags": _tags,
    "artifact": _artifact,
    "dataset": _dataset,
    "end": _end,
}


def create_run(uri: str, given: dict[str, Any], own_id: str | None = None, again: bool = False) -> str:
    """Make a run and return the server's id of it.

    Args:
        own_id: our id, kept as a tag: a run that has it is found again instead of made twice.
        again: an earlier attempt failed, and may have succeeded at the server all the same.
    """
    client = client_of(uri)
    experiment_id = experiment(uri, given["experiment"], given["artifact_root"])
    tags = dict(given["tags"])
    if own_id is not None:
        tags[OWN_ID_TAG] = own_id
        if again:
            time.sleep(SETTLE_S)
        if found := _runs_of(uri, experiment_id, own_id):
            return found[0]
    made = client.create_run(experiment_id, start_time=given["at_ms"], tags=tags, run_name=given["name"]).info.run_id
    if own_id is None or not again:
        return made
    # Two requests may have waited at the server while it stood still; it then does both.
    first, *doubled = _runs_of(uri, experiment_id, own_id) or [made]
    for run_id in doubled:
        client.delete_run(run_id)
    return first


def _runs_of(uri: str, experiment_id: str, own_id: str) -> list[str]:
    found = client_of(uri).search_runs([experiment_id], f"tags.`{OWN_ID_TAG}` = '{own_id}'", order_by=["attributes.start_time ASC"])
    return sorted(run.info.run_id for run in found)


def find_run(uri: str, own_id: str) -> str | None:
    """The server's id of the run that has this id of ours, in any experiment; None when it has none."""
    for each in client_of(uri).search_experiments():
        if found := _runs_of(uri, each.experiment_id, own_id):
            return found[0]
    return None


def experiment(uri: str, name: str, root: str | None) -> str:
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


def _chunks(entries: list, size: int) -> Iterator[list]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
