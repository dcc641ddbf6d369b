"""What must hold in the tracking server after a disturbed run, asked over its REST interface and not through our own client."""

import json
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines.chaos import results
from pipelines.chaos.results import Finished

BUILD_TAG = "mvforge.build_id"
API = "/api/2.0/mlflow"


def ask(uri: str, path: str, **query: Any) -> dict[str, Any]:
    """One GET call."""
    address = f"{uri}{API}/{path}?{urllib.parse.urlencode(query, doseq=True)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def post(uri: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One POST call."""
    request = urllib.request.Request(f"{uri}{API}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def versions(uri: str, builds: dict[str, Finished]) -> Iterator[str]:
    """Exactly one registered version for the finished build that registers; none for anything that did not finish."""
    found = ask(uri, "model-versions/search", max_results=1000).get("model_versions", [])
    if "register" not in builds:
        if found:
            yield f"{len(found)} versions are registered, and no training has finished"
        return
    build = builds["register"]
    made = Counter({tag["key"]: tag["value"] for tag in each.get("tags", [])}.get(BUILD_TAG, "") for each in found)
    if made[build.record["build_id"]] != 1:
        yield f"the finished training has {made[build.record['build_id']]} registered versions"
    if twice := [name for name, count in made.items() if count > 1]:
        yield f"builds with more than one registered version: {', '.join(twice)}"
    if not all(made) or len(found) != len(made):
        yield f"{len(found)} versions of {len(made)} builds are registered"
    named = json.loads((build.folder / "version.json").read_text())
    if named["version"] not in [each["version"] for each in found]:
        yield f"version.json names version {named['version']}, which is not registered"


def runs(uri: str, builds: dict[str, Finished]) -> Iterator[str]:
    """The run of every finished build is FINISHED and has every training update once; no run seems to go on."""
    known = {run["info"]["run_id"]: run for run in _all_runs(uri)}
    for step, build in builds.items():
        run = known.get(build.record["run_id"])
        if run is None:
            yield f"{step}: the run {build.record['run_id']} is not in the tracking server"
            continue
        if run["info"]["status"] != "FINISHED":
            yield f"{step}: its run is {run['info']['status']}"
        if step.startswith("train."):
            answer = ask(uri, "metrics/get-history", run_id=run["info"]["run_id"], metric_key="train/loss", max_results=20000)
            logged = Counter(int(each["step"]) for each in answer.get("metrics", []))
            expected = Counter(int(row["step"]) for row in results.curve(build, "history.jsonl"))
            if logged != expected:
                yield f"{step}: its run has the updates {_shown(logged)} instead of {_shown(expected)}"
    going = [run["info"]["run_name"] for run in known.values() if run["info"]["status"] == "RUNNING"]
    if going:
        yield f"{len(going)} runs seem to go on: {', '.join(sorted(going)[:6])}"


def _shown(steps: Counter[int]) -> str:
    return ", ".join(f"{step}{f' x{count}' if count > 1 else ''}" for step, count in sorted(steps.items()))


def _all_runs(uri: str) -> list[dict[str, Any]]:
    experiments = [each["experiment_id"] for each in ask(uri, "experiments/search", max_results=100).get("experiments", [])]
    return post(uri, "runs/search", {"experiment_ids": experiments, "max_results": 5000}).get("runs", [])
