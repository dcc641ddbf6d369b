"""Verbs on the graph: run, plan, status."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from infra import cluster, notice, scratch, tracking
from infra.provenance import git_commit
from infra.storage import Location
from pipelines import buffered, graph, projection, recipes, settings
from pipelines.artifact import Record, Store
from pipelines.commands import rendering
from pipelines.context import Context
from pipelines.dag import Decision, Step, decide_all, select
from pipelines.lease import read_holder
from pipelines.runner import Outcome, Plan, refuse_changes, run, say
from pipelines.track import PipelineTracking

ACTIONS = {"done": "reuse", "changed": "stop"}


def run_steps(options: argparse.Namespace) -> dict[str, Any]:
    """The `run` verb."""
    context = Context.open(options.recipe, options.sets, options.label, options.store)
    if options.settings:
        values = settings.settable(context.recipe)
        if not options.json:
            print("\n".join(f"{key}={value}" for key, value in values.items()))
        return {"settings": {key: str(value) for key, value in values.items()}}
    started = time.time()
    tracking.check(context.tracking_uri)
    try:
        # `ray job stop` and cluster managers send SIGTERM: trainings write a checkpoint, and the interruption is recorded.
        with notice.listening(), tracking.sending(context.tracking_uri, buffered.folder(context.store.root), say):
            result = _run(_with_resolved_model(context), options, started)
    finally:
        scratch.remove_abandoned()  # of workers that were killed on this machine
    if not options.json:
        _print_result(result)
    return result


def _run(context: Context, options: argparse.Namespace, started: float) -> dict[str, Any]:
    """What `run_steps` does while calls to the tracking server are sent."""
    steps = graph.build(context.recipe)
    plan = _plan(steps, options)
    decisions = decide_all(steps, context.label, context.store)
    refuse_changes(decisions, plan, context.label)
    say(f"recipe {context.recipe.name}, label {context.label}, store {context.store.root.shown}")
    if any(d.state != "done" and plan.touches(d.step.name) for d in decisions) or plan.rerun or plan.retry_failed:
        cluster.attach()
        cluster.check_size({s.name: s.resources for s in steps if plan.touches(s.name)})
        cluster.check_shared(context.store.root, context.tracking_uri)
    tracker = PipelineTracking(
        context.tracking_uri,
        f"{context.recipe.name}/{context.label}",
        {"recipe": context.recipe.name, "settings": options.sets},
        _tags(context),
    )
    status = "FAILED"
    try:
        outcome = run(steps, context.label, context.store, plan, tracker, options.wait)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
    if tracking.sent(context.tracking_uri):
        outcome.records = buffered.name_runs(context.store, context.tracking_uri, outcome.records)
    return _result(context, outcome, time.time() - started)


def _with_resolved_model(context: Context) -> Context:
    """An alias in `generate.model` becomes the version it names now, so that the record and the fingerprint hold a version."""
    model = context.recipe.generate.model
    if not model:
        return context
    version = tracking.resolve(context.tracking_uri, model)
    say(f"{model} is {version.uri}")
    generate = dataclasses.replace(context.recipe.generate, model=version.uri)
    return dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, generate=generate))


def _plan(steps: list[Step], options: argparse.Namespace) -> Plan:
    rerun, retry = select(steps, options.rerun_steps), select(steps, options.retry_failed_steps)
    only = select(steps, options.only_steps)
    if options.from_steps:
        only |= _with_below(steps, select(steps, options.from_steps))
    return Plan(frozenset(only) if only else None, frozenset(rerun), frozenset(retry))


def _with_below(steps: list[Step], chosen: set[str]) -> set[str]:
    """The chosen steps and all that read them, directly or not."""
    found = set(chosen)
    for step in steps:
        if found & set(step.upstream().values()):
            found.add(step.name)
    return found


def _tags(context: Context) -> dict[str, str]:
    return {
        "mvforge.recipe": context.recipe.name,
        "mvforge.label": context.label,
        "mvforge.store": context.store.root.shown,
        "mvforge.git_commit": git_commit(),
    }


def _result(context: Context, outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "recipe": context.recipe.name,
        "label": context.label,
        "store": str(context.store.root),
        "tracking_uri": context.tracking_uri,
        "ran": outcome.ran,
        "seconds": round(seconds, 1),
        "steps": {name: _step_result(context.store, record) for name, record in outcome.records.items()},
    }


def _step_result(store: Store, record: Record) -> dict[str, Any]:
    return {
        "path": str(store.data(record)),
        "label": record.label,
        "build_id": record.build_id,
        "completed": record.completed,
        "failed": record.failed,
        "rejected": record.rejected,
        "seconds": record.seconds,
        "run_id": record.run_id,
        "facts": record.facts,
    }


def _print_result(result: dict[str, Any]) -> None:
    steps = result["steps"]
    print(f"\n{len(result['ran'])} steps run, {len(steps) - len(result['ran'])} reused, in {result['seconds']:.0f} s")
    if "register" in steps:
        print(f"model     {steps['register']['facts']['model']}")
    if "report" in steps:
        print(f"report    {(Location(steps['report']['path']) / 'report.html').shown}")
    print(f"tracking  {mlflow_command(result['tracking_uri'])}")


def mlflow_command(uri: str) -> str:
    """What a person types or opens to see the runs."""
    return (
        uri
        if uri.startswith("http")
        else f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {uri}   (then open http://127.0.0.1:5000)"
    )


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """One line of a plan."""

    step: str
    state: str
    action: str
    reason: str
    last_seconds: float | None


def plan_steps(options: argparse.Namespace) -> dict[str, Any]:
    """The `plan` verb: decisions, the last known duration of each step, and what training will cost."""
    context = Context.open(options.recipe, options.sets, options.label, options.store)
    decisions = decide_all(graph.build(context.recipe), context.label, context.store)
    planned = [
        PlannedStep(d.step.name, d.state, ACTIONS.get(d.state, "run"), d.reason, last_seconds(context.store, d.step.name))
        for d in decisions
    ]
    rows = [dataclasses.asdict(each) for each in planned]
    if not options.json:
        print(f"recipe {context.recipe.name}, label {context.label}, store {context.store.root.shown}\n")
        _table(rows, ["step", "action", "last_seconds", "reason"])
        known = [each.last_seconds for each in planned if each.action == "run" and each.last_seconds is not None]
        unknown = sum(each.action == "run" and each.last_seconds is None for each in planned)
        print(f"\nabout {sum(known):.0f} s by earlier builds" + (f", plus {unknown} steps never built in this store" if unknown else ""))
    cost = projection.project(context.recipe)
    if cost is not None and not options.json:
        print("\ntraining, counted from the settings:")
        print("\n".join(projection.lines(cost)))
    return {"recipe": context.recipe.name, "label": context.label, "steps": rows, "projection": cost}


def last_seconds(store: Store, step: str) -> float | None:
    records = [record for label in store.labels(step) if (record := store.readable(step, label)) is not None]
    return max(records, key=lambda r: r.started_at).seconds if records else None


def show_status(options: argparse.Namespace) -> dict[str, Any]:
    """The `status` verb; the word `render` in place of a recipe stands for all renderings of the store."""
    if options.recipe == rendering.STEP:
        return rendering.show_renderings(options, options.label)
    if options.step == rendering.STEP:
        return rendering.show_renderings(options, options.label or settings.label_for(recipes.by_name(options.recipe).name, options.sets))
    context = Context.open(options.recipe, options.sets, options.label, options.store)
    rows = [status_row(context, d) for d in decide_all(graph.build(context.recipe), context.label, context.store)]
    if not options.json:
        print(f"recipe {context.recipe.name}, label {context.label}, store {context.store.root.shown}\n")
        _table(rows, ["step", "state", "completed", "failed", "rejected", "detail"])
        if text := buffered.waiting_text(context.store.root, context.tracking_uri):
            print(f"\n{text}")
    return {"recipe": context.recipe.name, "label": context.label, "steps": rows}


def status_row(context: Context, decision: Decision) -> dict[str, Any]:
    name, record = decision.step.name, decision.record
    folder = context.store.folder(name, context.label)
    holder, building = read_holder(folder / "lease.json"), context.store.building(name, context.label)
    state, detail = decision.state, decision.reason
    if holder is not None and not holder.is_gone():
        state, detail = "running", f"by {holder}"
    elif building is not None and building.failure:
        state, detail = "failed", building.failure.splitlines()[-1]
    elif building is not None:
        state, detail = "interrupted", "run again to go on"
    elif decision.state == "done" and record is not None:
        detail = context.store.data(record).shown
    elif decision.state == "waiting":
        state = "stale" if record is not None else "missing"
    counts = {key: getattr(record, key) if record is not None else None for key in ("completed", "failed", "rejected")}
    return {
        "step": name,
        "state": state,
        **counts,
        "detail": detail,
        "path": str(context.store.data(record)) if record is not None else None,
    }


def _table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    cells = [[("" if row[c] is None else str(row[c])) for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
