"""Lights by name: what shines on an object, as plain JSON that the Blender child carries out. Seeded by uid and view set.

`white` is a uniform world of radiance 1 (a white diffuse surface renders 255), `syncdreamer` one of 0.5, `random` a dim
uniform world with one to three lamps, `hdri:FOLDER` one of the folder's environment maps, turned about the vertical.
No light is ever visible to the camera: the background stays transparent.

A light is `{"radiance": [r, g, b], "file": None or path, "turn_deg": 0, "lamps": [...]}`. `radiance` is that of the world,
or the factor on the environment map `file`, which is turned by `turn_deg` (as an azimuth grows). Each lamp has `kind`
(SUN or AREA), `towards` (unit vector from the origin to the lamp), `irradiance` (RGB, on a surface at the origin that
faces it; a white diffuse surface there gets radiance irradiance / pi) and `angle_deg` (SUN) or `distance` and `size` (AREA).
"""

import difflib
import functools
import hashlib
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import UserError
from infra.seeds import rng_for

HDRI_PREFIX = "hdri:"
UNIFORM = {"white": 1.0, "syncdreamer": 0.5}
NAMES = (*UNIFORM, "random")
PINNED = re.compile(HDRI_PREFIX + r".+#[0-9a-f]{16}\.[0-9a-f]{8}", re.DOTALL)
HDRI_SUFFIXES = (".hdr", ".exr")
# 16k x 8k is the largest that public HDRI collections offer; four float channels of it are 2 GB.
MAX_HDRI_BYTES, MAX_HDRI_WIDTH, MAX_HDRI_HEIGHT, MAX_HDRIS = 1 << 29, 16384, 8192, 20000
HEADER_BYTES = 1 << 16

Light = dict[str, Any]


def uniform(radiance: float) -> Light:
    """A world that shines evenly from everywhere."""
    return {"radiance": [radiance] * 3, "file": None, "turn_deg": 0.0, "lamps": []}


WHITE = uniform(1.0)


def pinned_light(light: str) -> str:
    """The light's name with everything that workers need: `hdri:/absolute/folder#digest`, other names unchanged.

    Raises:
        UserError: an unknown name (with the nearest), or a folder that is missing, empty or holds a broken map.
    """
    if light in NAMES or PINNED.fullmatch(light):
        return light
    if not light.startswith(HDRI_PREFIX):
        near = difflib.get_close_matches(light, [*NAMES, HDRI_PREFIX], 1, 0.4)
        known = f"choose one of: {', '.join(NAMES)}, or {HDRI_PREFIX}FOLDER"
        raise UserError(f"unknown light '{light}'", f"did you mean '{near[0]}'? Or {known}" if near else known)
    folder = Path(light.removeprefix(HDRI_PREFIX)).expanduser().absolute()
    content = hashlib.sha256()
    for file in _maps(folder):
        content.update(f"{file.name}\x1f{_sha256_of_map(file, file.stat().st_size, file.stat().st_mtime_ns)}\n".encode())
    return f"{HDRI_PREFIX}{folder}#{content.hexdigest()[:16]}.{_listing(folder)}"


def light_identity(light: str) -> str:
    """What decides the pictures: the name, or for a folder of maps their names and content wherever the folder lies."""
    pinned = pinned_light(light)
    return HDRI_PREFIX + pinned.rpartition("#")[2].partition(".")[0] if pinned.startswith(HDRI_PREFIX) else pinned


def lights_for(light: str, uid: str, seed: int = 0, sets: int = 1) -> tuple[Light, ...]:
    """The lights of the object's view sets, or the one that serves them all.

    They follow from `(light, uid, seed)` alone, whatever the order or worker; more sets never change the earlier ones.

    Raises:
        UserError: as `pinned_light`, or the folder is no longer as it was when its name was pinned.
    """
    if light in UNIFORM:
        return (uniform(UNIFORM[light]),)
    pinned = pinned_light(light)
    if pinned == "random":
        return tuple(_random(rng_for(seed, uid, "light.random", number)) for number in range(sets))
    folder, _, digest = pinned.removeprefix(HDRI_PREFIX).rpartition("#")
    if _listing(Path(folder)) != digest.partition(".")[2]:
        raise UserError(f"the HDRI folder {folder} has changed since this run began", "start the run again to use it as it is now")
    maps = _maps(Path(folder))
    draws = [rng_for(seed, uid, "light.hdri", number).random(2) for number in range(sets)]
    return tuple({**WHITE, "file": str(maps[int(choice * len(maps))]), "turn_deg": round(360.0 * float(turn), 6)} for choice, turn in draws)


def placed(lights: tuple[Light, ...], folder: Path) -> list[Light]:
    """The lights with their environment maps copied into `folder`, the one place that a child may read.

    Raises:
        UserError: a map is no longer one.
        OSError: a map cannot be read.
    """
    result = []
    for number, light in enumerate(lights):
        if light["file"] is not None:
            source = Path(light["file"])
            check_map(source)
            target = folder / f"light{number}{source.suffix.lower()}"
            shutil.copyfile(source, target)
            light = {**light, "file": str(target)}
        result.append(light)
    return result


