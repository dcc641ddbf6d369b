"""What starting costs, and how quickly training goes through Ray Train and DeepSpeed: a small real run of `tiny`, step by step.

The other parts measure work alone, in one process. A step of the pipeline also starts workers, imports and loads, and its ranks
exchange gradients and wait for each other: that shows only in a run.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from infra.cluster import ROOT
from infra.errors import UserError
from infra.storage import Location
from pipelines.artifact import Record, Store
from pipelines.context import load_recipe
from pipelines.recipe import Recipe
from training.lookup import method_named

Repeats = dict[str, list[float]]
RECIPE, OBJECTS, STEPS = "tiny", 8, 16
# The first updates of a stage set things up: what they take longer belongs to the start.
LEFT_OUT = 3
# In this stage every update is followed by a validation, in the others none but the first and last: the difference is their cost.
VALIDATED = "unet2"
STARTED = ("fetch", "render", "curate", "train", "encode", "generate", "reconstruct", "score")


def settings() -> list[str]:
    """Of the rehearsal, for `--set`."""
    # Half of the objects are held out, so that validating sees as many as it asks for.
    found = [f"objects={OBJECTS}", "catalog.val_fraction=0.5"]
    for stage in load_recipe(RECIPE, []).train:
        values = {
            "steps": STEPS,
            "warmup_steps": 0,
            "log_every": 1,
            "checkpoint_every": STEPS,
            "sample_every": STEPS,
            "validate_every": int(stage == VALIDATED),
        }
        found += [f"train.{stage}.{name}={value}" for name, value in values.items()]
    return found


def measure_rehearsal(repeats: int) -> tuple[Repeats, str]:
    """The `start.` units, rates of training, looking and generating with workers; one run, whatever `repeats`."""
    del repeats
    recipe = load_recipe(RECIPE, settings())
    with tempfile.TemporaryDirectory(prefix="mvforge-calibrate-") as folder:
        run_recipe(RECIPE, settings(), Path(folder))
        found = evaluated(recipe, finished(recipe, Path(folder)))
    return found, f"`{RECIPE}` with {OBJECTS} objects and {STEPS} updates a stage, through Ray on this machine"


def run_recipe(recipe: str, sets: list[str], folder: Path) -> None:
    """`mvforge run` into `folder/store` with a cluster and a tracking file of its own; its output goes to `folder/run.log`.

    Raises:
        UserError: it failed; the end of its log is shown.
    """
    command = [sys.executable, "-m", "pipelines", "run", recipe, "--store", str(folder / "store"), "--label", RUN_LABEL]
    command += [word for setting in sets for word in ("--set", setting)]
    log = folder / "run.log"
    with open(log, "wb") as stream:
        ended = subprocess.run(command, cwd=ROOT, env=_environment(folder), stdout=stream, stderr=stream, check=False)
    if ended.returncode:
        tail = log.read_text(errors="replace")[-1500:]
        raise UserError(f"the run of {recipe} ended with status {ended.returncode}:\n{tail}", "mend it, and run the same command again")


RUN_LABEL = "measured"
LEFT = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MVFORGE_STORE", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def _environment(folder: Path) -> Mapping[str, str]:
    """Without what would lead to another cluster, store or tracking server."""
    return {name: value for name, value in os.environ.items() if name not in LEFT} | {"MVFORGE_HOME": str(folder / "home")}


@dataclass(frozen=True)
class Finished:
    """A finished step: its record and the folder of its data."""

    record: Record
    data: Location


def finished(recipe: Recipe, folder: Path) -> dict[str, Finished]:
    """The steps that `run_recipe` left, by name."""
    store = Store(Location(str(folder / "store")))
    records = {name: store.record(name, RUN_LABEL) for name in recipe.step_names()}
    return {name: Finished(record, store.data(record)) for name, record in records.items() if record is not None}


def updates(step: Finished) -> list[float]:
    """Seconds of each logged update."""
    return [float(row["seconds"]) for row in _history(step)]


def _history(step: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (step.data / "history.jsonl").read_text().splitlines()]


def object_seconds(step: Finished) -> list[float]:
    """Seconds that each object of a step with a ledger took on its worker."""
    table = (step.data / "ledger.parquet").read_table(columns=["status", "seconds"]).to_pylist()
    return [row["seconds"] for row in table if row["status"] == "ok" and row["seconds"]]


def evaluated(recipe: Recipe, steps: dict[str, Finished]) -> Repeats:
    """Units from the records of a rehearsal. What is left of a step's seconds without the work of its workers is its start."""
    from pipelines.planning.workload import budget_of

    found: Repeats = {f"start.{name}": [] for name in STARTED}
    held_out = _held_out(steps)
    for name in ("fetch", "curate", "encode", "score"):  # few objects: nearly all of it is the start
        found[f"start.{name}"] = [steps[name].record.seconds]
    for name in ("render", "generate", "reconstruct"):
        seconds = object_seconds(steps[name])
        busy = max(sum(seconds) / recipe.resources_for(name).workers, max(seconds))
        found[f"start.{name}"] = [max(0.0, steps[name].record.seconds - busy)]
    sampling = method_named(recipe.method).sampling_flops(recipe.model, recipe.generate.steps)  # type: ignore[attr-defined]
    found["generate.worker_tflops"] = [sampling / 1e12 / seconds for seconds in object_seconds(steps["generate"])]
    starts, rates, vae_rates = dict[str, float](), list[float](), list[float]()
    shown = list[float]()
    for stage, config in recipe.train.items():
        step = steps[f"train.{stage}"]
        usual, looked = _history(step)[LEFT_OUT:], _preview_seconds(step)
        starts[stage] = max(0.0, step.record.seconds - STEPS * mean(row["seconds"] for row in usual) - looked)
        # All operations by all seconds, as a whole run adds them up; a median would leave the slow updates out.
        rate = sum(row["tflops_per_device"] * row["seconds"] for row in usual) / sum(row["seconds"] for row in usual)
        (vae_rates if _encodes(recipe, stage) else rates).append(rate)
        objects = min(held_out, config.sample_objects)
        shown.append(objects * budget_of(recipe, stage).preview_flops / 1e12 / looked)
    plain = [seconds for stage, seconds in starts.items() if stage != VALIDATED]
    found["start.train"] = plain
    found["train.rank_tflops"], found["train.vae_rank_tflops"], found["train.preview_tflops"] = rates, vae_rates, shown
    extra = (starts[VALIDATED] - median(plain)) / (STEPS - 1)  # seconds of one of the validations that the others do not make
    if extra > 0:
        objects = min(held_out, recipe.train[VALIDATED].validate_objects)
        found["train.validate_tflops"] = [objects * budget_of(recipe, VALIDATED).validation_flops / 1e12 / extra]
    return found


def _preview_seconds(step: Finished) -> float:
    """Seconds that making and writing sample pictures took."""
    return sum(float(json.loads(line)["seconds"]) for line in (step.data / "previews.jsonl").read_text().splitlines())


def _encodes(recipe: Recipe, stage: str) -> bool:
    """Whether later stages read what this one encodes."""
    return any(each.encodes_with == stage for each in method_named(recipe.method).stages)


def _held_out(steps: dict[str, Finished]) -> int:
    kept = (steps["curate"].data / "kept.parquet").read_table(columns=["split"]).column("split").to_pylist()
    return kept.count("val")
