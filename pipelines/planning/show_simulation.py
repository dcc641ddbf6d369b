"""A simulated run as text, as plain values for `--json`, and as a plot."""

import math
from pathlib import Path
from typing import Any

from infra.errors import UserError
from pipelines.planning.estimate import RunPlan
from pipelines.planning.show import amount, duration, table
from pipelines.planning.simulate import ASSUMPTIONS, StepRun
from pipelines.planning.what_if import as_json


def simulation_lines(plan: RunPlan, runs: list[StepRun]) -> list[str]:
    """Two tables and the assumptions."""
    rows = [["step", "work alone", "wall", "shortest", "longest", "goodput", "faults", "waiting", "saving", "failures", "seeds"]]
    for run in runs:
        times = (run.ideal_s, run.wall_s, run.wall_low, run.wall_high)
        parts = (run.faults_s, run.waiting_s, run.saving_s)
        figures = [f"{run.goodput:.1%}", *map(duration, parts), amount(run.failures), str(run.seeds)]
        rows.append([run.step, *map(duration, times), *figures])
    sums = {name: sum(getattr(run, name) for run in runs) for name in SUMMED}
    good = sums["ideal_s"] / sums["wall_s"]
    losses = [duration(sums[name]) for name in ("faults_s", "waiting_s", "saving_s")]
    rows.append(["all", duration(sums["ideal_s"]), duration(sums["wall_s"]), "", "", f"{good:.1%}", *losses, amount(sums["failures"]), ""])
    lines = table(rows, left={0})
    intervals = _intervals(runs)
    if intervals:
        lines += ["", "checkpoints: updates between two, as the recipe has it, the best of those tried, and by the closed forms"]
        lines += intervals
    faults = plan.cluster.faults
    lines += [
        "",
        "assumptions:",
        f"  {faults.failures_per_node_hour:g} failures a node and hour, {faults.restart_s:g} s to restart training, "
        f"{faults.repair_s:g} s to repair a node, spread of a rank's update {faults.step_sigma:g}, "
        f"of an object's task {faults.task_sigma:g}",
        *(f"  {text}" for text in (*plan.cluster.assumptions, *ASSUMPTIONS)),
        f"  unit costs: {plan.units.path}; `mvforge plan` with the same cluster prints them",
    ]
    return lines


SUMMED = ("ideal_s", "wall_s", "faults_s", "waiting_s", "saving_s", "failures")


def _intervals(runs: list[StepRun]) -> list[str]:
    header = ["stage", "save", "upload", "between failures", "recipe", "goodput", "best", "goodput", "every", "Young", "Daly"]
    rows = [header]
    for run in runs:
        saving = run.checkpointing
        if saving is None:
            continue
        closed = [duration(value) if math.isfinite(value) else "never" for value in (saving.young_s, saving.daly_s)]
        between = duration(saving.between_failures_s) if math.isfinite(saving.between_failures_s) else "never"
        recipe, best = saving.recipe, saving.best
        shown = [str(recipe.every), f"{recipe.goodput:.2%}", str(best.every), f"{best.goodput:.2%}", duration(best.seconds)]
        rows.append([run.step, duration(saving.save_s), duration(saving.upload_s), between, *shown, *closed])
    return table(rows, left={0}) if len(rows) > 1 else []


def simulation_json(plan: RunPlan, runs: list[StepRun]) -> dict[str, Any]:
    """Everything as JSON; what never happens is null."""
    steps = [_finite(as_json(run)) | {"goodput": run.goodput} for run in runs]
    sums = {name: sum(getattr(run, name) for run in runs) for name in SUMMED}
    return {
        "cluster": as_json(plan.cluster),
        "units": str(plan.units.path),
        "steps": steps,
        "all": sums | {"goodput": sums["ideal_s"] / sums["wall_s"]},
        "assumptions": [*plan.cluster.assumptions, *ASSUMPTIONS],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_plot(runs: list[StepRun], path: Path) -> None:
    """Goodput against the time between checkpoints, a curve a stage; SVG or PNG by the name.

    Raises:
        UserError: another ending, or no stage with more than one interval.
    """
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"--plot {path}", "a name that ends in .svg or .png")
    stages = [(run.step, run.checkpointing) for run in runs if run.checkpointing is not None and len(run.checkpointing.tried) > 1]
    if not stages:
        raise UserError("there is no curve to plot: without failures no interval is better than another", "faults above 0 in the cluster")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, saving in stages:
        (line,) = axes.semilogx(
            [one.seconds / 60 for one in saving.tried], [100 * one.goodput for one in saving.tried], marker="o", label=name
        )
        axes.axvline(saving.daly_s / 60, color=line.get_color(), linestyle=":", linewidth=1)
    axes.set_xlabel("minutes of work between checkpoints (dotted: Daly)")
    axes.set_ylabel("goodput, %")
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    figure.savefig(temporary)
    temporary.rename(path)
