"""The words of the command line: every verb with its options, help and example.

What a verb does lives in its own module and is imported when the verb is used, so that `--help` is instant:
torch, Ray and MLflow together take ten seconds to import.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.commands import generate_options, mesh_options, prove_options, scale_options, score_options
from training import bench_options

SELECTION = """Steps are named as in `mvforge plan`; groups are data (catalog to curate), train (train.* to
register) and eval (generate to report).

  --only S          S alone, skipped if current; what it reads must be finished
  --from S          S and everything below, skipped where current; nothing above is touched
  --rerun S         do S again beside the old build, swapped in when complete; steps below become stale
  --retry-failed S  do only S's failed items again"""

STATUS_HELP = """`mvforge status tiny render` shows the render step of a recipe in detail: counts by state and reason, speed, time
left. `mvforge status render --store S` shows every rendering of a store, also one that `mvforge render` writes.

--watch reads what lies in the store and disturbs no one; it may run anywhere that sees the store. Where the output is no terminal
it prints a line for every step that changed; with --json, one line of JSON a refresh. With --cluster FILE (a file as for
`mvforge plan`) it shows the cost so far: hours that the label's steps ran, times the price of the nodes that they fill; attempts
that were interrupted are not in it."""

EXPORT_FORMATS = ("nerfstudio", "colmap", "blender", "pytorch3d", "opencv")
EXPORT_HELP = """images/NNN.png with straight alpha, mask/NNN.png, and depth (16 bit), normal, albedo where they were rendered.
cameras.json always: OpenCV camera-to-world, intrinsics in image sizes, roles, the unit of the depth. Beside it, by --format:

  nerfstudio  transforms.json, OpenGL camera-to-world, pixels (also read by NeRF and instant-ngp code)
  colmap      sparse/0/cameras.txt, images.txt and an empty points3D.txt (also read by 3D Gaussian splatting)
  blender     cameras_blender.json: matrix_world, lens for a 36 mm sensor, shift
  pytorch3d   cameras_pytorch3d.json: arguments of PerspectiveCameras(..., in_ndc=True)
  opencv      nothing more

The world is Z up in all of them, the object's box is centred and its longest side is 1."""

WEBDATASET_HELP = """One sample per object, with its uid as key: NNN.png and NNN.json (camera, role) per view, json for the object, and
NNN.depth.png (16 bit), NNN.normal.png, NNN.albedo.png for the asked passes. The same store gives the same bytes."""

RENDER_HELP = """An interrupted call goes on where it was; files that cannot be rendered are listed with their reasons.

Rigs: mvdiffusionpp, mvdream, instant3d, gso64, dmv3d, syncdreamer16, zero123pp, or file:RIG.json (or .toml) of your own.
Lights: white, syncdreamer, random, or hdri:FOLDER of .hdr and .exr maps; drawn per object. docs/conventions.md has both."""

TOOL_SET = "any setting of catalog., fetch. or render., for example catalog.licences=cc0,cc-by; may be repeated"

TRAIN_HELP = """Reads what a finished run left in the store (views, kept list, encoded arrays, earlier checkpoints; see `mvforge status`)
and writes checkpoint/, history.jsonl, validation.jsonl, loss.png and pictures/ to --out. No Ray; MLflow with --track or
where MLFLOW_TRACKING_URI is set. An interrupted call goes on at its last checkpoint when it is given again; on SIGTERM it writes one
and ends with status 75.

  mvforge train tiny unet1 --out /data/unet1                              in this process
  torchrun --standalone --nproc-per-node 2 -m pipelines train tiny unet1 --out /data/unet1
                                                                          two processes or GPUs, also to go on with the above
  mvforge train tiny unet2 --init /data/unet1 --out /data/unet2           from that checkpoint instead of the store's
  mvforge train tiny unet1 --out /data/long --set train.unet1.steps=2000  other settings
  mvforge train small unet1 --try-run                                     what will it need? two updates on made-up data

--try-run needs no store and leaves nothing behind. It prints weights, peak memory, seconds an update, objects/s, TFLOP/s and the
projected time of the stage, as one of the processes that the recipe asks for, and refuses what does not fit into memory."""

