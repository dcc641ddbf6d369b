"""COLMAP's sparse model as text: `cameras.txt`, `images.txt` and an empty `points3D.txt`."""

from collections.abc import Sequence

import numpy as np

from rendering.cameras import Camera
from rendering.conversions import Colmap, from_colmap, to_colmap


def colmap_files(camera: Camera, names: Sequence[str], width: int, height: int) -> dict[str, str]:
    """File name -> text for a COLMAP model of these cameras; views of equal intrinsics share one COLMAP camera.

    `names` are the pictures' paths below the folder that COLMAP is told to look in. Numbers keep 17 digits.
    """
    colmap = to_colmap(camera, width, height)
    lenses, lens_of_view = np.unique(colmap.pinhole.round(9), axis=0, return_inverse=True)
    cameras = [f"{number} PINHOLE {width} {height} {_text(lens)}" for number, lens in enumerate(lenses, 1)]
    images = []
    for number, name in enumerate(names):
        pose = f"{_text(colmap.quaternion[number])} {_text(colmap.translation[number])}"
        images += [f"{number + 1} {pose} {int(lens_of_view.ravel()[number]) + 1} {name}", ""]  # no 2D points follow
    return {
        "cameras.txt": _file("CAMERA_ID MODEL WIDTH HEIGHT PARAMS[fx fy cx cy]", cameras),
        "images.txt": _file("IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D[] as (X Y POINT3D_ID)", images),
        "points3D.txt": _file("POINT3D_ID X Y Z R G B ERROR TRACK[]", []),
    }


def cameras_from_colmap(cameras: str, images: str) -> tuple[list[str], Camera]:
    """Picture names and cameras of a text model with PINHOLE cameras, ordered by IMAGE_ID.

    Raises ValueError for another camera model.
    """
    lenses: dict[int, np.ndarray] = {}
    for line in _lines(cameras):
        number, model, width, height, *values = line.split()
        if model != "PINHOLE":
            raise ValueError(f"camera model {model} is not PINHOLE")
        lenses[int(number)] = np.array([*values, width, height], float)
    entries = sorted((line.split(maxsplit=9) for line in _lines(images, keep_empty=True)[::2]), key=lambda words: int(words[0]))
    views = [from_colmap(_one(words, lens[:4]), lens[4], lens[5]) for words in entries for lens in [lenses[int(words[8])]]]
    return [words[9] for words in entries], Camera(np.concatenate([v.c2w for v in views]), np.concatenate([v.intrinsics for v in views]))


def _one(words: list[str], pinhole: np.ndarray) -> Colmap:
    values = np.array(words[1:8], float)
    return Colmap(values[None, :4], values[None, 4:], pinhole[None])


def _lines(text: str, keep_empty: bool = False) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#") and (keep_empty or line.strip())]


def _text(values: np.ndarray) -> str:
    return " ".join(format(float(value), ".17g") for value in values)


def _file(columns: str, lines: list[str]) -> str:
    return "\n".join([f"# {columns}", *lines]) + "\n"
