"""A user's picture files as condition pictures, and the reasons why one cannot be."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from infra.errors import UserError
from training.batch import resized
from training.photo import LEAST_OBJECT_PX, MODES, cut_out, framed

# Pictures are framed at this size, and the generator brings them to its own.
CANVAS_PX = 512


class Unusable(UserError):
    """One object cannot be generated from; `reason` is a short class for counting."""

    def __init__(self, reason: str, message: str, mend: str = "") -> None:
        super().__init__(message, mend)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.message, self.mend)


def opened(data: bytes) -> Image.Image:
    """A decoded picture of any format that Pillow reads. Raises Unusable: `unreadable` or `too_large`."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Image.DecompressionBombError as error:
        raise Unusable("too_large", f"has too many pixels: {error}", "make it smaller") from error
    except UnidentifiedImageError as error:
        raise Unusable("unreadable", "cannot be read as a picture: no known format", "give a PNG, JPEG or WebP file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Unusable("unreadable", f"cannot be read as a picture: {error}", "give a whole PNG, JPEG or WebP file") from error
    return picture


def prepared(picture: Image.Image, mask: Image.Image | None, framing: bool) -> np.ndarray:
    """A picture as the generator is shown it: uint8 straight alpha `[CANVAS_PX, CANVAS_PX, 4]`.

    Args:
        mask: white on the object, of the picture's size; takes the place of its alpha.
        framing: cut the object out, centre and scale it. Otherwise the picture is square and taken as it is.

    Raises:
        Unusable: `wrong_mode`, `too_small`, `mask_size`, `no_mask`, `empty_mask` or `not_square`.
    """
    try:
        cut = cut_out(picture, mask, needs_mask=framing)
    except UserError as error:
        raise Unusable(_uncut(picture, mask), error.message, error.mend) from error
    if framing:
        try:
            return framed(cut, CANVAS_PX)
        except UserError as error:
            raise Unusable("too_small" if (cut[..., 3] >= 128).any() else "empty_mask", error.message, error.mend) from error
    if cut.shape[0] != cut.shape[1]:
        raise Unusable(
            "not_square", f"it is {cut.shape[1]}x{cut.shape[0]} pixels, not square", "give a square picture, or --preprocess photo"
        )
    if not (cut[..., 3] >= 128).any():
        raise Unusable("empty_mask", "no pixel of the picture belongs to the object", "give a picture whose alpha shows the object")
    return resized(cut[None], CANVAS_PX)[0]


def _uncut(picture: Image.Image, mask: Image.Image | None) -> str:
    """Why `cut_out` refused."""
    if picture.mode not in MODES:
        return "wrong_mode"
    if min(picture.size) < LEAST_OBJECT_PX:
        return "too_small"
    return "no_mask" if mask is None else "mask_size"
