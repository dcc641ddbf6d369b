"""A folder of pictures framed for another field of view, such as an input of 49.13 degrees for a model of 60."""

from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.picture_folder import pictures_in, read_rgba
from evaluation.protocols.framing import framing_scale, refit
from infra.errors import UserError


def refit_folder(images: Path, from_fov_deg: float, to_fov_deg: float, out: Path, size_px: int | None = None) -> dict[str, Any]:
    """PNG pictures below `out` under the same names, of `size_px` or their own side; a wider view has an empty border.

    Raises:
        UserError: an impossible field of view or size, pictures without alpha, broken or not square.
    """
    for value in (from_fov_deg, to_fov_deg):
        if not 1.0 <= value <= 170.0:
            raise UserError(f"a field of view of {value:g} degrees cannot be", "give degrees between 1 and 170")
    if size_px is not None and not 1 <= size_px <= 8192:
        raise UserError(f"pictures of {size_px} px cannot be", "give a side from 1 to 8192")
    scale, found = framing_scale(from_fov_deg, to_fov_deg), pictures_in(images)
    for name, path in found.items():
        picture = read_rgba(path)
        try:
            made = refit(picture, scale, size_px or len(picture))
        except ValueError as error:
            raise UserError(f"{path}: {error}", "cut it to a square about the optical axis first") from error
        target = out / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made).save(target)
    return {"completed": len(found), "failed": 0, "rejected": 0, "scale": scale, "out": str(out)}