BENCH_HELP = """Each profile renders three views of each file in turns with Blender's own default settings; cost is processor time of
one pinned core, quality is measured against pictures of 1024 samples, which are rendered once and kept in --cache (about a
minute a view). Without files: the four that the goals are set for, from $MVFORGE_ASSETS.

--dry-run N pushes N made-up objects through the same Ray Data graph without Blender and reports the cost of everything else.
--memory N renders N small objects in one Blender process and reports what it holds."""

TRAIN_BENCH_HELP = """Full-size shapes on a CUDA device, tiny ones on a CPU. The same as `python -m training.bench`, which needs neither an
installed mvforge nor Ray, only a checkout with torch, diffusers and transformers."""

INFER_HELP = """One object, here and now; `mvforge generate` makes any number, on Ray.

Writes images/NNN.png with alpha, mask/NNN.png, cameras.json and the cameras of --format as export-views does, given/ (what
the model was shown) and sheet.png. Pictures are cut out by their alpha or by --mask, which is never guessed; then the object is
centred on a square, its longest side three quarters of it. --preprocess none takes square pictures as they are, such as renders.
Azimuth 0 of the views is where the first picture was taken from."""

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
    parser.add_argument(
        "--log-format",
        choices=("human", "json"),
        help="of what goes to stderr: json is one object a line (default $MVFORGE_LOG_FORMAT or human)",
    )
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
        later("watch", "status"),
        "show each step: done, running (by whom), stale, failed or missing, and where",
        "mvforge status tiny",
        STATUS_HELP,
    )
    _recipe_arguments(status)
    status.add_argument("step", nargs="?", choices=("render",), help="show this step in detail")
    status.add_argument("--watch", action="store_true", help="refresh in place until Ctrl-C: counts, rate, time left, failures by reason")
    status.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two refreshes of --watch (default 2)")
    status.add_argument("--cluster", type=Path, metavar="FILE", help="prices for the cost that --watch shows (default $MVFORGE_CLUSTER)")
    status.add_argument("--refreshes", type=int, metavar="N", help="end --watch after so many refreshes")


def add_train_verb(verbs: Any) -> None:
    """train."""
    trainer = add_verb(
        verbs,
        "train",
        later("train_tool", "train"),
        "train one stage of a recipe without Ray, or try how much it needs",
        "mvforge train tiny mvae --try-run",
        TRAIN_HELP,
    )
    _recipe_arguments(trainer)
    trainer.add_argument("stage", help="a stage of the recipe's method: mvae, unet1, unet2 or unet3 for mvdiffusionpp")
    trainer.add_argument("--out", metavar="DIR", help="folder for the results, on this machine's disk")
    trainer.add_argument("--init", metavar="DIR", help="results of the stage to start from, instead of the store's")
    trainer.add_argument("--track", action="store_true", help="log figures to $MLFLOW_TRACKING_URI or the sqlite file in the store")
    trainer.add_argument("--try-run", action="store_true", help="two updates at the real sizes on made-up data, nothing kept")


