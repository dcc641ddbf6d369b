"""The verbs that use a trained model, and those that judge what it makes."""

from pathlib import Path
from typing import Any

from pipelines.commands import generate_options, mesh_options, score_options
from pipelines.commands.verb import add_verb, later
from pipelines.commands.view_verbs import EXPORT_FORMATS

INFER_HELP = """One object, here and now; `mvforge generate` makes any number, on Ray.

Writes images/NNN.png with alpha, mask/NNN.png, cameras.json and the cameras of --format as export-views does, given/ (what
the model was shown) and sheet.png. Pictures are cut out by their alpha or by --mask, which is never guessed; then the object is
centred on a square, its longest side three quarters of it. --preprocess none takes square pictures as they are, such as renders.
Azimuth 0 of the views is where the first picture was taken from."""


def add_evaluation_verbs(verbs: Any) -> None:
    """infer, generate, reconstruct, score-views, score-mesh, seeds, protocols."""
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
