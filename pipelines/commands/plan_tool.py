"""The verbs `plan --cluster`, `simulate` and `calibrate`."""

import argparse
import dataclasses
import sys
from typing import Any

from infra.errors import UserError
from infra.storage import Location
from pipelines.context import load_recipe
from pipelines.planning import beside, show_beside
from pipelines.planning.calibrate import Settings, calibrate
from pipelines.planning.cluster_file import read_cluster
from pipelines.planning.estimate import RunPlan, plan_run
from pipelines.planning.show import plan_json, plan_lines, unit_lines
from pipelines.planning.show_simulation import simulation_json, simulation_lines, write_plot
from pipelines.planning.simulate import simulate
from pipelines.planning.units import read_units
from pipelines.planning.what_if import changed


def plan_on_cluster(options: argparse.Namespace) -> dict[str, Any]:
    """Plan the run on the cluster; with `--what-if` also each alternative."""
    recipe, cluster = load_recipe(options.recipe, options.sets), read_cluster(options.cluster)
    units = read_units(options.units)
    plans = {"as it is": plan_run(recipe, cluster, units, options.downloads)}
    for text in options.what_if:
        other, larger = changed(recipe, cluster, text)
        plans[text] = plan_run(other, larger, units, options.downloads)
    if not options.json:
        print(f"recipe {recipe.name} on cluster {cluster.name} ({options.cluster})\n")
        print("\n".join(plan_lines(plans)))
    return {"recipe": recipe.name, "plans": plan_json(plans)}


def plan_beside(options: argparse.Namespace) -> dict[str, Any]:
    """Predict and run, several times, and compare; the comparison also lies in `beside.json`."""
    pairs = beside.run_pairs(
        options.recipe, options.sets, options.beside, options.pairs, lambda text: print(text, file=sys.stderr, flush=True)
    )
    result = beside.as_json(pairs)
    Location(str((options.beside / "beside.json").absolute())).write_json(result)
    if not options.json:
        print("\n".join(show_beside.lines(pairs)))
    return result


def simulate_run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate the run on the cluster with stragglers and failures."""
    plan = _with_failures(_planned(options), options.failures)
    runs = simulate(plan, options.seed, options.seeds, options.checkpoint_every)
    if options.plot:
        write_plot(runs, options.plot)
    if not options.json:
        print(f"recipe {plan.recipe.name} on cluster {plan.cluster.name} ({options.cluster}), seed {options.seed}\n")
        print("\n".join(simulation_lines(plan, runs)))
        if options.plot:
            print(f"plot: {options.plot}")
    return {"recipe": plan.recipe.name, "seed": options.seed, **simulation_json(plan, runs)}


def _planned(options: argparse.Namespace) -> RunPlan:
    recipe, cluster = load_recipe(options.recipe, options.sets), read_cluster(options.cluster)
    for text in options.what_if:
        recipe, cluster = changed(recipe, cluster, text)
    return plan_run(recipe, cluster, read_units(options.units), options.downloads)


def _with_failures(plan: RunPlan, rate: float | None) -> RunPlan:
    if rate is None:
        return plan
    if rate < 0:
        raise UserError(f"--failures {rate:g}", "failures a node and hour, 0 or more")
    faults = dataclasses.replace(plan.cluster.faults, failures_per_node_hour=rate)
    return dataclasses.replace(plan, cluster=dataclasses.replace(plan.cluster, faults=faults))


def calibrate_here(options: argparse.Namespace) -> dict[str, Any]:
    """Measure unit costs on this machine."""
    try:
        sizes = tuple(int(size) for size in options.sizes.split(","))
    except ValueError as error:
        raise UserError(f"--sizes {options.sizes} is no list of numbers", "for example --sizes 64,256") from error
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    settings = Settings(options.repeats, options.objects, sizes, options.profile)
    say = (lambda text: print(text, file=sys.stderr, flush=True)) if options.json else (lambda text: print(text, flush=True))
    units = calibrate(options.out, only, settings, again=options.again, say=say)
    if not options.json:
        print()
        print("\n".join(unit_lines(units)))
    return {"path": str(options.out), "units": {name: dataclasses.asdict(unit) for name, unit in units.units.items()}}
