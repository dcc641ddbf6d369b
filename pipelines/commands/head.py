"""Verbs around a local Ray head: demo, submit, up, down."""

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from infra import cluster
from infra.errors import UserError
from infra.provenance import git_commit
from pipelines.context import absolute, store_location

AGENT_TIMEOUT_S = 60.0
# Settings of the caller's shell that the job must see; the job itself inherits the head's environment.
CARRIED = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MVFORGE_HOME",
    "MVFORGE_ASSETS",
    "MVFORGE_LOG_FORMAT",
    "MVFORGE_NODE_PATIENCE_S",
)


def start(options: argparse.Namespace) -> dict[str, Any]:
    """The `up` verb."""
    head = cluster.start_head()
    if not options.json:
        print(f"Ray head at 127.0.0.1:{head.port}, dashboard {head.dashboard}; stop it with `make down`")
    return {"port": head.port, "dashboard": head.dashboard}


def stop(options: argparse.Namespace) -> dict[str, Any]:
    """The `down` verb."""
    stopped = cluster.stop_head()
    if not options.json:
        print("stopped" if stopped else "no head of ours is running")
    return {"stopped": stopped}


def run_demo(options: argparse.Namespace) -> dict[str, Any]:
    """The `demo` verb."""
    return _submit("tiny", [], None)


def submit_job(options: argparse.Namespace) -> dict[str, Any]:
    """The `submit` verb."""
    return _submit(options.recipe, [a for a in options.arguments if a != "--"], options.address)


def job_environment(arguments: list[str]) -> dict[str, str]:
    """Environment of the job: absolute store, tracking address, assets, and the commit (a package has no .git)."""
    given = arguments[arguments.index("--store") + 1] if "--store" in arguments else None
    store = store_location(given)
    if store.is_local and _would_be_uploaded(store.local_path()):
        raise UserError(
            f"the store {store} lies in the folder that is uploaded with the job",
            "choose a place outside the repository, or one that git ignores",
        )
    carried = {name: os.environ[name] for name in CARRIED if name in os.environ}
    if "MVFORGE_ASSETS" in carried:
        carried["MVFORGE_ASSETS"] = absolute(carried["MVFORGE_ASSETS"], "MVFORGE_ASSETS")
    return {**carried, "MVFORGE_STORE": str(store), "MVFORGE_GIT_COMMIT": git_commit()}


def _would_be_uploaded(path: Path) -> bool:
    if not path.is_relative_to(cluster.ROOT):
        return False
    ignored = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=cluster.ROOT, check=False)
    return ignored.returncode != 0


def _absolute_arguments(arguments: list[str]) -> list[str]:
    """Relative local sources and stores made absolute here, where they mean something."""
    result = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        if before == "--store":
            text = absolute(text, "the store")
        for key in ("source=local:", "catalog.source=local:"):
            if text.startswith(key):
                text = key + absolute(text.removeprefix(key), "the source")
        result.append(text)
    return result


def _dashboard(given: str | None) -> str:
    """The dashboard to submit to: the given one, that of a running head, or of a head started now."""
    if given is None:
        return cluster.running_dashboard() or cluster.start_head().dashboard
    running = cluster.dashboard_version(given)
    if running is None:
        raise UserError(f"no Ray dashboard answers at {given}", "start a head with `mvforge up`, or correct --address")
    cluster.refuse_other_ray(given, running)
    return given


def _submit(recipe: str, arguments: list[str], address: str | None) -> dict[str, Any]:
    """Submit, follow, and return the job's id and exit status."""
    from ray.job_submission import JobSubmissionClient

    arguments = _absolute_arguments(arguments)
    environment = job_environment(arguments)
    address = _dashboard(address)
    print(f"Ray dashboard {address}", file=sys.stderr)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray").setLevel(logging.ERROR)  # a line for every file that is left out of the upload helps nobody
    client = JobSubmissionClient(address)
    entry = ["python", "pipelines/full.py", recipe, *arguments]
    job = _submitted(
        client,
        entrypoint=shlex.join(entry),
        runtime_env={"working_dir": str(cluster.ROOT), "env_vars": environment, "excludes": [".git", ".venv", "docs/images"]},
    )
    print(f"job {job}", file=sys.stderr)
    status = _follow(client, job)
    return {"job": job, "exit": 0 if status == "SUCCEEDED" else 1, "status": status}


def _submitted(client: Any, **job: Any) -> str:
    """Submit, waiting for the head's job agent, which comes up some seconds after the dashboard."""
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _follow(client: Any, job: str) -> str:
    """Print the job's log until it ends; Ctrl-C or SIGTERM stops the job and keeps the head."""
    stopping = threading.Event()

    def request_stop(*_: object) -> None:
        if not stopping.is_set():
            stopping.set()
            print("stopping the job; the head stays up", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        shown, asked = 0, False
        while True:
            if stopping.is_set() and not asked:
                asked = client.stop_job(job)
            status = client.get_job_status(job).value
            text = client.get_job_logs(job)
            print(text[shown:], end="", file=sys.stderr, flush=True)
            shown = len(text)
            if status in ("SUCCEEDED", "FAILED", "STOPPED"):
                if status == "FAILED":
                    print(f"job {job} failed: {client.get_job_info(job).message}", file=sys.stderr)
                return status
            time.sleep(1.0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
