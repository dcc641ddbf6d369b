"""Options and help of the verbs that score plain files and tell of protocols. Nothing heavy is imported here."""

import argparse
from pathlib import Path

PROTOCOLS = ("default", "syncdreamer-gso30", "mvdiffusionpp-sparse", "instant3d-gso64")

IMAGE_HELP = """psnr and ssim on white over the full frame, psnr_foreground over the reference mask; ssim uses an 11x11
Gaussian (1.5), population covariance and leaves out a 5 px border. Pictures pair up by file name, below the two folders.

Every picture counts, also one that the model was given: leave it out with --exclude 000. Several --generated folders are
seeds of one model: figures are means over them, and best-of-n is told apart. Protocols: `mvforge protocols list`.

  mvforge score-views --reference truth --generated mine --exclude 000           the input view left out
  mvforge score-views --reference truth --generated mine --background white      RGB pictures on white, no masks
  mvforge score-views --reference truth --generated s0 --generated s1            two seeds
  mvforge score-views --reference truth --generated mine --conventions           what others' code would say of the same pictures"""

MESH_HELP = """accuracy is generated -> reference, completeness the other way, chamfer their mean (not squared); coordinates
are taken as the files give them unless --normalize says otherwise: a Y-up GLB and a Z-up PLY share no frame.

  mvforge score-mesh --reference a.glb --generated b.glb --align icp             also after an alignment, under other names
  mvforge score-mesh --reference a.glb --generated b.glb --conventions           what others' code would say of the same pair"""

SEEDS_HELP = """Takes labels of the store or folders that the score step wrote, all of one protocol and evaluation set. Another seed of
the same model: `mvforge run tiny --only eval --set generate.seed=1 --set generate.model=models:/mvforge/1`; the run prints its label."""

PROTOCOLS_HELP = """  list                          the protocols in a line each
  show NAME                     every convention, the objects, and how they are fetched
  import NAME --objects DIR --out DIR
                                the fetched objects as GLB files; missing ones are named, checksums written and later compared
  refit --images DIR --from-fov A --to-fov B --size PX --out DIR
                                pictures cropped or padded (empty border) to another field of view
  example --out DIR             a pair of meshes and of picture folders to try score-mesh and score-views on"""


def weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Local weights of the learned metrics."""
    parser.add_argument("--lpips", metavar="FILE", help="VGG-16 and LPIPS heads as safetensors; without it lpips is null")
    parser.add_argument("--clip", metavar="DIR", help="CLIP vision tower in transformers' layout; without it clip_similarity is null")
    parser.add_argument("--features", metavar="PATH", help="network of FID, KID and IS (TorchScript file or transformers folder)")


def pair_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Reference and generated, the protocol, and the table of conventions."""
    parser.add_argument("--reference", required=True, type=Path)
    if several:
        parser.add_argument("--generated", required=True, type=Path, action="append", help="repeat it for several seeds of one model")
    else:
        parser.add_argument("--generated", required=True, type=Path)
    parser.add_argument("--protocol", default="default", metavar="NAME", help=f"{', '.join(PROTOCOLS)} (default default)")
    parser.add_argument("--conventions", action="store_true", help="instead: a Markdown table of what each peer's convention gives")


def view_arguments(parser: argparse.ArgumentParser) -> None:
    """score-views."""
    pair_arguments(parser, several=True)
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="only pictures of such names count; repeatable")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="these do not count, such as input views; repeatable"
    )
    parser.add_argument("--background", choices=("white",), help="take pictures without alpha, which have white behind the object")
    parser.add_argument("--reference-masks", type=Path, metavar="DIR", help="masks under the pictures' names, instead of alpha")
    parser.add_argument("--generated-masks", type=Path, metavar="DIR", help="the same for the generated pictures")
    parser.add_argument("--reference-fov", type=float, metavar="DEG", help="field of view of the reference pictures")
    parser.add_argument("--generated-fov", type=float, metavar="DEG", help="of the generated ones, which are cropped or padded to match")
    parser.add_argument("--object", metavar="NAME", help="name of the object, for protocols that draw views by it")
    weight_arguments(parser)


def mesh_arguments(parser: argparse.ArgumentParser) -> None:
    """score-mesh."""
    pair_arguments(parser)
    parser.add_argument(
        "--normalize", choices=("unit-cube", "bbox-each"), help="bring both by the reference's box, or each by its own, to the unit cube"
    )
    parser.add_argument("--align", choices=("bbox", "icp"), help="also measure the generated mesh after this alignment")
    parser.add_argument("--up", choices=("as-given", "y", "z"), help="axis that is up in both files; for protocols that look at the meshes")


def seeds_arguments(parser: argparse.ArgumentParser) -> None:
    """seeds."""
    parser.add_argument("scores", nargs="+", metavar="SCORES", help="a label with a finished score step, or a folder with summary.json")
    parser.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")


def protocol_arguments(parser: argparse.ArgumentParser) -> None:
    """protocols."""
    parser.add_argument("what", choices=("list", "show", "import", "refit", "example"))
    parser.add_argument("name", nargs="?", help="of a protocol, for show and import")
    parser.add_argument("--objects", type=Path, metavar="DIR", help="import: where the fetched objects are")
    parser.add_argument("--up", choices=("y", "z"), default="z", help="import: axis that is up in OBJ files (default z, as in the scans)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="refit: RGBA pictures")
    parser.add_argument("--from-fov", type=float, metavar="DEG", help="refit: their field of view")
    parser.add_argument("--to-fov", type=float, metavar="DEG", help="refit: the field of view that is wanted")
    parser.add_argument("--size", type=int, metavar="PX", help="refit: side of the new pictures (default: as before)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for what is written")


def bench_score_arguments(parser: argparse.ArgumentParser) -> None:
    """bench score."""
    parser.add_argument("--objects", type=int, default=8, help="made-up objects to score (default 8)")
    parser.add_argument("--views", type=int, default=32, help="views of each (default 32)")
    parser.add_argument("--resolution", type=int, default=96, help="side of the pictures in pixels (default 96)")
    parser.add_argument("--workers", default="1,2", help="worker counts to compare, the first being the base (default 1,2)")
    parser.add_argument("--rounds", type=int, default=1, help="measure so often in turns and take the quickest (default 1)")
