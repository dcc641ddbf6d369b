"""Pictures that a stage leaves behind while it trains: PNG files below `out/pictures`."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from infra.storage import Location

FOLDER = "pictures"


def write_pictures(out: Location, step: int, pictures: dict[str, np.ndarray]) -> list[str]:
    """Write uint8 `[H, W, 3 or 4]` pictures as `pictures/<name>/step-000100.png`; returns the paths below `out`."""
    paths = []
    for name, pixels in pictures.items():
        path = f"{FOLDER}/{name}/step-{step:06d}.png"
        (out / path).write_bytes(png(pixels))
        paths.append(path)
    return paths


def pictures_of(out: Location, steps: Iterable[int]) -> list[str]:
    """The paths below `out` of what `write_pictures` wrote at these steps."""
    wanted = {f"step-{step:06d}.png" for step in steps}
    files = (out / FOLDER).walk() if wanted else []
    return [f"{FOLDER}/{file.name}" for file in files if file.name.rpartition("/")[2] in wanted]


def png(pixels: np.ndarray) -> bytes:
    """uint8 `[H, W, 3 or 4]` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
