"""Registered versions: which one a name means, what is known of it, its files and its aliases."""

import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.time import get_current_time_millis

from infra.errors import UserError
from infra.tracking.faults import is_lost
from infra.tracking.names import clean
from infra.tracking.patience import patiently
from infra.tracking.runs import DIGEST_LENGTH, TAG_LENGTH, TrackedRun
from infra.tracking.stores import client_of, first_line

NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # mlflow says either of an unknown alias
DESCRIPTION_LENGTH = 5000
MODEL_TAG = "mvforge.model_id"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelVersion:
    """A concrete registered version; `uri` is `models:/name/version`."""

    name: str
    version: str
    uri: str


@dataclass(frozen=True)
class VersionFacts:
    """What the registry knows of a version.

    Attributes:
        created_at: epoch seconds.
        run_id: the run that registered it, empty when there was none.
        model_id: the logged model it was made from, empty for versions registered by other means.
    """

    version: ModelVersion
    created_at: float
    run_id: str
    model_id: str
    description: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


def concrete(name: str, version: str | int) -> ModelVersion:
    """The version by its parts, whether it exists or not."""
    return ModelVersion(name, str(version), f"models:/{name}/{version}")


@patiently
def resolve(uri: str, model_uri: str) -> ModelVersion:
    """`models:/name@alias` or `models:/name/3` -> the concrete version it means now.

    Raises:
        UserError: not such an address, or no such model, alias or version; the message names the known ones.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model_uri)
    if match is None:
        raise UserError(f"'{model_uri}' is not a model address", "write models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, version = match.groups()
    client = client_of(uri)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
        return concrete(name, found.version)
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


@patiently
def download(uri: str, model_version: ModelVersion, target: Path) -> Path:
    """Fetch the generator folder inside a version to `target/generator` (must not exist yet or is replaced); returns it."""
    generator = target / "generator"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as scratch:
        # The stored place and not models:/..., which mlflow would look up in the process-wide default store.
        source = client_of(uri).get_model_version_download_uri(model_version.name, model_version.version)
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri))
        settings = yaml.safe_load((local / "MLmodel").read_text())
        data = local / settings["flavors"]["python_function"]["data"]
        if generator.exists():
            shutil.rmtree(generator)
        os.replace(data, generator)
    return generator


@patiently
def get_alias(uri: str, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to; None when the model or the alias does not exist."""
    try:
        return concrete(name, client_of(uri).get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        return None


@patiently
def set_alias(uri: str, model_version: ModelVersion, alias: str) -> None:
    """Point an alias of the model to this version, away from any other."""
    client_of(uri).set_registered_model_alias(model_version.name, alias, model_version.version)


@patiently
def version_tags(uri: str, model_version: ModelVersion) -> dict[str, str]:
    return dict(client_of(uri).get_model_version(model_version.name, model_version.version).tags)


@patiently
def set_version_tags(uri: str, model_version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client_of(uri).set_model_version_tag(model_version.name, model_version.version, key, str(value)[:TAG_LENGTH])


@patiently
def delete_version_tag(uri: str, model_version: ModelVersion, key: str) -> None:
    """Remove a tag; nothing happens when it is not there."""
    if key in version_tags(uri, model_version):
        client_of(uri).delete_model_version_tag(model_version.name, model_version.version, key)


@patiently
def model_names(uri: str) -> list[str]:
    """Names of all registered models."""
    return sorted(model.name for model in client_of(uri).search_registered_models())


@patiently
def versions(uri: str, name: str) -> list[VersionFacts]:
    """All versions of a model, oldest first.

    Raises:
        UserError: no such model; the message names the known ones.
    """
    client = client_of(uri)
    _require(uri, name)
    aliases = client.get_registered_model(name).aliases
    found = client.search_model_versions(f"name = '{name}'")
    return sorted((_facts(each, aliases) for each in found), key=lambda facts: int(facts.version.version))


@patiently
def version_facts(uri: str, model_version: ModelVersion) -> VersionFacts:
    """What the registry knows of one version."""
    client = client_of(uri)
    found = client.get_model_version(model_version.name, model_version.version)
    return _facts(found, client.get_registered_model(model_version.name).aliases)


def _facts(found: Any, aliases: dict[str, str]) -> VersionFacts:
    own = tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(found.version)))
    return VersionFacts(
        concrete(found.name, found.version),
        found.creation_timestamp / 1000,
        found.run_id or "",
        _model_id(found),
        found.description or "",
        dict(found.tags),
        own,
    )