def add_prove_verb(verbs: Any) -> None:
    """prove."""
    prover = add_verb(
        verbs,
        "prove",
        later("prove_tool", "prove"),
        "train small models and check, claim by claim, what they learn",
        "mvforge prove all --out proofs",
        prove_options.DETAILS,
    )
    prove_options.add_options(prover)
    prover.set_defaults(status=lambda result: int(not result["holds"]))


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="smoke, tiny, small, proof, proof_gpu, paper_mvdiffusionpp, or package.module:function of your own")
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
    """render, bench, export-views, export-webdataset, infer, generate, reconstruct, score-views, score-mesh, seeds, protocols."""
    render = add_verb(
        verbs,
        "render",
        later("render_tool", "render_objects"),
        "render every .glb/.gltf of a source to views with cameras",
        "mvforge render --source local:/data/objects --store /data/views --resolution 256",
        RENDER_HELP,
    )
    render.add_argument("--source", required=True, help="local:DIR, procedural, or objaverse")
    render.add_argument("--store", required=True, help="folder or URL for the views")
    render.add_argument("--resolution", type=int, default=512, help="side of the square pictures in pixels (default 512)")
    render.add_argument("--profile", default="quality", help="noise against cost: quality, throughput or draft (default quality)")
    render.add_argument("--samples", type=int, default=0, help="the same samples per pixel for all objects, instead of the profile's")
    render.add_argument("--passes", default="depth,normal", help="beside RGBA: depth, normal, albedo (default depth,normal; '' for none)")
    render.add_argument("--rig", default="mvdiffusionpp", help="camera rig (default mvdiffusionpp)")
    render.add_argument("--light", default="white", help="what shines on the objects (default white)")
    render.add_argument("--conditions", type=int, default=4, help="random condition views beside the rig's targets (default 4)")
    render.add_argument("--objects", type=int, help="how many objects of a procedural or objaverse source")
    render.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help=TOOL_SET)
    render.add_argument("--workers", type=int, default=2, help="Blender processes (default 2)")
    render.add_argument("--retry-failed", action="store_true", help="try files again that failed before, up to a limit of attempts")
    render.set_defaults(status=lambda result: 0 if result["failed"] <= result["completed"] else 1)
    benches = verbs.add_parser("bench", help="measure what rendering, training or scoring costs").add_subparsers(
        dest="what", metavar="WHAT", required=True
    )
    training = add_verb(
        benches,
        "train",
        later("benches", "bench_train"),
        "measure training steps, attention backends and sampling",
        "mvforge bench train --out bench.json --budget 540",
        TRAIN_BENCH_HELP,
    )
    bench_options.add_options(training)
    training.set_defaults(status=lambda result: result["exit"])
    bench = add_verb(
        benches,
        "render",
        later("benches", "bench_render"),
        "measure what rendering costs and how good it is",
        "mvforge bench render --profiles throughput,quality",
        BENCH_HELP,
    )
    bench.add_argument("files", nargs="*", type=Path, help=".glb or .gltf files; they stand before the options")
    bench.add_argument(
        "--profiles", default="throughput,quality", help="separated by commas; steps = the way to them (default throughput,quality)"
    )
    bench.add_argument("--views", default="9,20,36", help="which of the 42 views of the mvdiffusionpp rig (default 9,20,36)")
    bench.add_argument("--resolution", type=int, default=512)
    bench.add_argument("--rounds", type=int, default=1, help="measure so often and take the quickest (default 1)")
    bench.add_argument("--cache", type=Path, help="where the reference pictures are kept (default ~/.mvforge/bench)")
    bench.add_argument("--dry-run", type=int, metavar="N", help="N made-up objects through the graph instead")
    bench.add_argument("--memory", type=int, metavar="N", help="N objects through one Blender process instead")
    bench.add_argument("--workers", type=int, default=2, help="actors of the dry run (default 2)")
    scoring = add_verb(
        benches,
        "score",
        later("benches", "bench_score"),
        "measure how scoring grows with workers",
        "mvforge bench score --objects 8 --workers 1,2",
    )
    score_options.bench_score_arguments(scoring)
    mesh_options.add_bench_options(add_verb(benches, "mesh", later("mesh_tool", "bench_mesh"), *mesh_options.BENCH_WORDS))
    scale_options.add_options(add_verb(benches, "scale", later("scale_tool", "bench_scale"), *scale_options.WORDS))
    export = add_verb(
        verbs,
        "export-views",
        later("tools", "export_one"),
        "write one object's views as PNG files with their cameras",
        "mvforge export-views water_bottle-e3e55e7f --store /data/views --out bottle --format colmap",
        EXPORT_HELP,
    )
    export.add_argument("uid", help="the object; an unknown one is answered with the nearest")
    export.add_argument("--store", required=True, help="what `mvforge render` or a render step wrote")
    export.add_argument("--out", required=True, type=Path)
    export.add_argument("--format", default="nerfstudio", choices=EXPORT_FORMATS, help="convention of the cameras (default nerfstudio)")
    shards = add_verb(
        verbs,
        "export-webdataset",
        later("tools", "export_webdataset"),
        "write all views of a store as WebDataset tar shards",
        "mvforge export-webdataset --store /data/views --out /data/shards",
        WEBDATASET_HELP,
    )
    shards.add_argument("--store", required=True, help="what `mvforge render` or a render step wrote")
    shards.add_argument("--out", required=True, help="folder or URL for views-NNNNN.tar")
    shards.add_argument("--passes", default="", help="also these, separated by commas: depth, normal, albedo")
    shards.add_argument("--shard-mb", type=int, default=512, help="a shard ends at this size (default 512)")
    _add_infer(verbs)
    generate_options.add_options(add_verb(verbs, "generate", later("generate_tool", "generate"), *generate_options.WORDS))
    rebuild = add_verb(verbs, "reconstruct", later("mesh_tool", "reconstruct"), *mesh_options.RECONSTRUCT_WORDS)
    mesh_options.add_reconstruct_options(rebuild)
    views = add_verb(
        verbs,
        "score-views",
        later("score_tool", "score_pictures"),
        "compare folders of pictures",
        "mvforge score-views --reference truth --generated mine --json",
        score_options.IMAGE_HELP,
    )
    score_options.view_arguments(views)
    mesh = add_verb(
        verbs,
        "score-mesh",
        later("score_tool", "score_meshes"),
        "compare two meshes (.glb, .gltf, .ply, .obj)",
        "mvforge score-mesh --reference a.glb --generated b.glb",
        score_options.MESH_HELP,
    )
    score_options.mesh_arguments(mesh)
    several = add_verb(
        verbs,
        "seeds",
        later("score_tool", "seeds"),
        "several seeds of one model: mean, spread, and the best of n apart",
        "mvforge seeds tiny tiny-3fa2c1",
        score_options.SEEDS_HELP,
    )
    score_options.seeds_arguments(several)
    protocols = add_verb(
        verbs,
        "protocols",
        later("score_tool", "protocols"),
        "show evaluation protocols and prepare their objects",
        "mvforge protocols show syncdreamer-gso30",
        score_options.PROTOCOLS_HELP,
    )
    score_options.protocol_arguments(protocols)


