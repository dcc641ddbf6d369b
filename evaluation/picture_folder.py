"""RGBA pictures from folders that other programs wrote, with errors that name the file."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from infra.errors import UserError

PICTURE_SUFFIXES = (".png", ".webp")
PASS_FOLDERS = ("mask", "depth", "normal", "albedo")


def pictures_in(folder: Path) -> dict[str, Path]:
    """Relative name without suffix -> file, of all PNG and WebP pictures below `folder`, sorted.

    Of what `mvforge export-views` wrote only `images/` counts, not the masks and passes beside it.

    Raises UserError for a folder that is absent or empty, and for two files of one name.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "check the path")
    found: dict[str, Path] = {}
    is_export = (folder / "images").is_dir()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
            continue
        if is_export and path.relative_to(folder).parts[0] in PASS_FOLDERS:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{path} and {found[name]} have one name", "keep one of them")
        found[name] = path
    if not found:
        raise UserError(f"no pictures in {folder}", f"put {' or '.join(PICTURE_SUFFIXES)} files with an alpha channel there")
    return found


def read_rgba(path: Path) -> np.ndarray:
    """uint8 `[H, W, 4]`, straight alpha. Raises UserError for a missing or broken file and for one without alpha."""
    try:
        with Image.open(path) as image:
            image.load()
            if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
                raise UserError(f"{path} has no alpha channel (mode {image.mode})", "export RGBA pictures; alpha is the object's mask")
            return np.asarray(image.convert("RGBA"))
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}", "check the path") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"cannot read {path}: {error}", "export the picture again") from error