def _model_id(found: Any) -> str:
    """MLflow's own database does not keep the model's id with the version, so we do."""
    return found.model_id or found.tags.get(MODEL_TAG, "")


def _require(uri: str, name: str) -> None:
    if name not in model_names(uri):
        raise UserError(f"there is no registered model '{name}' in {uri}", _known(client_of(uri), name))


@patiently
def run_of(uri: str, model_version: ModelVersion) -> TrackedRun | None:
    """The run that registered the version; None when there is none, the run is deleted, or the version is not in this registry."""
    client = client_of(uri)
    try:
        run_id = client.get_model_version(model_version.name, model_version.version).run_id or ""
        alive = bool(run_id) and client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        return None
    return TrackedRun(uri, run_id) if alive else None


def log_version_metrics(
    uri: str, model_version: ModelVersion, run: TrackedRun, values: dict[str, float], dataset: tuple[str, str] | None = None
) -> None:
    """Log figures of a version into `run` and, by its model id, onto the model itself: then the UI can sort and chart models by them.

    `dataset` is name and digest of what they were measured on, as `TrackedRun.dataset` was told.
    """
    model_id = _logged_model_id(uri, model_version) or None
    name, digest = (dataset[0], dataset[1][:DIGEST_LENGTH]) if dataset else (None, None)
    now = get_current_time_millis()
    entries = [
        Metric(clean(key.replace("@", "_at_")), float(value), now, 0, model_id=model_id, dataset_name=name, dataset_digest=digest)
        for key, value in values.items()
    ]
    if entries:
        _log_metrics(uri, run.on_server(), entries)


@patiently
def _log_metrics(uri: str, run_id: str, entries: list[Metric]) -> None:
    # With the same times when it is made again: then a row that came through is not doubled.
    client_of(uri).log_batch(run_id, metrics=entries)


@patiently
def _logged_model_id(uri: str, model_version: ModelVersion) -> str:
    return _model_id(client_of(uri).get_model_version(model_version.name, model_version.version))


@patiently
def describe_version(uri: str, model_version: ModelVersion, markdown: str) -> None:
    """The text that the UI shows as the description of the version and of its logged model; cut to what every database keeps."""
    client = client_of(uri)
    client.update_model_version(model_version.name, model_version.version, markdown[:DESCRIPTION_LENGTH])
    if model_id := _model_id(client.get_model_version(model_version.name, model_version.version)):
        client.set_logged_model_tags(model_id, {MLFLOW_RUN_NOTE: markdown[:DESCRIPTION_LENGTH]})


@patiently
def describe_model(uri: str, name: str, markdown: str) -> None:
    """The text that the UI shows as the registered model's description."""
    client_of(uri).update_registered_model(name, markdown[:DESCRIPTION_LENGTH])


@patiently
def model_description(uri: str, name: str) -> str:
    """What the UI shows as the registered model's description."""
    return client_of(uri).get_registered_model(name).description or ""


@patiently
def model_tags(uri: str, name: str) -> dict[str, str]:
    """Tags of the registered model, not of a version. Raises UserError for an unknown model."""
    _require(uri, name)
    return dict(client_of(uri).get_registered_model(name).tags)


@patiently
def set_model_tag(uri: str, name: str, key: str, value: str) -> None:
    client_of(uri).set_registered_model_tag(name, key, value[:TAG_LENGTH])


def read_model_file(uri: str, model_version: ModelVersion, name: str) -> bytes | None:
    """One file of a version's generator folder, without the rest of it; None when the folder has no such file."""
    with tempfile.TemporaryDirectory(prefix="mvforge-file-") as scratch:
        source = _source_of(uri, model_version)
        settings = yaml.safe_load(_fetched(uri, f"{source}/MLmodel", scratch).read_text())
        data = settings["flavors"]["python_function"]["data"]
        try:
            return _fetched(uri, f"{source}/{data}/{name}", scratch).read_bytes()
        except (MlflowException, OSError) as error:
            if is_lost(error):
                raise  # which says nothing of the file
            log.info("%s has no file %s: %s", model_version.uri, name, first_line(error))
            return None


@patiently
def _source_of(uri: str, model_version: ModelVersion) -> str:
    return client_of(uri).get_model_version_download_uri(model_version.name, model_version.version)


@patiently
def _fetched(uri: str, artifact: str, scratch: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=artifact, dst_path=scratch, tracking_uri=uri))
