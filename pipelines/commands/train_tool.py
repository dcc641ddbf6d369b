"""The `train` verb: one stage without Ray, in this process or as one of those that torchrun started; or only a trial of it."""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from infra import logs
from infra.errors import UserError
from infra.metrics import Meter, measured
from infra.notice import STATUS
from infra.storage import Location
from pipelines import graph
from pipelines.context import Context, absolute
from pipelines.dag import Step, decide_all
from pipelines.fingerprint import canonical, difference
from pipelines.runner import say
from training.config import TrainConfig
from training.data import DataLocations
from training.engine import device_here, process_group_from_environment
from training.guard import UnstableTraining
from training.notice import Left
from training.plots import loss_plot
from training.stage import Log, StageInputs, fit_local
from training.tryout import Trial, try_stage

SETTINGS = "training.json"
FIGURES = ("loss", "grad_norm", "samples_per_s", "tflops_per_device", "peak_memory_gb", "data_wait_s")


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train a stage on what a finished build in the store left, or try it on made-up data."""
    options.json = options.json and _is_first()  # one of several processes speaks
    context = Context.open(options.recipe, options.sets, options.label, options.store)
    step = _step(context, options.stage)
    if options.try_run:
        return _try(context, step, options)
    if options.out is None:
        raise UserError("there is no place for the results", "give --out DIR, or --try-run to see what the stage needs")
    return _train(context, step, options)


def _step(context: Context, stage: str) -> Step:
    """The graph's step of a stage; `train.unet1` is as good as `unet1`."""
    steps = {step.name: step for step in graph.build(context.recipe) if step.name.startswith("train.")}
    name = f"train.{stage.removeprefix('train.')}"
    if name not in steps:
        stages = ", ".join(each.removeprefix("train.") for each in steps)
        raise UserError(f"recipe {context.recipe.name} trains no stage '{stage}'", f"its stages are {stages}")
    return steps[name]


def _try(context: Context, step: Step, options: argparse.Namespace) -> dict[str, Any]:
    render = context.recipe.render
    with process_group_from_environment():
        trial = try_stage(step.config, render.views_of("made-up"), render.resolution, step.resources.workers, device_here())
    if _is_first() and not options.json:
        print(_described(trial))
    return trial.to_json()


def _described(trial: Trial) -> str:
    speed = "" if trial.tflops_per_device is None else f", {trial.tflops_per_device:.3g} TFLOP/s a device"
    share = "" if trial.mfu is None else f" ({trial.mfu:.1%} of its peak)"
    batch = f"{trial.micro_batches} x {trial.micro_batch} on {_count(trial.processes)}"
    lines = [
        f"train.{trial.stage}: two updates on made-up data, on {trial.device}",
        f"  weights     {trial.parameters / 1e6:.2f} M, of which {trial.trained_parameters / 1e6:.2f} M are trained",
        f"  precision   {trial.precision}, ZeRO {trial.zero_stage or 'off'}",
        f"  an update   {trial.objects} objects here, as micro-batches {batch}",
        f"  memory      {trial.peak_memory_gb:.2f} GiB at most",
        f"  time        {trial.step_s:.3g} s an update (the first took {trial.first_step_s:.3g} s)",
        f"  speed       {trial.samples_per_s:.3g} objects/s{speed}{share}",
        f"  the stage   {trial.steps} updates: about {_duration(trial.projected_h * 3600)}, plus validation, checkpoints, waiting for data",
    ]
    if trial.workers != trial.processes:
        lines.append(
            f"  the recipe asks for {_count(trial.workers)}: this is the work of each, without the exchange of gradients between them"
            + (" and without sharing optimiser state" if trial.zero_stage else "")
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds / length < most:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86400:.1f} days"


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _train(context: Context, step: Step, options: argparse.Namespace) -> dict[str, Any]:
    out = Location(absolute(options.out, "the output"))
    inputs, builds = _inputs(context, step, options.init)
    _settle(out, step.config, builds)
    finished = (out / "history.jsonl").exists()
    if finished:
        _say(f"{step.name} is trained already: {out.shown}")
    else:
        _say(f"{step.name}: {step.config.steps} steps -> {out.shown}")
        try:
            tracking = _tracking(context, step, options, out)
            with _told(step.name, context.label) as meter, tracking as track:

                def report(kind: str, row: dict[str, Any]) -> None:
                    _report(step.config, kind, row, meter)
                    track(kind, row)

                fit_local(step.config, inputs, out, report)
        except UnstableTraining as error:
            raise UserError(f"{step.name}: {error}", error.mend) from error
        except Left as left:
            if not _is_first():
                raise SystemExit(STATUS) from left  # one of several processes speaks
            raise
    history, validation = _rows(out / "history.jsonl"), _rows(out / "validation.jsonl")
    if _is_first() and not finished:
        (out / "loss.png").write_bytes(loss_plot(history, validation, step.name, _rows(out / "previews.jsonl")))
        (out / "state").delete()
    result = {
        "stage": step.config.stage,
        "out": str(out),
        "steps": step.config.steps,
        "last_loss": history[-1]["loss"] if history else None,
        "last_validation": validation[-1] if validation else None,
    }
    if _is_first() and not options.json:
        print(f"checkpoint  {(out / 'checkpoint').shown}\ncurves      {(out / 'loss.png').shown}")
    return result


