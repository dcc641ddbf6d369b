"""A trained generator becomes a version of a registered model, at most once per build."""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from infra.tracking.patience import patiently
from infra.tracking.registry import DESCRIPTION_LENGTH, MODEL_TAG, ModelVersion, concrete
from infra.tracking.runs import PARAM_LENGTH, TAG_LENGTH, TrackedRun
from infra.tracking.stores import client_of, sqlite_path

BUILD_TAG = "mvforge.build_id"
REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "pyarrow", "diffusers", "transformers", "safetensors")

PASSED_ON_BYTES_PER_S = 10 << 20
"""A server that is slower than this at passing a file on to its artifact store is taken for lost."""

log = logging.getLogger(__name__)


def register(
    uri: str,
    *,
    name: str,
    folder: Path,
    loader_module: str,
    input_columns: dict[str, str],
    output_columns: dict[str, str],
    tags: dict[str, str],
    description: str,
    run: TrackedRun,
    build_id: str,
    model_description: str = "",
) -> ModelVersion:
    """Log a generator folder as a pyfunc and register it, at most once per `build_id`.

    The version carries its build id from the moment it exists, and a fully logged model is found again by its own
    build tag, so a process killed anywhere in between repeats only the part that is missing.

    Args:
        folder: self-contained generator folder; becomes the pyfunc's data.
        loader_module: import path of a module with `_load_pyfunc(data_path)`.
        input_columns, output_columns: column name -> MLflow type (`string`, `long`, `double`, `binary`).
        description: of this version, Markdown.
        model_description: of the registered model, when it has none yet.
    """
    run_id = run.on_server()
    wanted = _Wanted(name, folder, loader_module, input_columns, output_columns, tags, description, run_id, build_id, model_description)
    return _register(uri, wanted)


@dataclass(frozen=True)
class _Wanted:
    """What `register` was asked for."""

    name: str
    folder: Path
    loader_module: str
    input_columns: dict[str, str]
    output_columns: dict[str, str]
    tags: dict[str, str]
    description: str
    run_id: str
    build_id: str
    model_description: str

    def __str__(self) -> str:
        return f"{self.name} of build {self.build_id}"


@patiently
def _register(uri: str, wanted: _Wanted) -> ModelVersion:
    client = client_of(uri)
    existing = _the_version(client, wanted.name, wanted.build_id)
    if existing is None:
        _create_version(uri, client, wanted)
        # A request that was thought lost may have been done too, late: one version is one training, whatever the server went through.
        existing = _the_version(client, wanted.name, wanted.build_id)
        assert existing is not None
    _link(client, existing)
    return existing


def _create_version(uri: str, client: MlflowClient, wanted: _Wanted) -> None:
    columns = (wanted.input_columns, wanted.output_columns)
    run = TrackedRun(uri, wanted.run_id)
    with _time_to_upload(wanted.folder):
        model_id = logged_model(client, wanted.name, wanted.folder, wanted.loader_module, *columns, run, wanted.build_id, wanted.tags)
    try:
        client.create_registered_model(wanted.name, description=wanted.model_description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {key: str(value)[:TAG_LENGTH] for key, value in wanted.tags.items()}
    client.create_model_version(
        wanted.name,
        source=_source(uri, model_id),
        run_id=wanted.run_id,
        tags=tags | {BUILD_TAG: wanted.build_id, MODEL_TAG: model_id},
        description=wanted.description[:DESCRIPTION_LENGTH],
        model_id=model_id,
    )


@contextlib.contextmanager
def _time_to_upload(folder: Path) -> Iterator[None]:
    """A server passes a file on before it answers; a timeout for small answers would make a large model impossible to register."""
    largest = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    if before is not None:
        os.environ[name] = str(int(before) + largest // PASSED_ON_BYTES_PER_S)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def _link(client: MlflowClient, version: ModelVersion) -> None:
    """Let the UI show the version at the logged model; a server does so itself, the embedded store does not."""
    model_id = client.get_model_version(version.name, version.version).tags.get(MODEL_TAG)
    if model_id:
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": version.name, "version": version.version}])})


def _source(uri: str, model_id: str) -> str:
    # The embedded store would look a models:/ source up in the process-wide default store, so it gets the plain folder.
    return client_of(uri).get_logged_model(model_id).artifact_location if sqlite_path(uri) else f"models:/{model_id}"


def _the_version(client: MlflowClient, name: str, build_id: str) -> ModelVersion | None:
    """The version of a build; of several, which only requests that overtook each other leave, the first, and the others are removed."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{BUILD_TAG}` = '{build_id}'")
    if not found:
        return None
    first, *doubled = sorted(int(each.version) for each in found)
    for version in doubled:
        log.warning("version %d of %s is build %s as version %d is, and is removed", version, name, build_id, first)
        client.delete_model_version(name, str(version))
    return concrete(name, first)


def logged_model(
    client: MlflowClient,
    name: str,
    folder: Path,
    loader_module: str,
    input_columns: dict[str, str],
    output_columns: dict[str, str],
    run: TrackedRun,
    build_id: str,
    facts: dict[str, str] | None = None,
) -> str:
    """Id of the complete logged model of this build: the one an interrupted call left, or a new one with `facts` as parameters."""
    experiment_id = client.get_run(run.run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], filter_string=f"tags.`{BUILD_TAG}` = '{build_id}'"):
        if str(model.status) in ("READY", "LoggedModelStatus.READY"):
            return model.model_id
        client.delete_logged_model(model.model_id)
    params = {key: str(value)[:PARAM_LENGTH] for key, value in (facts or {}).items()}
    model = client.create_logged_model(
        experiment_id, f"{name}-{build_id}", source_run_id=run.run_id, tags={BUILD_TAG: build_id}, params=params, model_type="generator"
    )
    signature = ModelSignature(inputs=_schema(input_columns), outputs=_schema(output_columns))
    with tempfile.TemporaryDirectory(prefix="mvforge-register-") as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        target = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=loader_module,
            data_path=str(folder),
            signature=signature,
            pip_requirements=_requirements(),
        )
        client.log_model_artifacts(model.model_id, str(target))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _schema(columns: dict[str, str]) -> Schema:
    return Schema([ColSpec(type=kind, name=name) for name, kind in columns.items()])


def _requirements() -> list[str]:
    """Pins of what a generator needs, from what is installed here (local labels such as +cpu left out)."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]
