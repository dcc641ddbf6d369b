"""A user's picture as a condition picture: cut out, centred on a square canvas, its colours over nothing (white for the networks)."""

import numpy as np
from PIL import Image, ImageOps

from infra.errors import UserError
from rendering.cameras import orbit
from rendering.view_set import CONDITION, ViewSet
from training.batch import resized

# The foreground's longest side as a share of the canvas. The paper does not say how photographs are prepared [C].
FOREGROUND_SHARE = 0.75
# Below this there is nothing to see that a model could follow [C].
LEAST_OBJECT_PX = 16

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA")


def cut_out(picture: Image.Image, mask: Image.Image | None = None, *, needs_mask: bool = True) -> np.ndarray:
    """A picture as uint8 straight alpha `[H, W, 4]`, turned as its camera noted; alpha is `mask` where one is given.

    A background is never guessed: a picture without alpha, or opaque everywhere, needs a mask unless `needs_mask` is off, and
    is then taken for object from edge to edge.

    Raises:
        UserError: no PIL picture, a mode without 8-bit colours, too few pixels, no mask, or one of another size.
    """
    for what, given in (("picture", picture), ("mask", mask)):
        if not isinstance(given, Image.Image) and (what == "picture" or given is not None):
            raise UserError(f"a {what} is of type {type(given).__name__}", "give PIL pictures, for example Image.open(path)")
    if picture.mode not in MODES:
        raise UserError(f"a picture has mode {picture.mode}", "convert it to RGB or RGBA first")
    if min(picture.size) < LEAST_OBJECT_PX:
        raise UserError(f"a picture is {picture.width}x{picture.height} pixels", f"give at least {LEAST_OBJECT_PX} on each side")
    # PIL turns what has mode P with a transparent colour into alpha as well.
    rgba = np.array(ImageOps.exif_transpose(picture).convert("RGBA"))
    if mask is not None:
        alpha = np.asarray(ImageOps.exif_transpose(mask).convert("L"))
        if alpha.shape != rgba.shape[:2]:
            raise UserError(
                f"a mask has {alpha.shape[1]}x{alpha.shape[0]} pixels, its picture {rgba.shape[1]}x{rgba.shape[0]}", "make them equal"
            )
        rgba[..., 3] = alpha
    elif needs_mask and rgba[..., 3].min() == 255:
        raise UserError(
            "a picture has no transparent background, so the object in it is unknown",
            "give a mask that is white on the object, or a cut-out picture with alpha; preprocess none takes it from edge to edge",
        )
    return rgba


def framed(rgba: np.ndarray, size: int, share: float = FOREGROUND_SHARE) -> np.ndarray:
    """The object of a cut-out picture, `share` of a square canvas long and in its middle.

    Args:
        rgba: uint8 straight alpha `[H, W, 4]`; alpha of at least one half is the object.
        size: side of the result in pixels.
        share: longest side of the object's box in canvas sides, in (0, 1].

    Returns:
        uint8 straight alpha `[size, size, 4]`, RGB zero where alpha is 0.

    Raises:
        UserError: no object, one too small to be recognised, or a share that is no share.
    """
    if not 0 < share <= 1:
        raise UserError(f"the foreground share is {share}", "give a number above 0 and at most 1, such as 0.75")
    seen = rgba[..., 3] >= 128
    if not seen.any():
        raise UserError("the mask is empty: no pixel of the picture belongs to the object", "give a mask that is white on the object")
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    longest = max(bottom - top, right - left)
    if longest < LEAST_OBJECT_PX:
        raise UserError(
            f"the object is only {longest} pixels long in the picture", f"give a picture of at least {LEAST_OBJECT_PX} pixels of it"
        )
    side = max(longest, round(longest / share))
    # Corner of the canvas in the picture; soft edges outside the box stay wherever the canvas reaches.
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    canvas = np.zeros((side, side, 4), np.uint8)
    source = rgba[max(0, y) : y + side, max(0, x) : x + side]
    down, across = max(0, -y), max(0, -x)
    canvas[down : down + source.shape[0], across : across + source.shape[1]] = source
    return resized((canvas * (canvas[..., 3:] > 0))[None], size)[0]


def given_views(uid: str, rgba: np.ndarray) -> ViewSet:
    """Pictures `[K, H, W, 4]` from outside as condition views, the first the reference. Their cameras are nominal: the true ones
    are unknown, and no generator looks at them."""
    zero, radius = np.zeros(len(rgba)), np.full(len(rgba), 1.5)
    return ViewSet(uid, rgba, orbit(zero, zero, radius, 60.0), (CONDITION,) * len(rgba), zero, zero, radius, "given", "given")