def told(lights: tuple[Light, ...]) -> list[Light]:
    """The lights as they are recorded with the views: maps by file name only."""
    return [{**light, "file": light["file"] and Path(light["file"]).name} for light in lights]


def _random(rng: np.random.Generator) -> Light:
    """Uniform world U[0.15, 0.5] and 1 to 3 lamps from above the horizon, each with irradiance U[0.5, 1.5] and a light tint."""
    lamps: list[dict[str, Any]] = []
    world = rng.uniform(0.15, 0.5)
    for _ in range(int(rng.integers(1, 4))):
        azimuth, height = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.0, 1.0)  # uniform on the upper half sphere
        across = np.sqrt(1.0 - height**2)
        lamp = {
            "towards": [float(across * np.sin(azimuth)), float(-across * np.cos(azimuth)), float(height)],
            "irradiance": (rng.uniform(0.5, 1.5) * rng.uniform(0.8, 1.0, 3)).tolist(),
        }
        if rng.random() < 0.5:
            lamps.append({"kind": "SUN", **lamp, "angle_deg": float(rng.uniform(0.5, 20.0))})
        else:
            lamps.append({"kind": "AREA", **lamp, "distance": float(rng.uniform(2.0, 4.0)), "size": float(rng.uniform(0.5, 2.0))})
    return {**uniform(float(world)), "lamps": lamps}


def _maps(folder: Path) -> list[Path]:
    """The environment maps of a folder, by name."""
    try:
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in HDRI_SUFFIXES and file.is_file())
    except OSError as error:
        raise UserError(f"the HDRI folder {folder} cannot be read: {error.strerror}", f"give light={HDRI_PREFIX}/path/to/folder") from error
    if not found:
        raise UserError(f"the HDRI folder {folder} holds no {' or '.join(HDRI_SUFFIXES)} file", "put equirectangular maps there")
    if len(found) > MAX_HDRIS:
        raise UserError(f"the HDRI folder {folder} holds {len(found)} maps", f"use at most {MAX_HDRIS}")
    return found


def _listing(folder: Path) -> str:
    """Digest of names and sizes: cheap enough to ask before every object."""
    text = "\n".join(f"{file.name}\x1f{file.stat().st_size}" for file in _maps(folder))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@functools.lru_cache(MAX_HDRIS)
def _sha256_of_map(file: Path, size: int, mtime_ns: int) -> str:
    """Content hash of a checked map; size and time are the cache's key."""
    check_map(file)
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_map(file: Path) -> None:
    """Refuse what is no environment map, or one whose size would exhaust a worker; only the header is read.

    Raises:
        UserError: too many bytes or pixels, or no Radiance or OpenEXR header.
    """
    with open(file, "rb") as stream:
        head = stream.read(HEADER_BYTES)
        size = stream.seek(0, 2)
    try:
        width, height = _radiance_size(head) if file.suffix.lower() == ".hdr" else _openexr_size(head)
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(f"{file} is no environment map: {error}", "remove it from the HDRI folder") from error
    if size > MAX_HDRI_BYTES or not (1 <= width <= MAX_HDRI_WIDTH and 1 <= height <= MAX_HDRI_HEIGHT):
        limit = f"{MAX_HDRI_WIDTH}x{MAX_HDRI_HEIGHT} and {MAX_HDRI_BYTES >> 20} MB"
        raise UserError(f"{file} has {width}x{height} pixels in {size >> 20} MB", f"use maps of at most {limit}")


def _radiance_size(head: bytes) -> tuple[int, int]:
    """Width and height from a Radiance header: `#?...`, lines, an empty line, `-Y height +X width`."""
    if not head.startswith(b"#?"):
        raise ValueError("the file does not begin with #?")
    _, mark, rest = head.partition(b"\n\n")
    words = rest.partition(b"\n")[0].split()
    if not mark or len(words) != 4 or words[0][1:] != b"Y" or words[2][1:] != b"X":
        raise ValueError("no resolution line")
    return int(words[3]), int(words[1])


def _openexr_size(head: bytes) -> tuple[int, int]:
    """Width and height from the `dataWindow` attribute of an OpenEXR header."""
    if head[:4] != b"\x76\x2f\x31\x01":
        raise ValueError("the file does not begin as OpenEXR does")
    place = 8
    while head[place]:
        name_end = head.index(b"\0", place)
        kind_end = head.index(b"\0", name_end + 1)
        (length,) = struct.unpack_from("<i", head, kind_end + 1)
        value = kind_end + 5
        if head[place:name_end] == b"dataWindow":
            left, top, right, bottom = struct.unpack_from("<4i", head, value)
            return right - left + 1, bottom - top + 1
        if length < 0:
            raise ValueError("an attribute of negative length")
        place = value + length
    raise ValueError("no dataWindow")
