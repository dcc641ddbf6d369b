"""Pictures from folders that other programs wrote, with errors that name the file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from infra.errors import UserError

PICTURE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
PASS_FOLDERS = ("mask", "depth", "normal", "albedo")
WHITE = "white"


def pictures_in(folder: Path) -> dict[str, Path]:
    """Relative name without suffix -> file, of all PNG, WebP and JPEG pictures below `folder`, sorted.

    Of what `mvforge export-views` wrote, here or in folders below, only `images/` counts, not the masks and passes beside it.

    Raises UserError for a folder that is absent or empty, and for two files of one name.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "check the path")
    found: dict[str, Path] = {}
    beside = {image.parent / name for image in (folder / "images", *folder.rglob("*/images")) if image.is_dir() for name in PASS_FOLDERS}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
            continue
        if not beside.isdisjoint(path.parents):
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
    rgba, has_alpha = _read(path)
    if not has_alpha:
        mend = "export RGBA pictures (alpha is the object's mask), or give masks, or --background white where white is already behind it"
        raise UserError(f"{path} has no alpha channel", mend)
    return rgba


def _read(path: Path) -> tuple[np.ndarray, bool]:
    """uint8 `[H, W, 4]`, and whether the file has alpha; 255 everywhere without."""
    try:
        with Image.open(path) as image:
            image.load()
            has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            return np.asarray(image.convert("RGBA")), has_alpha
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}", "check the path") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"cannot read {path}: {error}", "export the picture again") from error


@dataclass(frozen=True)
class PictureFolder:
    """Pictures of a folder, whose masks are their alpha, or pictures of another folder under the same names.

    Attributes:
        folder: where they are.
        masks: folder of masks (white, or alpha, on the object), which then count instead of alpha; None: alpha.
        background: `white` takes pictures without alpha as they are, already on white, without a mask; None refuses them.
    """

    folder: Path
    masks: Path | None = None
    background: str | None = None

    def read(self, name: str, path: Path) -> tuple[np.ndarray, bool]:
        """The picture uint8 `[H, W, 4]` and whether its alpha is a mask of the object.

        Raises:
            UserError: broken files, neither alpha nor mask nor background, or a mask of another size.
        """
        if self.masks is not None:
            rgba, _ = _read(path)
            mask = self._mask(name)
            if mask.shape != rgba.shape[:2]:
                sizes = f"{mask.shape[1]} x {mask.shape[0]} px, its picture {path} {rgba.shape[1]} x {rgba.shape[0]} px"
                raise UserError(f"the mask of {name} in {self.masks} is {sizes}", "masks are of the size of their pictures")
            return np.concatenate([rgba[..., :3], mask[..., None]], -1), True
        if self.background is None:
            return read_rgba(path), True
        return _read(path)

    def _mask(self, name: str) -> np.ndarray:
        assert self.masks is not None
        found = _masks_in(self.masks)
        if name not in found:
            raise UserError(f"there is no mask of {name} in {self.masks}", "masks have the names of their pictures")
        rgba, has_alpha = _read(found[name])
        # A mask may be a grey picture, or an RGBA one whose alpha is the mask.
        opaque = not has_alpha or bool((rgba[..., 3] == 255).all())
        return np.asarray(Image.fromarray(rgba[..., :3]).convert("L")) if opaque else rgba[..., 3]


def _masks_in(folder: Path) -> dict[str, Path]:
    return pictures_in(folder / "mask" if (folder / "mask").is_dir() else folder)
