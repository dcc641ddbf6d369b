"""Runs, metrics and model versions in MLflow; the only package that imports mlflow.

Everything goes through `MlflowClient` with explicit run ids, so any process may log into any run: no global
active run exists, and a `TrackedRun` may be pickled into a worker on another node.

The store is an embedded sqlite file (artifacts in a folder beside it) or a tracking server by http(s) address.
"""

import os

# Read by mlflow when it is imported or first used: no progress bars, no usage reports, no search for a git binary.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from infra.tracking.journal import Waiting, waiting  # noqa: E402
from infra.tracking.names import flatten  # noqa: E402
from infra.tracking.outbox import folder_of, sending, sent  # noqa: E402
from infra.tracking.registering import BUILD_TAG, logged_model, register  # noqa: E402
from infra.tracking.registry import (  # noqa: E402
    DESCRIPTION_LENGTH,
    ModelVersion,
    VersionFacts,
    delete_version_tag,
    describe_model,
    describe_version,
    download,
    get_alias,
    log_version_metrics,
    model_description,
    model_names,
    model_tags,
    read_model_file,
    resolve,
    run_of,
    set_alias,
    set_model_tag,
    set_version_tags,
    version_facts,
    version_tags,
    versions,
)
from infra.tracking.runs import TrackedRun, id_on_server, open_run, read_artifact, running  # noqa: E402
from infra.tracking.stores import artifact_root, check, client_of, default_uri  # noqa: E402
from infra.tracking.unfinished import running_runs  # noqa: E402

__all__ = [
    "BUILD_TAG",
    "DESCRIPTION_LENGTH",
    "ModelVersion",
    "TrackedRun",
    "VersionFacts",
    "Waiting",
    "artifact_root",
    "check",
    "client_of",
    "default_uri",
    "delete_version_tag",
    "describe_model",
    "describe_version",
    "download",
    "flatten",
    "folder_of",
    "get_alias",
    "id_on_server",
    "log_version_metrics",
    "logged_model",
    "model_description",
    "model_names",
    "model_tags",
    "open_run",
    "read_artifact",
    "read_model_file",
    "register",
    "resolve",
    "run_of",
    "running",
    "running_runs",
    "sending",
    "sent",
    "set_alias",
    "set_model_tag",
    "set_version_tags",
    "version_facts",
    "version_tags",
    "versions",
    "waiting",
]
