"""Where runs and models are kept: an embedded sqlite file or a server; its address, its check, its client."""

import base64
import fcntl
import functools
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from infra.errors import UserError

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)

REACH_TIMEOUT_S = 5.0


def default_uri(store: Path) -> str:
    """The embedded tracking store of a local artifact store: one sqlite file in it."""
    return f"sqlite:///{Path(store).absolute() / 'mlflow.db'}"


def artifact_root(uri: str) -> Path | None:
    """Where runs of an embedded store keep their files: beside the sqlite file. None for a server, which decides itself."""
    database = sqlite_path(uri)
    return database.parent / "mlartifacts" if database else None


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check(uri: str) -> None:
    """Refuse an unusable tracking address before any work starts; answers within `REACH_TIMEOUT_S`.

    Raises:
        UserError: server unreachable or refusing us, sqlite file unusable, or an address of another kind.
    """
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif sqlite_path(uri) is not None:
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
        raise UserError(f"MLflow server {shown(uri)} answered {error.code}: {detail}", mend) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"MLflow server {shown(uri)} cannot be reached ({reason})",
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
    database = sqlite_path(uri)
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
        client_of(uri)
    except MlflowException as error:
        raise UserError(f"tracking store {database} cannot be used: {first_line(error)}", mend) from None


def answers(uri: str) -> bool:
    """Whether the server at this address answers an ordinary call just now, within `REACH_TIMEOUT_S`."""
    try:
        _check_server(uri)
    except UserError:
        return False
    return True


def shown(uri: str) -> str:
    """The address for messages: a password in it is hidden."""
    return re.sub(r"//[^/@]+@", "//***@", uri)


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@functools.lru_cache(maxsize=8)
def client_of(uri: str) -> MlflowClient:
    """One client per address and process. A new sqlite file gets its tables here, under a lock: two creators at once would collide."""
    database = sqlite_path(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with open(database.with_name(database.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            client.search_experiments(max_results=1)
    return client
