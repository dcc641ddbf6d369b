"""Runs, metrics and model versions in MLflow; the only module that imports mlflow.

Everything goes through `MlflowClient` with explicit run ids, so any process may log into any run: no global
active run exists, and a `TrackedRun` may be pickled into a worker on another node.

The store is an embedded sqlite file (artifacts in a folder beside it) or a tracking server by http(s) address.
"""

import base64
import fcntl
import functools
import logging
import math
import os
import re
import shutil
import sqlite3
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Read by mlflow when it is imported or first used: no progress bars, no usage reports, no search for a git binary.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow.pyfunc  # noqa: E402
import yaml  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: E402
from mlflow.types import ColSpec, Schema  # noqa: E402
from mlflow.utils.time import get_current_time_millis  # noqa: E402

from infra.errors import UserError  # noqa: E402

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)
log = logging.getLogger(__name__)

PARAM_LENGTH, TAG_LENGTH, BATCH = 500, 5000, 100
REACH_TIMEOUT_S = 5.0
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # mlflow says either of an unknown alias
BUILD_TAG = "mvforge.build_id"
REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "pyarrow", "diffusers", "transformers", "safetensors")


def default_uri(store: Path) -> str:
    """The embedded tracking store of a local artifact store: one sqlite file in it."""
    return f"sqlite:///{Path(store).absolute() / 'mlflow.db'}"


def artifact_root(uri: str) -> Path | None:
    """Where runs of an embedded store keep their files: beside the sqlite file. None for a server, which decides itself."""
    database = _sqlite_path(uri)
    return database.parent / "mlartifacts" if database else None


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check(uri: str) -> None:
    """Refuse an unusable tracking address before any work starts; answers within `REACH_TIMEOUT_S`.

    Raises:
        UserError: server unreachable or refusing us, sqlite file unusable, or an address of another kind.
    """
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif _sqlite_path(uri) is not None:
        _check_sqlite(uri)
    else:
        raise UserError(
            f"MLflow tracking address '{uri}' is not supported", "use sqlite:////absolute/path/mlflow.db or http(s)://host:port"
        )


def _check_server(uri: str) -> None:
    # A real API call and not /health: the server's host check answers 403 here and lets /health through.
    request = urllib.request.Request(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Content-Type": "application/json", **_authorisation()},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        detail = error.read(300).decode(errors="replace").strip()
        mend = "check MLFLOW_TRACKING_URI and the server's log"
        if error.code in (401, 403):
            mend = "start the server with --allowed-hosts naming this host name, or set MLFLOW_TRACKING_USERNAME/_PASSWORD or _TOKEN"
        raise UserError(f"MLflow server {uri} answered {error.code}: {detail}", mend) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"MLflow server {uri} cannot be reached ({reason})",
            "start it, correct MLFLOW_TRACKING_URI, or unset it to use the embedded store",
        ) from None


def _authorisation() -> dict[str, str]:
    """The header mlflow itself would send, from the same environment variables."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {}


def _check_sqlite(uri: str) -> None:
    database = _sqlite_path(uri)
    assert database is not None
    mend = "point MLFLOW_TRACKING_URI to a writable sqlite:////absolute/path/mlflow.db, or unset it"
    if not database.is_absolute():
        raise UserError(f"tracking store '{uri}' is a relative path", "write sqlite:////absolute/path/mlflow.db (four slashes)")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(database, timeout=REACH_TIMEOUT_S) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.rollback()
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"tracking store {database} cannot be written ({error})", mend) from None
    try:
        _client(uri)
    except MlflowException as error:
        raise UserError(f"tracking store {database} cannot be used: {_first_line(error)}", mend) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@functools.lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    """One client per address and process. A new sqlite file gets its tables here, under a lock: two creators at once would collide."""
    database = _sqlite_path(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with open(database.with_name(database.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            client.search_experiments(max_results=1)
    return client


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run by address and id; implements `infra.job.Run` and pickles as just these texts."""

    tracking_uri: str
    run_id: str

    def params(self, values: dict[str, Any]) -> None:
        """Log parameters once; nested ones become `a.b.c`, long values are cut. A name that is already logged keeps its value."""
        client = _client(self.tracking_uri)
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
                entries.append(Metric(_clean(name), float(value), now, step))
        for chunk in _chunks(entries, 500):
            _client(self.tracking_uri).log_batch(self.run_id, metrics=chunk)

    def tags(self, values: dict[str, str]) -> None:
        entries = [RunTag(name, str(value)[:TAG_LENGTH]) for name, value in values.items()]
        for chunk in _chunks(entries):
            _client(self.tracking_uri).log_batch(self.run_id, tags=chunk)

    def artifact(self, name: str, data: bytes) -> None:
        """Store bytes under a relative name such as `plots/loss.png`."""
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mvforge-artifact-") as scratch:
            path = Path(scratch) / file_name
            path.write_bytes(data)
            _client(self.tracking_uri).log_artifact(self.run_id, str(path), folder or None)

    def last_step(self, metric: str) -> int | None:
        """The largest step at which `metric` is logged; None when it is not."""
        return max((m.step for m in _client(self.tracking_uri).get_metric_history(self.run_id, _clean(metric))), default=None)

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
        _client(self.tracking_uri).set_terminated(self.run_id, status)

    @property
    def link(self) -> str:
        """Where a person sees the run: a page of the server, or the command that starts the UI on the embedded store."""
        if _sqlite_path(self.tracking_uri) is not None:
            return f"mlflow ui --backend-store-uri {self.tracking_uri}  (run {self.run_id})"
        experiment = _client(self.tracking_uri).get_run(self.run_id).info.experiment_id
        return f"{self.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings -> `a.b.c` names that MLflow accepts, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{_clean(str(key))}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def _clean(name: str) -> str:
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
    client = _client(uri)
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            return TrackedRun(uri, run_id)
        except MlflowException as error:
            log.warning("run %s is gone (%s): starting a new one", run_id, _first_line(error))
    all_tags = dict(tags or {})
    if parent_run_id is not None:
        all_tags["mlflow.parentRunId"] = parent_run_id
    experiment_id = _experiment(uri, experiment, artifact_root)
    return TrackedRun(uri, client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id)


