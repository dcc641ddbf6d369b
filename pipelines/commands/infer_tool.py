"""The `infer` verb: a user's pictures to views on disk, with a generator folder or a registered model."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import UserError
from infra.scratch import scratch_folder
from infra.storage import Location
from pipelines.context import absolute, store_location, tracking_uri


def infer(options: argparse.Namespace) -> dict[str, Any]:
    """Writes `images/`, `mask/`, `cameras.json`, the layout's cameras, `given/` (what the model was shown) and `sheet.png`."""
    import torch
    from PIL import Image

    from evaluation.infer.sheet import sheet_png
    from rendering.export import write_views
    from training.batch import resized
    from training.diffusion.sampling import USUAL_STEPS
    from training.lookup import load_generator
    from training.photo import given_views

    shown = given_views(options.image[0].stem, _pictures(options.image, options.mask, options.preprocess == "photo"))
    out = Location(absolute(str(options.out), "the output folder"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _model_folder(options.model) as folder:
        generator = load_generator(folder, device)
        steps = options.steps or USUAL_STEPS[options.sampler]
        made = generator.generate(shown, options.seed, steps=steps, sampler=options.sampler, guidance=options.guidance)
    write_views(made, out, options.format)
    small = replace(shown, rgba=resized(shown.rgba, made.rgba.shape[1]))
    label = f"{shown.uid} | {options.model} | seed {options.seed}"
    for number, rgba in enumerate(small.rgba):
        place = out.local_path() / "given" / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgba, "RGBA").save(place)
    (out / "sheet.png").write_bytes(sheet_png(shown, made, label))
    if not options.json:
        print(f"{len(made)} views of {shown.uid} from {len(shown)} pictures -> {options.out} (sheet.png shows them all)")
    return {"completed": 1, "failed": 0, "rejected": 0, "views": len(made), "out": str(options.out)}


def _pictures(paths: list[Path], masks: list[Path], framing: bool) -> np.ndarray:
    """uint8 `[K, CANVAS_PX, CANVAS_PX, 4]`. Raises UserError, naming the file, for what cannot be used."""
    from evaluation.infer.pictures import prepared

    if masks and len(masks) != len(paths):
        raise UserError(f"{len(paths)} pictures and {len(masks)} mask(s)", "give one --mask for each --image, in the same order")
    rgba = []
    for number, path in enumerate(paths):
        picture, mask = _opened(path), _opened(masks[number]) if masks else None
        try:
            rgba.append(prepared(picture, mask, framing))
        except UserError as error:
            raise UserError(f"{path}: {error.message}", error.mend) from error
    return np.stack(rgba)


def _opened(path: Path) -> Any:
    from evaluation.infer.pictures import opened

    try:
        return opened(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path} {error.message}", error.mend) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}", "check the path") from error


@contextmanager
def _model_folder(model: str) -> Iterator[Path]:
    """A folder as it is; a registered model as a copy that is gone afterwards."""
    if not model.startswith("models:/"):
        yield Path(model)
        return

    from evaluation.model_source import find

    source = find(model, None, tracking_uri(store_location()))
    with scratch_folder("model") as scratch:
        yield source.open(Path(scratch))
