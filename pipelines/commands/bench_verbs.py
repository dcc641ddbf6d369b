"""The verbs that measure."""

from pathlib import Path
from typing import Any

from pipelines.commands import mesh_options, scale_options, score_options
from pipelines.commands.verb import add_verb, later
from training import bench_options

BENCH_HELP = """Each profile renders three views of each file in turns with Blender's own default settings; cost is processor time of
one pinned core, quality is measured against pictures of 1024 samples, which are rendered once and kept in --cache (about a
minute a view). Without files: the four that the goals are set for, from $MVFORGE_ASSETS.

--dry-run N pushes N made-up objects through the same Ray Data graph without Blender and reports the cost of everything else.
--memory N renders N small objects in one Blender process and reports what it holds."""

TRAIN_BENCH_HELP = """Full-size shapes on a CUDA device, tiny ones on a CPU. The same as `python -m training.bench`, which needs neither an
installed mvforge nor Ray, only a checkout with torch, diffusers and transformers."""


def add_bench_verbs(verbs: Any) -> None:
    """bench render, train, score, mesh, scale."""
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
