"""`mvforge calibrate`: measure unit costs on this machine, part by part, into a file that a later call goes on with."""

import datetime
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from infra.errors import UserError
from infra.provenance import git_commit
from pipelines.planning.units import Units, read_units, summed_up, write_units
from rendering.bench import machine


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        repeats: of each part but rendering, at least 1.
        objects: procedural objects that are rendered, at least 1; each is one repeat.
        sizes: sides of the pictures in pixels; of two, constants and what grows with the picture are told apart.
        profile: of the renders.
    """

    repeats: int = 3
    objects: int = 3
    sizes: tuple[int, ...] = (64, 256)
    profile: str = "quality"


Repeats = dict[str, list[float]]
Measured = tuple[Repeats, str]


@dataclass(frozen=True)
class Part:
    """Something that is measured at once: its units, and the function, imported when it is needed."""

    units: tuple[str, ...]
    measure: Callable[[Settings], Measured]
    gpu: bool = False


def _later(module: str, name: str) -> Callable[[Settings], Measured]:
    def run(settings: Settings) -> Measured:
        function: Callable[[int], Measured] = getattr(importlib.import_module(f"pipelines.planning.{module}"), name)
        return function(settings.repeats)

    return run


def _render(settings: Settings) -> Measured:
    from pipelines.planning.measure_render import measure_render

    return measure_render(settings.objects, settings.sizes, settings.profile)


RENDER = ("start_s", "import_s", "sample_s", "denoise_s", "encode_s", "view_s", "samples", "bytes", "object_bytes")
STARTED = ("fetch", "render", "curate", "train", "encode", "generate", "reconstruct", "score")
REHEARSED = (
    *("train.rank_tflops", "train.vae_rank_tflops", "train.validate_tflops", "train.preview_tflops"),
    "generate.worker_tflops",
)
REHEARSAL = (*(f"start.{step}" for step in STARTED), *REHEARSED)
PARTS = {
    "render": Part(tuple(f"render.{name}" for name in RENDER), _render),
    "pictures": Part(("load.megapixels", "curate.s"), _later("measure_evaluation", "measure_pictures")),
    "arrays": Part(("load.array_gb_per_s",), _later("measure_training", "measure_arrays")),
    "checkpoint": Part(("train.checkpoint_bytes", "train.checkpoint_gb_per_s"), _later("measure_training", "measure_checkpoint")),
    "encode": Part(("encode.tflops",), _later("measure_training", "measure_encode"), gpu=True),
    "train": Part(("train.tflops",), _later("measure_training", "measure_train"), gpu=True),
    "generate": Part(("generate.tflops", "generate.s"), _later("measure_training", "measure_generate"), gpu=True),
    "reconstruct": Part(
        ("reconstruct.s_32", "reconstruct.s_64", "reconstruct.s_64_px64", "reconstruct.refine_s"),
        _later("measure_evaluation", "measure_reconstruct"),
    ),
    "score": Part(("score.s", "score.s_20k"), _later("measure_evaluation", "measure_score")),
    "rehearsal": Part(REHEARSAL, _later("measure_rehearsal", "measure_rehearsal")),
}


def calibrate(out: Path, only: Iterable[str], settings: Settings, *, again: bool = False, say: Callable[[str], None] = print) -> Units:
    """Measure the parts that `out` does not hold yet; the file is written after each part.

    Args:
        only: names of `PARTS`; none means all.
        again: measure also what the file holds.

    Raises:
        UserError: an unknown part, sizes or repeats out of range, or a file of another machine.
    """
    chosen = list(only) or list(PARTS)
    for name in chosen:
        if name not in PARTS:
            near = get_close_matches(name, PARTS, n=1, cutoff=0.0)[0]
            raise UserError(f"there is no part '{name}'; did you mean '{near}'?", f"the parts are {', '.join(PARTS)}")
    if settings.repeats < 1 or settings.objects < 1 or not settings.sizes or min(settings.sizes) < 16:
        raise UserError("too little to measure", "--repeats and --objects at least 1, --sizes at least 16 pixels")
    units = read_units(out) if out.exists() else Units(out)
    _refuse_other_machine(units, again)
    for name in chosen:
        part = PARTS[name]
        if all(unit in units for unit in part.units) and not again:
            say(f"{name}: in {out} already")
            continue
        say(f"{name}: measuring")
        repeats, note = part.measure(settings)
        facts = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": described_machine(),
            "device": _device() if part.gpu else "cpu",
            "commit": git_commit(),
            "note": note,
        }
        measured = {unit: summed_up(values, **facts) for unit, values in repeats.items()}
        units = replace(units, units={**units.units, **measured})
        write_units(units)
    return units


def described_machine() -> str:
    """Processor, cores, memory and load average, in words."""
    facts = machine()
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, load average {facts['load'][0]:.1f}"


def _identity(text: str) -> str:
    return text.partition(", load average")[0]


def _refuse_other_machine(units: Units, again: bool) -> None:
    here = _identity(described_machine())
    other = [unit for unit in units.units.values() if _identity(unit.machine) != here]
    if other and not again:
        raise UserError(f"{units.path} was measured on {_identity(other[0].machine)}, this is {here}", "give another --out, or --again")


def _device() -> str:
    from pipelines.planning.measure_training import device_name

    return device_name()
