"""Unit costs: what one view, object, pixel or operation costs, each with where, when and how often it was measured."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.storage import Location

DEFAULT_UNITS = Path(__file__).resolve().parents[2] / "infra" / "clusters" / "units_default.json"
VERSION = 1
MEND = "measure it: mvforge calibrate --out units.json"

# Every unit by name: its dimension, and what it is.
KNOWN = {
    "render.start_s": ("s", "start of one Blender process"),
    "render.import_s": ("CPU-s/object", "opening, importing and normalising a file"),
    "render.sample_s": ("CPU-s/megasample", "path tracing, per picture side squared times samples"),
    "render.denoise_s": ("CPU-s/megapixel", "denoising"),
    "render.view_s": ("CPU-s/view", "scene set-up of a view, whatever its size"),
    "render.encode_s": ("CPU-s/megapixel", "developing and encoding a picture with its passes"),
    "render.samples": ("samples", "samples per pixel that the profile `quality` chose"),
    "render.bytes": ("bytes/pixel", "stored bytes of a view with depth and normals"),
    "render.object_bytes": ("bytes/object", "a procedural 3D file"),
    "curate.s": ("CPU-s/megapixel", "decoding and judging pictures"),
    "encode.tflops": ("TFLOP/s", "VAE encoder of the encode step"),
    "train.tflops": ("TFLOP/s", "forward, backward and AdamW of the multi-view U-Net, model operations"),
    "train.checkpoint_bytes": ("bytes/weight", "a resumable checkpoint with average"),
    "train.checkpoint_gb_per_s": ("GB/s", "writing it to local disk and recording its hash"),
    "train.rank_tflops": ("TFLOP/s", "one of two ranks of a U-Net stage on a CPU, through Ray Train and DeepSpeed"),
    "train.vae_rank_tflops": ("TFLOP/s", "the same of the VAE's stage"),
    "train.validate_tflops": ("TFLOP/s", "validating on one rank alone while the other waits, beyond the first and last time"),
    "train.preview_tflops": ("TFLOP/s", "sample pictures on one rank alone, with opening the VAE and writing them"),
    "load.array_gb_per_s": ("GB/s", "reading encoded arrays, one reader"),
    "load.megapixels": ("megapixel/s", "reading and decoding pictures, one reader"),
    "generate.tflops": ("TFLOP/s", "joint sampling and decoding of all views"),
    "generate.s": ("s/object", "the very sampling that `generate.tflops` was measured on"),
    "generate.worker_tflops": ("TFLOP/s", "one of two workers of the generate step on a CPU"),
    "reconstruct.s_32": ("CPU-s/object", "mesh without refining, hull of 32 cells"),
    "reconstruct.s_64": ("CPU-s/object", "mesh without refining, hull of 64 cells"),
    "reconstruct.s_64_px64": ("CPU-s/object", "the same with pictures of 64 px"),
    "reconstruct.refine_s": ("CPU-s/step", "one step of refining"),
    "score.s": ("CPU-s/object", "scoring views and mesh of one object, default protocol"),
    "score.s_20k": ("CPU-s/object", "the same with the recipe tiny's protocol: 20,000 points"),
    **{
        f"start.{step}": ("s", f"a {step} step beside its work: processes, imports, models")
        for step in ("fetch", "render", "curate", "train", "encode", "generate", "reconstruct", "score")
    },
}
# Units of older files that nothing uses any more: passed over when they are read.
RETIRED = {"train.validate_passes"}


@dataclass(frozen=True)
class Unit:
    """One measured cost.

    Attributes:
        median: of the repeats; in the dimension that `KNOWN` gives for the name.
        low, high: smallest and largest repeat.
        n: repeats.
        when: UTC, ISO 8601.
        machine: processor, cores, memory and load average while it was measured.
        device: `cpu`, or the name of the GPU.
        commit: of the code.
        note: what was measured on (sizes, objects).
    """

    median: float
    low: float
    high: float
    n: int
    when: str
    machine: str
    device: str
    commit: str
    note: str = ""


@dataclass(frozen=True)
class Units:
    """A file of unit costs.

    Attributes:
        path: where it lies.
        units: by name.
    """

    path: Path
    units: dict[str, Unit] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.units

    def value(self, name: str, otherwise: str | float | None = None) -> float:
        """The median; where the file does not hold the unit (an older one may not), `otherwise`: another unit's, or a number.

        Raises:
            UserError: the file holds neither.
        """
        if name not in self.units and otherwise is not None:
            return self.value(otherwise) if isinstance(otherwise, str) else otherwise
        if name not in self.units:
            raise UserError(f"{self.path} holds no unit '{name}'", MEND)
        return self.units[name].median

    def on(self, name: str, device: str) -> float | None:
        """The median where it was measured on a device whose name holds the word `device`, else None."""
        unit = self.units.get(name)
        return unit.median if unit is not None and device.lower() in unit.device.lower().split() else None


def read_units(path: Path | None = None) -> Units:
    """The units of a file that `mvforge calibrate` wrote; without one those that are shipped.

    Raises:
        UserError: no such file, another version, an unknown unit, or a value that is no positive number.
    """
    place = path or DEFAULT_UNITS
    try:
        data = json.loads(place.read_text())
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}", MEND) from error
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}", MEND) from error
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("units"), dict):
        raise UserError(f"{place} is no file of unit costs of version {VERSION}", MEND)
    return Units(place, {name: _checked(place, name, values) for name, values in data["units"].items() if name not in RETIRED})


def _checked(place: Path, name: str, values: Any) -> Unit:
    if name not in KNOWN:
        near = get_close_matches(name, KNOWN, n=1, cutoff=0.0)[0]
        raise UserError(f"{place}: there is no unit '{name}'; did you mean '{near}'?", f"the units are {', '.join(KNOWN)}")
    try:
        unit = Unit(**values)
        fits = all(math.isfinite(value) and value >= 0 for value in (unit.median, unit.low, unit.high)) and unit.n >= 1
    except TypeError as error:
        raise UserError(f"{place}: unit '{name}' has not the fields of a measured unit: {error}", MEND) from error
    if not fits:
        raise UserError(f"{place}: unit '{name}' is {unit.median} from {unit.n} repeats", "finite, not negative, at least one repeat")
    return unit


def write_units(units: Units) -> None:
    """Write the file in one piece."""
    data = {"version": VERSION, "units": {name: asdict(unit) for name, unit in sorted(units.units.items())}}
    Location(str(units.path.absolute())).write_json(data)


def summed_up(values: Iterable[float], *, when: str, machine: str, device: str, commit: str, note: str) -> Unit:
    """The unit of some repeats. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a unit needs at least one measurement")
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Unit(median, ordered[0], ordered[-1], len(ordered), when, machine, device, commit, note)
