"""The words of the command line: every verb with its options, help and example.

What a verb does lives in its own module and is imported when the verb is used, so that `--help` is instant:
torch, Ray and MLflow together take ten seconds to import.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

SELECTION = """Steps are named as in `mvforge plan`; groups are data (catalog to curate), train (train.* to
register) and eval (generate to report).

  --only S          S alone, skipped if current; what it reads must be finished
  --from S          S and everything below, skipped where current; nothing above is touched
  --rerun S         do S again beside the old build, swapped in when complete; steps below become stale
  --retry-failed S  do only S's failed items again"""

IMAGE_HELP = """psnr and ssim on white over the full frame, psnr_foreground over the reference mask; ssim uses an 11x11
Gaussian (1.5), population covariance and leaves out a 5 px border. Pictures pair up by file name."""

MESH_HELP = """accuracy is generated -> reference, completeness the other way, chamfer their mean (not squared); coordinates
are taken as the files give them unless --normalize says otherwise: a Y-up GLB and a Z-up PLY share no frame."""

Run = Callable[[argparse.Namespace], Any]


def later(module: str, function: str) -> Run:
    """A function of `pipelines.commands.<module>`, imported when called."""

    def run(options: argparse.Namespace) -> Any:
        return getattr(importlib.import_module(f"pipelines.commands.{module}"), function)(options)

    return run


def add_verb(verbs: Any, name: str, run: Run, summary: str, example: str, details: str = "") -> argparse.ArgumentParser:
    """Add a verb; `run(options)` returns JSON-able results and prints its own text when `options.json` is off."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".rstrip(),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone on stdout; logs go to stderr")
    parser.set_defaults(run=run, status=lambda result: 0)
    return parser


def add_step_verbs(verbs: Any) -> None:
    """run, plan, status."""
    runner = add_verb(
        verbs,
        "run",
        later("steps", "run_steps"),
        "bring a recipe's steps up to date",
        "mvforge run tiny --set source=local:/data/objects",
        SELECTION,
    )
    _recipe_arguments(runner)
    for option, text in (
        ("--only", "only these steps or groups"),
        ("--rerun", "build these again, and nothing else"),
        ("--retry-failed", "build these again, failed items only"),
        ("--from", "only these and what is below them"),
    ):
        runner.add_argument(
            option, action="append", default=[], metavar="STEP", dest=option.strip("-").replace("-", "_") + "_steps", help=text
        )
    runner.add_argument("--wait", action="store_true", help="wait for another driver that builds the same step, instead of refusing")
    runner.add_argument("--settings", action="store_true", help="list every setting of the recipe with its value, and stop")
    planner = add_verb(
        verbs,
        "plan",
        later("steps", "plan_steps"),
        "show what would run, what is reused, why, and how long it took before",
        "mvforge plan tiny",
    )
    _recipe_arguments(planner)
    status = add_verb(
        verbs,
        "status",
        later("steps", "show_status"),
        "show each step: done, running (by whom), stale, failed or missing, and where",
        "mvforge status tiny",
    )
    _recipe_arguments(status)


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="smoke, tiny, small or paper_mvdiffusionpp")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="change one setting; may be repeated")
    parser.add_argument("--label", help="name of the results; default: the recipe's name, plus six hex digits when --set is used")
    parser.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")


def add_head_verbs(verbs: Any) -> None:
    """demo, submit, up, down."""
    demo = add_verb(
        verbs, "demo", later("head", "run_demo"), "run the tiny recipe as a Ray job, starting a local head if none runs", "mvforge demo"
    )
    demo.set_defaults(status=lambda result: result["exit"])
    submit = add_verb(
        verbs,
        "submit",
        later("head", "submit_job"),
        "submit a run as a Ray job and follow its log",
        "mvforge submit --address http://127.0.0.1:8265 tiny --set catalog.seed=1",
        "Everything after the recipe is passed to `mvforge run`. Ctrl-C stops the job; the head stays up.",
    )
    submit.add_argument("--address", help="dashboard address of the cluster (default: the local head, started if none runs)")
    submit.add_argument("recipe")
    submit.add_argument("arguments", nargs=argparse.REMAINDER, help="options of `mvforge run`")
    submit.set_defaults(status=lambda result: result["exit"])
    add_verb(verbs, "up", later("head", "start"), "start a local Ray head in the repository root", "mvforge up")
    add_verb(verbs, "down", later("head", "stop"), "stop the head that `up` or `demo` started, and no other", "mvforge down")


def add_tool_verbs(verbs: Any) -> None:
    """render, export-views, reconstruct, score-views, score-mesh."""
    render = add_verb(
        verbs,
        "render",
        later("tools", "render_objects"),
        "render every .glb/.gltf of a source to views with cameras",
        "mvforge render --source local:/data/objects --store /data/views --resolution 256",
        "An interrupted call goes on where it was; files that cannot be rendered are listed with their reasons.",
    )
    render.add_argument("--source", required=True, help="local:DIR, procedural, or objaverse")
    render.add_argument("--store", required=True, help="folder or URL for the views")
    render.add_argument("--resolution", type=int, default=512, help="side of the square pictures in pixels (default 512)")
    render.add_argument("--samples", type=int, default=32, help="Cycles samples per pixel (default 32)")
    render.add_argument("--rig", default="mvdiffusionpp", help="camera rig (default mvdiffusionpp)")
    render.add_argument("--conditions", type=int, default=4, help="random condition views beside the rig's targets (default 4)")
    render.add_argument("--objects", type=int, help="how many objects of a procedural or objaverse source")
    render.add_argument("--workers", type=int, default=2, help="Blender processes (default 2)")
    render.set_defaults(status=lambda result: 0 if result["failed"] <= result["completed"] else 1)
    export = add_verb(
        verbs,
        "export-views",
        later("tools", "export_one"),
        "write one object's views as PNG files with transforms.json (nerfstudio)",
        "mvforge export-views water_bottle-e3e55e7f --store /data/views --out bottle",
    )
    export.add_argument("uid", help="the object; an unknown one is answered with the nearest")
    export.add_argument("--store", required=True, help="what `mvforge render` or a render step wrote")
    export.add_argument("--out", required=True, type=Path)
    rebuild = add_verb(
        verbs,
        "reconstruct",
        later("tools", "reconstruct"),
        "turn a folder of RGBA views with transforms.json into a coloured GLB",
        "mvforge reconstruct --views bottle --out bottle.glb",
    )
    rebuild.add_argument("--views", required=True, type=Path)
    rebuild.add_argument("--resolution", type=int, default=64, help="cells along the longest side (default 64)")
    rebuild.add_argument("--votes", type=int, help="views that may contradict a cell before it goes (default: 1 from 16 views on, else 0)")
    rebuild.add_argument("--out", required=True, type=Path)
    views = add_verb(
        verbs,
        "score-views",
        later("tools", "score_pictures"),
        "compare two folders of RGBA pictures",
        "mvforge score-views --reference truth --generated mine --json",
        IMAGE_HELP,
    )
    _pair_arguments(views)
    mesh = add_verb(
        verbs,
        "score-mesh",
        later("tools", "score_meshes"),
        "compare two meshes (.glb, .gltf, .ply, .obj)",
        "mvforge score-mesh --reference a.glb --generated b.glb",
        MESH_HELP,
    )
    _pair_arguments(mesh)
    mesh.add_argument(
        "--normalize", choices=("unit-cube", "bbox-each"), help="bring both by the reference's box, or each by its own, to the unit cube"
    )


def _pair_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", required=True, type=Path)
    parser.add_argument("--generated", required=True, type=Path)