def _add_infer(verbs: Any) -> None:
    make = add_verb(
        verbs,
        "infer",
        later("infer_tool", "infer"),
        "make views with cameras of the object on your own pictures",
        "mvforge infer --model model --image photo.png --mask mask.png --out views",
        INFER_HELP,
    )
    make.add_argument("--model", required=True, help="a generator folder, or models:/NAME/VERSION or models:/NAME@ALIAS")
    make.add_argument(
        "--image", required=True, action="append", type=Path, help="a picture of the object; repeat for more, the first leads"
    )
    make.add_argument("--mask", action="append", default=[], type=Path, help="white on the object; one for each --image without alpha")
    make.add_argument("--out", required=True, type=Path)
    make.add_argument("--sampler", default="dpm++", choices=("ddpm", "ddim", "dpm++"), help="ddpm is the paper's (default dpm++)")
    make.add_argument("--steps", type=int, help="sampling steps (default 75 for ddpm, 25 for the others)")
    make.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale; 1 is off (default 1)")
    make.add_argument("--seed", type=int, default=0, help="another seed, another guess at the sides that cannot be seen (default 0)")
    make.add_argument("--preprocess", default="photo", choices=("photo", "none"), help="photo: centre and frame the object (default photo)")
    make.add_argument("--format", default="nerfstudio", choices=EXPORT_FORMATS, help="convention of the cameras (default nerfstudio)")