def _tracking(context: Context, step: Step, options: argparse.Namespace, out: Location) -> contextlib.AbstractContextManager[Log]:
    """A run in MLflow, from the first process, where that is asked for."""
    if not _is_first() or not (options.track or os.environ.get("MLFLOW_TRACKING_URI")):
        return contextlib.nullcontext(lambda kind, row: None)
    from pipelines.commands.train_tracking import tracked  # MLflow takes seconds to import

    return tracked(context, step, out)


def _inputs(context: Context, step: Step, init: str | None) -> tuple[StageInputs, dict[str, str]]:
    """Where the stage's inputs lie, and which builds they are."""
    decisions = {decision.step.name: decision for decision in decide_all(graph.build(context.recipe), context.label, context.store)}
    if missing := [name for role, name in step.upstream().items() if decisions[name].record is None and not (role == "init" and init)]:
        raise UserError(
            f"{step.name} reads {', '.join(dict.fromkeys(missing))}: not built under label '{context.label}' in {context.store.root.shown}",
            f"mvforge run {context.recipe.name} --only {missing[-1]}, after the steps above it; see mvforge plan {context.recipe.name}",
        )
    places: dict[str, Location] = {}
    builds: dict[str, str] = {}
    for role, name in step.upstream().items():
        if role == "init" and init is not None:
            places[role] = Location(absolute(init, "the checkpoint to start from"))
            builds[role] = str(places[role])
            continue
        record = decisions[name].record
        assert record is not None
        if decisions[name].state != "done":
            _say(f"{name} is used as it is, though {decisions[name].reason}")
        places[role], builds[role] = context.store.data(record), record.build_id
    weights = {role.removeprefix("weights."): place for role, place in places.items() if role.startswith("weights.")}
    return StageInputs(DataLocations(places["views"], places["kept"], places.get("arrays")), places.get("init"), weights), builds


def _settle(out: Location, config: TrainConfig, builds: dict[str, str]) -> None:
    """A folder belongs to one training; going on with another's checkpoints is refused."""
    wanted = {"config": canonical(config), "inputs": builds}
    if (out / SETTINGS).exists():
        if changes := difference((out / SETTINGS).read_json(), wanted):
            raise UserError(f"{out.shown} holds another training: {'; '.join(changes)}", "choose another --out, or undo the change")
    elif _is_first():
        (out / SETTINGS).write_json(wanted)


@contextlib.contextmanager
def _told(step: str, label: str) -> Iterator[Meter]:
    """Logs of all processes name the step; the first one measures it."""
    with logs.working_on(step=step, label=label), measured(step, label) if _is_first() else contextlib.nullcontext(Meter()) as meter:
        yield meter


def _report(config: TrainConfig, kind: str, row: dict[str, Any], meter: Meter) -> None:
    if kind == "pictures":
        _say("  " + ", ".join(row["paths"]))
        return
    if kind == "train":
        meter.training(row)
        meter.queue(config.steps - int(row["step"]))
        shown = {name: row[name] for name in FIGURES if name in row}
    else:
        shown = {name: value for name, value in row.items() if name not in ("step", "seconds")}
    figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
    _say(f"step {row['step']:.0f}/{config.steps}  {kind}  {figures}")


def _rows(place: Location) -> list[dict[str, float]]:
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _is_first():
        say(text)
