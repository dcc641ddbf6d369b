"""The words for knowing a bill in advance: options of `plan`, and `simulate` and `calibrate`, with help and examples."""

import argparse
from pathlib import Path
from typing import Any

from pipelines.commands.verb import add_verb, later

PLAN_HELP = """With --cluster it prints what every step needs on that cluster instead: items, bytes, CPU- and GPU-hours, time, cost, what
limits it, memory of a GPU, every assumption, and where each unit cost was measured. No store is read.

--what-if adds a column; several settings in one are separated by commas:
  nodes, nodes.GROUP   nodes of the group with GPUs, or of GROUP; GPU workers grow with them
  price, price.GROUP   per node and hour
  resolution           side of the pictures
  views                target views kept per object and update
  samples              samples per pixel
and any setting that --set knows.

--beside DIR measures the unit costs of this machine, predicts the run, runs the recipe into a fresh store, and prints for every
step what was predicted beside what then happened; --pairs times (default 3). Pairs are kept in DIR, and the same command goes on
with the next one; one that was interrupted is begun anew. Leave the machine alone meanwhile."""

SIMULATE_HELP = """A discrete-event simulation of the steps, with stragglers and failing nodes as the cluster file has them: goodput,
time lost to faults, and the best time between checkpoints beside Young's and Daly's closed forms. The same seed prints the same."""

CALIBRATE_HELP = """Parts: render (real Blender renders), pictures (decoding and curating), arrays (reading encoded data),
checkpoint, encode, train, generate, reconstruct, score, rehearsal (a small run of `tiny` through Ray: what starting each step
costs, and training with its ranks). The file is written after each part; the same command goes on where it
stopped. On a GPU encode, train and generate take the full-size networks; on a CPU those of the recipe `tiny`. Measure on a
quiet machine."""

CLUSTER_HELP = "a cluster file, for example infra/clusters/h100x128.yaml"


def _add_plan_options(planner: argparse.ArgumentParser) -> None:
    """`--cluster` and what belongs to it, for `mvforge plan`; without `--cluster` the verb is what it was."""
    planner.add_argument("--cluster", type=Path, metavar="FILE", help=f"plan on this cluster: {CLUSTER_HELP}")
    _planning_options(planner)
    planner.add_argument("--beside", type=Path, metavar="DIR", help="calibrate here, run the recipe, and compare; pairs are kept in DIR")
    planner.add_argument("--pairs", type=int, default=3, metavar="N", help="of a calibration and a run, for --beside (default 3)")
    plain = planner.get_default("run")
    on_cluster, beside = later("plan_tool", "plan_on_cluster"), later("plan_tool", "plan_beside")
    planner.description = f"{planner.description}\n\n{PLAN_HELP}"

    def run(options: argparse.Namespace) -> Any:
        if options.beside:
            return beside(_without_cluster(options))
        return on_cluster(options) if options.cluster else plain(_without_cluster(options))

    planner.set_defaults(run=run)


def _without_cluster(options: argparse.Namespace) -> argparse.Namespace:
    from infra.errors import UserError

    if options.beside and options.cluster:
        raise UserError("--beside plans on this machine", "leave --cluster out")
    for name, value in (("--what-if", options.what_if), ("--units", options.units), ("--downloads", options.downloads)):
        if value:
            raise UserError(f"{name} needs --cluster", f"--cluster {CLUSTER_HELP.rpartition(' ')[2]}")
    return options


def add_planning_verbs(verbs: Any) -> None:
    """simulate, calibrate, and the options of `plan`, which must have been added before."""
    _add_plan_options(verbs.choices["plan"])
    simulator = add_verb(
        verbs,
        "simulate",
        later("plan_tool", "simulate_run"),
        "simulate a run on a cluster with stragglers and failures",
        "mvforge simulate paper_mvdiffusionpp --cluster infra/clusters/h100x128.yaml",
        SIMULATE_HELP,
    )
    simulator.add_argument("recipe", help="a recipe's name, or package.module:function of your own")
    simulator.add_argument("--cluster", type=Path, required=True, metavar="FILE", help=CLUSTER_HELP)
    simulator.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="change one setting; may be repeated"
    )
    _planning_options(simulator)
    simulator.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    simulator.add_argument("--seeds", type=int, default=5, help="simulate each step so often (default 5)")
    simulator.add_argument("--failures", type=float, metavar="RATE", help="failures a node and hour, instead of the cluster file's")
    simulator.add_argument("--checkpoint-every", type=int, metavar="N", help="updates between checkpoints, instead of the recipe's")
    simulator.add_argument("--plot", type=Path, metavar="FILE", help="goodput against checkpoint interval, .svg or .png")
    measure = add_verb(
        verbs,
        "calibrate",
        later("plan_tool", "calibrate_here"),
        "measure unit costs on this machine, for `plan` and `simulate`",
        "mvforge calibrate --out units.json --only render,train",
        CALIBRATE_HELP,
    )
    measure.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the unit costs are kept (JSON)")
    measure.add_argument("--only", default="", metavar="PARTS", help="these parts, separated by commas (default all)")
    measure.add_argument("--again", action="store_true", help="measure also what the file holds already")
    measure.add_argument("--repeats", type=int, default=3, help="of each part (default 3)")
    measure.add_argument("--objects", type=int, default=3, help="procedural objects to render (default 3)")
    measure.add_argument("--sizes", default="64,256", help="sides of the rendered pictures in pixels (default 64,256)")
    measure.add_argument(
        "--profile", default="quality", choices=("quality", "throughput", "draft"), help="of the renders (default quality)"
    )


def _planning_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what-if", action="append", default=[], metavar="KEY=VALUE", dest="what_if", help="nodes, price, resolution, views, samples"
    )
    parser.add_argument("--units", type=Path, metavar="FILE", help="what `mvforge calibrate` wrote (default: the shipped units)")
    parser.add_argument("--downloads", type=int, metavar="N", help="files to download, where more are fetched than rendered")
