"""The words of `mvforge generate`: its options and help. What it does is imported when it is used."""

import argparse

SUMMARY = "make views, and meshes, of many objects from pictures, on Ray; goes on where it was"
EXAMPLE = "mvforge generate --model models:/mvforge@champion --input photos --out made --mesh"
HELP = """`mvforge infer` makes one object here and now, with PNG files; `generate` makes any number, with actors that load the model once.

Input (--input), on a disk or at a URL such as s3://bucket/photos:
  a folder     every picture directly in it is an object, every sub-folder of pictures is one object seen from several sides (the
               first by name leads); --layout pictures makes every picture an object, however deep
  Parquet      a file or a folder of files: columns uid, image, mask (see --uid-column, --image-column, --mask-column)
  a view store what `mvforge render` wrote: the condition views of its objects
Pictures are cut out by their alpha, or by a mask: NAME_mask.png or NAME.mask.png beside NAME.jpg, or the same path in --masks.

Output (--out): views/ (a view store: `mvforge export-views UID --store OUT/views --out DIR`), sheets/ and meshes/ where asked for,
manifest.parquet and manifest.jsonl (a row an object: source, status, reason, seed, files, SHA-256) and summary.json.

Give the same command again after any interruption, or when the input has grown: what is finished stays, the rest is made. An object
that fails is a row with its reason. An object's views depend on its pictures, its uid, --seed and the sampling settings, not on the
number of workers. All files are read again at the end; `mvforge generate --verify OUT` does so at any later time.

  mvforge generate --model model --input photos --out made                  a folder, here
  mvforge generate --model model --input photos.parquet --image-column png --out made
  mvforge generate --model models:/mvforge/3 --input s3://bucket/photos --out s3://bucket/made --workers 8 --gpus 1
  ray job submit --working-dir . -- python pipelines/infer.py --model models:/mvforge/3 --input s3://bucket/photos --out s3://bucket/made
                                                                            on a cluster (docs/inference.md)
  mvforge generate --verify made"""

WORDS = (SUMMARY, EXAMPLE, HELP)  # in the order of `add_verb`


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options on the parser."""
    parser.add_argument("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or a generator folder (path or URL)")
    parser.add_argument("--input", help="pictures: a folder, Parquet, or a view store; a path or URL")
    parser.add_argument("--out", help="folder or URL of the results, of this job alone")
    parser.add_argument("--verify", metavar="OUT", help="only check the files of a finished folder against its manifest")
    given = parser.add_argument_group("input")
    given.add_argument("--masks", metavar="DIR", help="folder of masks, white on the object, under their pictures' relative names")
    given.add_argument("--layout", default="folders", choices=("folders", "pictures"), help="what a sub-folder is (default folders)")
    given.add_argument(
        "--conditions", type=int, metavar="N", help="at most the first N pictures of an object (default all; models take 10)"
    )
    given.add_argument(
        "--preprocess", default="photo", choices=("photo", "none"), help="photo: centre and frame the object (default photo)"
    )
    given.add_argument("--uid-column", default="uid", metavar="NAME", help="(default uid; file name and row number where there is none)")
    given.add_argument("--image-column", default="image", metavar="NAME", help="file bytes, {bytes}, or a list of them (default image)")
    given.add_argument("--mask-column", default="mask", metavar="NAME", help="(default mask; may be absent)")
    views = parser.add_argument_group("views")
    views.add_argument("--sampler", default="dpm++", choices=("ddpm", "ddim", "dpm++"), help="ddpm is the paper's (default dpm++)")
    views.add_argument("--steps", type=int, help="sampling steps (default 75 for ddpm, 25 for the others)")
    views.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale; 1 is off (default 1)")
    views.add_argument("--seed", type=int, default=0, help="another seed, another guess at the sides that cannot be seen (default 0)")
    views.add_argument("--sheets", action="store_true", help="also sheets/UID.png: what was shown and what was made")
    views.add_argument("--deadline", type=float, metavar="S", help="give an object up after so many seconds of sampling")
    meshes = parser.add_argument_group("meshes")
    meshes.add_argument("--mesh", action="store_true", help="also meshes/UID.glb; may be asked for in a later call")
    meshes.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="sets",
        help="any setting of reconstruct., with --mesh; may be repeated",
    )
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, help="actors (default one a GPU of the cluster, else 2)")
    work.add_argument("--cpus", type=float, default=1.0, help="logical CPUs of an actor (default 1)")
    work.add_argument("--gpus", type=float, help="GPUs of an actor (default 1 where the cluster has any)")
    work.add_argument("--retry-failed", action="store_true", help="try objects again that failed before")
    parser.set_defaults(status=exit_status)


def exit_status(result: dict) -> int:
    """0: fine; 1: files are missing or damaged, or more objects failed than were made."""
    return 1 if result["problems"] or result["failed"] > result["completed"] else 0
