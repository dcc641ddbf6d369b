"""The options of `reconstruct` and `bench mesh`, apart from what they do so that `--help` needs no torch."""

import argparse
from pathlib import Path

STAGES = "hull,refine,clean,simplify,bake,export"

RECONSTRUCT_WORDS = (
    "turn a folder of RGBA views with transforms.json into a textured GLB",
    "mvforge reconstruct --views bottle --out bottle.glb",
    """Stages, each of which can be left out (hull and export are always done):

  hull      the largest solid that (nearly) all masks allow
  refine    fit a distance field to colours and masks by volume rendering: hollows and flat faces; half a minute of one core
            or more. Kept only if views that the fit never saw look no worse than with the hull
  clean     drop what no camera sees, turn triangles outward, smooth
  simplify  fewer triangles
  bake      unwrap and paint a texture from the pictures that see each spot; without it vertices are coloured
  export    GLB, Y up, base colour texture

What was done, what fell back and why is printed. Without refine it takes seconds: --stages hull,clean,simplify,bake""",
)

BENCH_WORDS = (
    "measure how good meshes from real renders of known objects are",
    "mvforge bench mesh --out mesh.json",
    """Renders four painted objects with Blender (once; kept in --cache), meshes 32 views of each with all stages and compares the
written file with the object: Chamfer distance (CD), volume IoU, normal consistency (NC), and the texture's foreground PSNR on 8 other
views. Case jitter moves every view by 1.5 px (of 256) and one by 9. Lists in --eikonal, --steps and --cells are tried in all
combinations.""",
)


def add_reconstruct_options(parser: argparse.ArgumentParser) -> None:
    """Options of `mvforge reconstruct`."""
    parser.add_argument("--views", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--stages", default=STAGES, help="which of them, separated by commas (default all)")
    parser.add_argument("--resolution", type=int, default=64, help="hull: cells along the longest side (default 64)")
    parser.add_argument(
        "--votes", type=int, help="hull: views that may contradict a cell before it goes (default: 1 from 16 views on, else 0)"
    )
    parser.add_argument("--refine-resolution", type=int, default=64, help="refine: cells along the longest side (default 64)")
    parser.add_argument("--steps", type=int, default=600, help="refine: steps of a fit (default 600)")
    parser.add_argument("--eikonal", type=float, help="refine: stiffness, .02 to .3 (default: from how well the views agree)")
    parser.add_argument("--normals", default="", metavar="PACKAGE.MODULE:FUNCTION", help="refine: an estimator of normals")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="refine: end within this time (default: no limit)")
    parser.add_argument("--max-faces", type=int, default=15_000, help="simplify: triangles to leave, about (default 15000)")
    parser.add_argument("--texture", type=int, default=0, metavar="PX", help="bake: side of the texture (default: by the pictures)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out views and the rays (default 0)")


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Options of `mvforge bench mesh`."""
    parser.add_argument("--objects", default="suzanne,cube,bowl,knot", help="which of them (default all four)")
    parser.add_argument("--cases", default="clean,jitter", help="clean views, or such that contradict each other (default both)")
    parser.add_argument("--eikonal", default="auto", help="weights to try, separated by commas (default auto: from the views)")
    parser.add_argument("--steps", default="600", help="numbers of steps to try (default 600)")
    parser.add_argument("--cells", default="64", help="cells along the longest side to try (default 64)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep rows in this JSON file and measure only what it lacks")
    parser.add_argument("--cache", type=Path, help="where the renders are kept (default ~/.mvforge/bench/mesh)")