def _experiment(uri: str, name: str, root: str | None) -> str:
    """Id of the experiment, created when missing; with its own artifact place, else mlflow would use ./mlruns."""
    client = _client(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = root or artifact_root(uri)
        try:
            return client.create_experiment(name, artifact_location=f"{location}/{_clean(name)}" if location else None)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(f"MLflow experiment '{name}' was deleted", "restore it in the MLflow UI or choose another name")
    return found.experiment_id


@dataclass(frozen=True)
class ModelVersion:
    """A concrete registered version; `uri` is `models:/name/version`."""

    name: str
    version: str
    uri: str


def _version(name: str, version: str | int) -> ModelVersion:
    return ModelVersion(name, str(version), f"models:/{name}/{version}")


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
) -> ModelVersion:
    """Log a generator folder as a pyfunc and register it, at most once per `build_id`.

    The version carries its build id from the moment it exists, and a fully logged model is found again by its own
    build tag, so a process killed anywhere in between repeats only the part that is missing.

    Args:
        folder: self-contained generator folder; becomes the pyfunc's data.
        loader_module: import path of a module with `_load_pyfunc(data_path)`.
        input_columns, output_columns: column name -> MLflow type (`string`, `long`, `double`, `binary`).
    """
    client = _client(uri)
    if existing := _find_version(client, name, build_id):
        return existing
    model_id = _logged_model(client, name, folder, loader_module, input_columns, output_columns, run, build_id)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version_tags = {key: str(value)[:TAG_LENGTH] for key, value in tags.items()} | {BUILD_TAG: build_id}
    made = client.create_model_version(
        name, source=_source(uri, model_id), run_id=run.run_id, tags=version_tags, description=description, model_id=model_id
    )
    return _version(name, made.version)


def _source(uri: str, model_id: str) -> str:
    # The embedded store would look a models:/ source up in the process-wide default store, so it gets the plain folder.
    return _client(uri).get_logged_model(model_id).artifact_location if _sqlite_path(uri) else f"models:/{model_id}"


def _find_version(client: MlflowClient, name: str, build_id: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{BUILD_TAG}` = '{build_id}'")
    versions = sorted(int(v.version) for v in found)
    return _version(name, versions[0]) if versions else None


def _logged_model(
    client: MlflowClient,
    name: str,
    folder: Path,
    loader_module: str,
    input_columns: dict[str, str],
    output_columns: dict[str, str],
    run: TrackedRun,
    build_id: str,
) -> str:
    """Id of the complete logged model of this build: the one an interrupted call left, or a new one."""
    experiment_id = client.get_run(run.run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], filter_string=f"tags.`{BUILD_TAG}` = '{build_id}'"):
        if str(model.status) in ("READY", "LoggedModelStatus.READY"):
            return model.model_id
        client.delete_logged_model(model.model_id)
    model = client.create_logged_model(experiment_id, name, source_run_id=run.run_id, tags={BUILD_TAG: build_id}, model_type="generator")
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


def resolve(uri: str, model_uri: str) -> ModelVersion:
    """`models:/name@alias` or `models:/name/3` -> the concrete version it means now.

    Raises:
        UserError: not such an address, or no such model, alias or version; the message names the known ones.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model_uri)
    if match is None:
        raise UserError(f"'{model_uri}' is not a model address", "write models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, version = match.groups()
    client = _client(uri)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
        return _version(name, found.version)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        raise UserError(f"{model_uri} does not exist in {uri}", _known(client, name)) from None


def _known(client: MlflowClient, name: str) -> str:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        return f"known models: {', '.join(sorted(models)) or 'none; run the register step first'}"
    versions = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
    aliases = ", ".join(f"@{alias} = {version}" for alias, version in sorted(models[name].aliases.items())) or "none"
    return f"{name} has versions {', '.join(map(str, versions)) or 'none'}; aliases: {aliases}"


def download(uri: str, model_version: ModelVersion, target: Path) -> Path:
    """Fetch the generator folder inside a version to `target/generator` (must not exist yet or is replaced); returns it."""
    generator = target / "generator"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as scratch:
        # The stored place and not models:/..., which mlflow would look up in the process-wide default store.
        source = _client(uri).get_model_version_download_uri(model_version.name, model_version.version)
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri))
        settings = yaml.safe_load((local / "MLmodel").read_text())
        data = local / settings["flavors"]["python_function"]["data"]
        if generator.exists():
            shutil.rmtree(generator)
        os.replace(data, generator)
    return generator


def get_alias(uri: str, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to; None when the model or the alias does not exist."""
    try:
        return _version(name, _client(uri).get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        return None


def set_alias(uri: str, model_version: ModelVersion, alias: str) -> None:
    """Point an alias of the model to this version, away from any other."""
    _client(uri).set_registered_model_alias(model_version.name, alias, model_version.version)


def version_tags(uri: str, model_version: ModelVersion) -> dict[str, str]:
    return dict(_client(uri).get_model_version(model_version.name, model_version.version).tags)


def set_version_tags(uri: str, model_version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        _client(uri).set_model_version_tag(model_version.name, model_version.version, key, str(value)[:TAG_LENGTH])


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
