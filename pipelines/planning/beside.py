"""Predictions beside what then happened: pairs of a calibration and a run of the same recipe, on this machine, in one sitting.

A pair measures the unit costs, plans and simulates the run with them, writes that down, and only then runs the recipe into a fresh
store. Nothing is asserted: the ratios are reported.
"""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, pstdev
from typing import Any

from infra.cluster import ROOT
from infra.errors import UserError
from infra.provenance import git_commit
from infra.storage import Location
from pipelines.context import load_recipe
from pipelines.planning.calibrate import described_machine
from pipelines.planning.estimate import plan_run
from pipelines.planning.here import this_machine
from pipelines.planning.measure_rehearsal import Finished, finished, object_seconds, run_recipe, updates
from pipelines.planning.simulate import simulate
from pipelines.planning.units import read_units
from pipelines.recipe import Recipe

LONG_S = 30.0
SEEDS = 5
VERSION = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """One step of one pair, in seconds.

    Attributes:
        planned, simulated: before the run; None for steps that the plan leaves out.
        actual: of the step's record.
        start: of `planned`, what starting the step was expected to take.
    """

    step: str
    planned: float | None
    simulated: float | None
    actual: float
    start: float = 0.0


@dataclass(frozen=True)
class Pair:
    """One calibration and the run after it.

    Attributes:
        spreads: of the logarithm of an object's seconds, or of an update's, by step; what the simulation assumes is beside it in
            `assumed`.
        load: of the machine before the calibration, before the run and after it, in words.
    """

    recipe: str
    sets: list[str]
    number: int
    commit: str
    steps: list[Compared]
    spreads: dict[str, float]
    assumed: dict[str, float]
    load: list[str]
    version: int = VERSION
    seconds: dict[str, float] = field(default_factory=dict)


def run_pairs(recipe: str, sets: list[str], out: Path, pairs: int, say: Say) -> list[Pair]:
    """Make the pairs that `out` does not hold yet; one that was interrupted is begun anew.

    Raises:
        UserError: a number below 1, pairs of another recipe in `out`, or a calibration or run that failed.
    """
    if pairs < 1:
        raise UserError(f"--pairs {pairs}", "at least 1")
    load_recipe(recipe, sets)
    out.mkdir(parents=True, exist_ok=True)
    return [_pair(recipe, sets, number, out.absolute(), say) for number in range(1, pairs + 1)]


def _pair(name: str, sets: list[str], number: int, out: Path, say: Say) -> Pair:
    place, folder = Location(str(out / f"pair-{number}.json")), out / f"pair-{number}"
    if place.exists():
        made = _read(place)
        if (made.recipe, made.sets) != (name, sets):
            raise UserError(f"{place.shown} is of {' '.join([made.recipe, *made.sets])}", "give another folder")
        say(f"pair {number}: in {place.shown} already")
        return made
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    load, began = [described_machine()], time.monotonic()
    say(f"pair {number}: calibrating; log in {folder / 'calibrate.log'}")
    units = folder / "units.json"
    _calibrate(units, folder / "calibrate.log")
    calibrated = time.monotonic()
    recipe = load_recipe(name, sets)
    before = predicted(recipe, units)
    Location(str(folder / "predicted.json")).write_json(before)
    load.append(described_machine())
    say(f"pair {number}: running {name}; log in {folder / 'run.log'}")
    run_recipe(name, sets, folder)
    ended = time.monotonic()
    load.append(described_machine())
    steps = finished(recipe, folder)
    faults = this_machine().faults
    pair = Pair(
        recipe=name,
        sets=sets,
        number=number,
        commit=git_commit(),
        steps=[Compared(step, **before.get(step, NOT_PLANNED), actual=done.record.seconds) for step, done in steps.items()],
        spreads=spreads(steps),
        assumed={"objects": faults.task_sigma, "updates": faults.step_sigma},
        load=load,
        seconds={"calibration": round(calibrated - began, 1), "run": round(ended - calibrated, 1)},
    )
    place.write_json({**pair.__dict__, "steps": [step.__dict__ for step in pair.steps]})
    shutil.rmtree(folder / "store", ignore_errors=True)  # units, predictions and logs stay
    return pair


NOT_PLANNED: dict[str, Any] = {"planned": None, "simulated": None}


def _read(place: Location) -> Pair:
    try:
        data = place.read_json()
        return Pair(**data | {"steps": [Compared(**step) for step in data["steps"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{place.shown} is damaged or of another version: {error}", f"delete {place.shown}") from error


def _calibrate(units: Path, log: Path) -> None:
    """In a process of its own, as a person would, so that nothing of it is warm in ours."""
    with open(log, "wb") as stream:
        command = [sys.executable, "-m", "pipelines", "calibrate", "--out", str(units)]
        ended = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
    if ended.returncode:
        tail = log.read_text(errors="replace")[-1500:]
        raise UserError(f"calibrating ended with status {ended.returncode}:\n{tail}", "mend it, and run the same command again")


def predicted(recipe: Recipe, units: Path) -> dict[str, dict[str, float]]:
    """Step -> `planned`, `simulated` and `start` seconds on this machine."""
    plan = plan_run(recipe, this_machine(), read_units(units))
    simulated = {run.step: run.wall_s for run in simulate(plan, seed=0, seeds=SEEDS)}
    return {
        step.load.step: {"planned": step.wall_s, "simulated": simulated[step.load.step], "start": step.load.start_s} for step in plan.steps
    }


def spreads(steps: dict[str, Finished]) -> dict[str, float]:
    """Standard deviation of the logarithm of seconds: of a render's and a generation's objects, and of the updates of a stage.

    Updates that are logged together are averaged there, so theirs is a lower bound.
    """
    found: dict[str, list[float]] = {name: object_seconds(steps[name]) for name in ("render", "generate") if name in steps}
    found |= {name: updates(step)[1:] for name, step in steps.items() if name.startswith("train.")}
    return {name: round(pstdev(math.log(each) for each in values), 3) for name, values in found.items() if len(values) > 1}


def summed_up(pairs: list[Pair]) -> dict[str, Any]:
    """Medians over the pairs, by step and for those that took longer than `LONG_S`; JSON."""
    names = dict.fromkeys(step.step for pair in pairs for step in pair.steps)
    rows = []
    for name in names:
        found = [step for pair in pairs for step in pair.steps if step.step == name]
        both = [step for step in found if step.planned is not None and step.simulated is not None and step.actual > 0]
        ratios = [step.planned / step.actual for step in both if step.planned is not None]
        rows.append(
            {
                "step": name,
                "planned": median([step.planned or 0.0 for step in both]) if both else None,
                "simulated": median([step.simulated or 0.0 for step in both]) if both else None,
                "actual": median([step.actual for step in found]),
                "ratio": median(ratios) if ratios else None,
                "ratios": ratios,
                "simulated_ratio": median([(step.simulated or 0.0) / step.actual for step in both]) if both else None,
                "long": median([step.actual for step in found]) > LONG_S,
            }
        )
    spread = {
        name: median(p.spreads[name] for p in pairs if name in p.spreads) for name in dict.fromkeys(n for p in pairs for n in p.spreads)
    }
    return {"pairs": len(pairs), "steps": rows, "spreads": spread, "assumed": pairs[0].assumed, "long_s": LONG_S}


def as_json(pairs: list[Pair]) -> dict[str, Any]:
    """Summary and all pairs."""
    return {
        "summary": summed_up(pairs),
        "each": [json.loads(json.dumps(pair.__dict__, default=lambda one: one.__dict__)) for pair in pairs],
    }
