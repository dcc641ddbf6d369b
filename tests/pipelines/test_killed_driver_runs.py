"""Runs of a killed driver do not seem to go on for ever; those of a living one are left alone."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from infra import tracking
from pipelines.dag import Step
from pipelines.track import EXPERIMENT, PipelineTracking
from tests.conftest import ROOT

TAGS = {"mvforge.store": "/data/store", "mvforge.recipe": "smoke"}
DRIVER = f"""
import sys
from pipelines.dag import Step
from pipelines.track import PipelineTracking
tracker = PipelineTracking(sys.argv[1], sys.argv[2], {{}}, {TAGS!r} | {{"mvforge.store": sys.argv[3]}})
tracker.step_run(Step("render", print, {{}}, "data"), sys.argv[2], "b1")
print("up", flush=True)
sys.stdin.read()
"""


def drivers(uri: str, **stores: str) -> "list[subprocess.Popen[str]]":
    """Drivers in the middle of `render`, one for each label, with the store it works on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-c", DRIVER, uri, label, store] for label, store in stores.items()]
    started = [subprocess.Popen(each, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in commands]
    for process in started:
        assert process.stdout is not None and process.stdout.readline().strip() == "up"
    return started


def states(uri: str) -> dict[str, list[str]]:
    """Name of the parent run -> status of it and of its step."""
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    found: dict[str, list[str]] = {}
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId")
        found.setdefault(names[parent] if parent else run.info.run_name, []).append(run.info.status)
    return found


def test_runs_of_a_killed_driver_are_ended_by_the_next_one(tracking_uri: str, tmp_path: Path):
    killed, elsewhere, alive = drivers(tracking_uri, killed="/data/store", elsewhere="/data/other", alive="/data/store")
    try:
        for each in (killed, elsewhere):
            each.kill()
            each.wait()
        assert states(tracking_uri)["killed"] == ["RUNNING", "RUNNING"]
        mine = PipelineTracking(tracking_uri, "mine", {}, TAGS)
        run = mine.step_run(Step("curate", print, {}, "data"), "mine", "b2")
        assert states(tracking_uri) == {
            "killed": ["KILLED", "KILLED"],
            "elsewhere": ["RUNNING", "RUNNING"],
            "alive": ["RUNNING", "RUNNING"],
            "mine": ["RUNNING", "RUNNING"],
        }
        assert isinstance(run, tracking.TrackedRun)
        mine.end_step(run, "FINISHED")
        mine.end("FINISHED")
        assert states(tracking_uri)["mine"] == ["FINISHED", "FINISHED"] and states(tracking_uri)["alive"] == ["RUNNING", "RUNNING"]
    finally:
        alive.communicate("")


def test_who_holds_the_lease_knows_that_the_one_before_is_gone(tracking_uri: str):
    """On another host nobody can see whether a process lives; but a step under a label is built by one driver at a time."""
    (before,) = drivers(tracking_uri, tiny="/data/store")
    try:
        mine = PipelineTracking(tracking_uri, "mine", {}, TAGS)
        mine.step_run(Step("render", print, {}, "data"), "tiny", "b1")
        assert states(tracking_uri) == {"tiny": ["KILLED", "KILLED"], "mine": ["RUNNING", "RUNNING"]}
    finally:
        before.communicate("")
