"""A rig of your own: a small JSON or TOML file that lists views, grids of views and random views.

    {"name": "ring", "fov_deg": 50, "radius": 1.8,
     "grids":  [{"azimuths": 12, "elevation_deg": [0, 30]}],
     "views":  [{"azimuth_deg": 0, "elevation_deg": 80, "radius": 2.5}],
     "random": [{"count": 4, "elevation_deg": [-10, 45], "role": "condition"}]}

`fov_deg` and `radius` above hold for every entry that does not say otherwise. A grid takes `azimuths` (a number of
even steps from 0) or a list `azimuth_deg`; a random entry takes ranges `[low, high]` or single values. `light_set`
numbers the views that share one light. Order: targets, then conditions, each in the order views, grids, random.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.rig_views import RigConfig, RigViews, build, check_containment
from rendering.view_set import CONDITION, TARGET

FILE_PREFIX = "file:"
MAX_BYTES, MAX_VIEWS = 1 << 20, 4096
# Blender's camera of ours clips at 100 world units; orbit() has no up direction at the poles.
LIMITS = {"azimuth_deg": (-3600.0, 3600.0), "elevation_deg": (-89.9, 89.9), "radius": (0.01, 90.0), "fov_deg": (1.0, 170.0)}
DEFAULTS = {"azimuth_deg": [0.0, 360.0]}
COMMON = ("role", "light_set")
KEYS = {
    "": ("name", "fov_deg", "radius", "may_crop", "views", "grids", "random"),
    "views": (*LIMITS, *COMMON),
    "grids": (*LIMITS, "azimuths", *COMMON),
    "random": (*LIMITS, "count", *COMMON),
}
EXAMPLE = '{"fov_deg": 50, "radius": 1.8, "grids": [{"azimuths": 12, "elevation_deg": [0, 30]}]}'


def inline_text(rig: str) -> str:
    """`file:PATH` or inline JSON -> canonical JSON on one line; equal rigs give equal text.

    Raises:
        UserError: no such file, too large, or neither JSON nor TOML.
    """
    text, place = (rig, "the inline rig") if not rig.startswith(FILE_PREFIX) else _read(rig.removeprefix(FILE_PREFIX))
    try:
        description = tomllib.loads(text) if place.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and TOMLDecodeError are ValueErrors
        raise UserError(f"{place} cannot be read: {error}", f"write it as JSON, or TOML in a .toml file, for example {EXAMPLE}") from error
    if not isinstance(description, dict):
        raise UserError(f"{place} holds no table of rig settings", f"for example {EXAMPLE}")
    try:
        return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place} holds a value that is no number, text or list: {error}", f"for example {EXAMPLE}") from error


def _read(path: str) -> tuple[str, str]:
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"the rig file {file} is larger than {MAX_BYTES} bytes", "a rig is a short list of views; check the path")
        return file.read_text(), str(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the rig file {file} cannot be read: {error}", "give rig=file:/path/to/rig.json (or .toml)") from error


def custom_rig(text: str, taken: Container[str] = ()) -> Callable[[str, RigConfig], RigViews]:
    """The rig that inline JSON describes. All values are checked here, before any object.

    Raises:
        UserError: unknown keys (with the nearest), values out of range, no target view, or a name that is `taken`.
    """
    description = json.loads(text)
    _check_keys(description, "")
    name = description.get("name", "custom")
    if not isinstance(name, str) or not (name.isidentifier() and name.isascii()) or len(name) > 64 or name in taken:
        raise UserError(f"the rig's name cannot be {name!r}", "use a new short name of letters, digits and underscores")
    shared = {key: description[key] for key in ("fov_deg", "radius") if key in description}
    may_crop = _flag(description.get("may_crop", False))
    entries = [
        (kind, _with_defaults(entry, kind, shared)) for kind in ("views", "grids", "random") for entry in _entries(description, kind)
    ]
    if sum(_size(kind, entry) for kind, entry in entries) > MAX_VIEWS:
        raise UserError(f"the rig has more than {MAX_VIEWS} views", "fewer grid steps or a lower count will do")
    if not any(entry["role"] == TARGET and _size(kind, entry) for kind, entry in entries):
        raise UserError("the rig has no target view", f"for example {EXAMPLE}")

    def rig(uid: str, config: RigConfig) -> RigViews:
        rows: dict[str, list[np.ndarray]] = {TARGET: [], CONDITION: []}
        for _, entry in entries:  # the nearest that any object may draw, not only this one
            check_containment(config.extent, entry["radius"][0], entry["fov_deg"][0], may_crop)
        for number, (kind, entry) in enumerate(entries):
            # A view's draws depend on its own entry, not on what stands before it in the file or on other counts.
            rng = rng_for(config.seed, uid, f"rig.{name}.{number}")
            rows[entry["role"]].append(_rows(kind, entry, rng))
        targets, conditions = (np.concatenate([*rows[role], np.empty((0, 5))]) for role in (TARGET, CONDITION))
        azimuth, elevation, radius, fov, light = np.concatenate([targets, conditions]).T
        lights = tuple(int(number) for number in np.unique(light, return_inverse=True)[1])
        return build(
            name, azimuth, elevation, radius, fov,
            extent=config.extent, num_targets=len(targets), light_sets=lights, may_crop=may_crop,
        )  # fmt: skip

    return rig


def _entries(description: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = description.get(kind, [])
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"'{kind}' of the rig is not a list of tables", f"for example {EXAMPLE}")
    for entry in found:
        _check_keys(entry, kind)
    return found


def _check_keys(entry: dict[str, Any], kind: str) -> None:
    for key in entry:
        if key not in KEYS[kind]:
            near = difflib.get_close_matches(key, KEYS[kind], 1, 0.4)
            place = f"'{kind}' of the rig" if kind else "the rig"
            mend = f"did you mean '{near[0]}'?" if near else f"it may hold: {', '.join(KEYS[kind])}"
            raise UserError(f"{place} has no setting '{key}'", mend)


def _with_defaults(entry: dict[str, Any], kind: str, shared: dict[str, Any]) -> dict[str, Any]:
    """The entry with every value present and checked; numbers become lists where the kind takes several."""
    full = {**(DEFAULTS if kind == "random" else {}), **shared, "role": TARGET, "light_set": 0, **entry}
    if kind == "grids" and "azimuths" in full:
        steps = _whole(full.pop("azimuths"), "azimuths", 1)
        full["azimuth_deg"] = [360.0 * step / steps for step in range(min(steps, MAX_VIEWS + 1))]
    for key in LIMITS:
        if key not in full:
            raise UserError(
                f"an entry of '{kind}' has no {key}", f"give it there{' or for the whole rig' if key in ('fov_deg', 'radius') else ''}"
            )
        several = kind == "random" or (kind == "grids" and key in ("azimuth_deg", "elevation_deg"))
        full[key] = _numbers(full[key], key, several, pair=kind == "random")
    if full["role"] not in (TARGET, CONDITION):
        raise UserError(f"a view's role cannot be {full['role']!r}", f"choose '{TARGET}' or '{CONDITION}'")
    full["light_set"] = _whole(full["light_set"], "light_set", 0)
    if kind == "random":
        full["count"] = _whole(full.get("count", 1), "count", 0)
    return full


def _numbers(value: Any, key: str, several: bool, pair: bool) -> list[float]:
    values = value if isinstance(value, list) and several else [value]
    low, high = LIMITS[key]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item) or not low <= item <= high:
            what = f"a number from {low:g} to {high:g}" + (" or a list of them" if several else "")
            raise UserError(f"{key} of the rig is {item!r}", f"give {what}")
    if not values or (pair and (len(values) > 2 or values[0] > values[-1])):
        raise UserError(f"{key} of the rig is {value!r}", "give [low, high] or one number" if pair else "give at least one number")
    return [float(item) for item in values]


def _whole(value: Any, key: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_VIEWS:
        raise UserError(f"{key} of the rig is {value!r}", f"give a whole number from {least} to {MAX_VIEWS}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"may_crop of the rig is {value!r}", "give true or false")
    return value


def _size(kind: str, entry: dict[str, Any]) -> int:
    if kind == "random":
        return entry["count"]
    return len(entry["azimuth_deg"]) * len(entry["elevation_deg"])


def _rows(kind: str, entry: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """The entry's views `[N, 5]`: azimuth, elevation, radius, fov, light set. Grids are elevation-major."""
    keys = ("azimuth_deg", "elevation_deg", "radius", "fov_deg")
    if kind == "random":
        low, high = (np.array([entry[key][end] for key in keys]) for end in (0, -1))
        values = low + (high - low) * rng.random((entry["count"], 4))
    else:
        elevation, azimuth = (g.ravel() for g in np.meshgrid(entry["elevation_deg"], entry["azimuth_deg"], indexing="ij"))
        values = np.stack(np.broadcast_arrays(azimuth, elevation, entry["radius"][0], entry["fov_deg"][0]), -1)
    return np.concatenate([values, np.full((len(values), 1), float(entry["light_set"]))], -1)
