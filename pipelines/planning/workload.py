"""What each step of a recipe has to do: items, bytes, processor seconds and operations, before any cluster is known."""

import math
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import UserError
from infra.job import Resources
from pipelines.planning.units import Units
from pipelines.recipe import Recipe
from rendering.sources.base import OBJAVERSE, PROCEDURAL
from rendering.view_set import CONDITION
from training.config import TrainConfig
from training.lookup import method_named
from training.methods.base import StageBudget

GIVEN_MESHES_S = 0.02  # CPU seconds to list or check one file; small beside everything else, and not measured
PROBE_VIEW = "procedural objects"
SCORED_POINTS = (20_000, 100_000)  # of the two protocols that scoring is measured at


@dataclass(frozen=True)
class Training:
    """What a train step adds: `flops_step` of a whole update, recomputation included.

    Attributes:
        config: its settings.
        parameters: trained weights.
        bytes_step: read for one update by all ranks together.
        megapixels_step: decoded for one update, where pictures are read instead of arrays.
        activation_bytes: of one object; None = not estimated.
        validation_flops, preview_flops: of one validation, and of one making of sample pictures, by one rank alone.
        validations, previews: how many; the first and the last validation are in the start of the step.
        looking_rates: the units that say how fast those two run on a CPU.
    """

    config: TrainConfig
    parameters: int
    flops_step: float
    bytes_step: float
    megapixels_step: float
    activation_bytes: float | None
    validation_flops: float = 0.0
    validations: int = 0
    preview_flops: float = 0.0
    previews: int = 0
    looking_rates: tuple[str, str] = ("train.validate_tflops", "train.preview_tflops")


@dataclass(frozen=True)
class StepLoad:
    """One step.

    Attributes:
        step: its name.
        items, unit: how many of what.
        bytes_in, bytes_out: from and to the shared store.
        bytes_internet: downloaded from outside.
        cpu_s: processor seconds per item.
        once_cpu_s: processor seconds per worker, whatever the number of items.
        flops: operations per item that run on a GPU where the step has one, else on CPUs.
        rate: the unit that says how fast those run on a CPU.
        gpu_rate: the one that says it for a GPU, where that is another one.
        start_s: until the first worker works, and after the last one: processes, imports, models.
        resources: what the recipe asks for.
        connections: downloads at a time, all workers together.
        training: of a train step.
        units: names of the unit costs that count here.
        notes: assumptions of this step.
    """

    step: str
    items: int
    unit: str
    resources: Resources
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    bytes_internet: float = 0.0
    cpu_s: float = 0.0
    once_cpu_s: float = 0.0
    flops: float = 0.0
    rate: str = ""
    gpu_rate: str = ""
    start_s: float = 0.0
    connections: int = 0
    training: Training | None = None
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def view_cpu_s(recipe: Recipe, units: Units) -> float:
    """Processor seconds of one view, without what is done once per object."""
    megapixels = recipe.render.resolution**2 / 1e6
    samples = samples_per_pixel(recipe, units)
    value = units.value
    per_pixel = samples * value("render.sample_s") + value("render.denoise_s") + value("render.encode_s")
    return value("render.view_s") + megapixels * per_pixel


def samples_per_pixel(recipe: Recipe, units: Units) -> float:
    """What the recipe fixes; else the profile's own number, or for a profile with a noise goal the measured mean of `quality`.

    A profile whose goal is G dB below that of `quality` needs 10^(-G/10) of its samples: the error of a mean.
    """
    chosen, quality = recipe.render.sampling, 38.5
    if not chosen.target_db:
        return float(chosen.samples)
    wanted = units.value("render.samples") * 10 ** ((chosen.target_db - quality) / 10)
    return min(max(wanted, chosen.least), chosen.samples)


def workload(recipe: Recipe, units: Units, object_mb: float, downloads: int | None = None) -> list[StepLoad]:
    """The steps of a recipe in order.

    Args:
        object_mb: mean size of a downloaded 3D file in 10^6 bytes.
        downloads: files to download; None = as many as objects are rendered.

    Raises:
        UserError: the number of objects or the cost of the method is not known.
    """
    method: Any = method_named(recipe.method)
    if not hasattr(method, "budget"):
        raise UserError(f"method {recipe.method} does not tell its budget", "give it `budget`; see training/methods/base.py")
    objects = recipe.catalog.count or 0
    if objects < 1:
        raise UserError(f"how many objects recipe {recipe.name} takes is not known", "say it: --set objects=72000")
    if downloads is not None and downloads < objects:
        raise UserError(f"{downloads} downloads for {objects} objects", "download at least as many as are rendered")
    budgets = _budgets(recipe, method)
    data = _data_steps(recipe, units, objects, object_mb, downloads or objects)
    steps = data + _training_steps(recipe, units, method, budgets, objects) + _evaluation_steps(recipe, units, method, objects)
    return [_started(step, units) for step in steps]


def _started(load: StepLoad, units: Units) -> StepLoad:
    """The step with what starting it took in the rehearsal; the catalog starts nothing."""
    name = f"start.{load.step.partition('.')[0]}"
    return load if name not in units else replace(load, start_s=units.value(name), units=(*load.units, name))


def budget_of(recipe: Recipe, stage: str) -> StageBudget:
    """What one stage of the recipe costs per object."""
    return _budgets(recipe, method_named(recipe.method))[stage]


def _budgets(recipe: Recipe, method: Any) -> dict[str, StageBudget]:
    conditions = sum(role == CONDITION for role in recipe.render.views_of("any").roles)
    return {stage.name: method.budget(stage.name, recipe.model, conditions) for stage in method.stages}


def _data_steps(recipe: Recipe, units: Units, objects: int, object_mb: float, downloads: int) -> list[StepLoad]:
    made = recipe.catalog.source == PROCEDURAL
    file_bytes = units.value("render.object_bytes") if made else object_mb * 1e6
    views, pixels = len(recipe.render.views_of("any")), recipe.render.resolution**2
    stored = objects * views * pixels * units.value("render.bytes") * _pass_share(recipe)
    cpu_s = views * view_cpu_s(recipe, units) + units.value("render.import_s")
    render_notes: tuple[str, ...] = (
        f"rendering was measured on {PROBE_VIEW}; scanned and artist-made files cost more to import and to trace",
        "every object renders, and all are kept",
    )
    if recipe.render.device != "cpu":
        render_notes += (f"render.device={recipe.render.device}: costs of CPU rendering are shown, GPU rendering was not measured",)
    fetched = downloads * file_bytes
    online = recipe.catalog.source == OBJAVERSE
    local = recipe.catalog.source not in (PROCEDURAL, OBJAVERSE)
    of_folder = (f"a folder's files are not counted: {objects} objects of {object_mb:g} MB are assumed",) if local else ()
    resources = recipe.resources_for
    return [
        StepLoad(
            "catalog",
            downloads,
            "objects",
            replace(resources("catalog"), workers=1),
            cpu_s=1e-3,
            notes=("1 ms of CPU an object: assumed", *of_folder),
        ),
        StepLoad(
            "fetch",
            downloads,
            "files",
            resources("fetch"),
            bytes_out=fetched,
            bytes_internet=fetched if online else 0.0,
            connections=recipe.fetch.connections if online else 0,
            cpu_s=GIVEN_MESHES_S,
            units=("render.object_bytes",) if made else (),
            notes=(f"{GIVEN_MESHES_S:g} s of CPU a file: assumed",),
        ),
        StepLoad(
            "render",
            objects,
            f"objects x {views} views",
            resources("render"),
            bytes_in=objects * file_bytes,
            bytes_out=stored,
            cpu_s=cpu_s,
            once_cpu_s=units.value("render.start_s"),
            units=tuple(name for name in units.units if name.startswith("render.")),
            notes=render_notes,
        ),
        StepLoad(
            "curate",
            objects,
            "objects",
            resources("curate"),
            bytes_in=stored,
            bytes_out=objects * 200.0,
            cpu_s=views * pixels / 1e6 * units.value("curate.s"),
            units=("curate.s",),
        ),
    ]


def _pass_share(recipe: Recipe) -> float:
    """Stored bytes against those of depth and normals, which the unit was measured with; by half for each pass left out."""
    return {0: 0.4, 1: 0.7, 2: 1.0, 3: 1.3}[len(recipe.render.passes)]


def _training_steps(recipe: Recipe, units: Units, method: Any, budgets: dict[str, StageBudget], objects: int) -> list[StepLoad]:
    steps: list[StepLoad] = []
    conditions = sum(role == CONDITION for role in recipe.render.views_of("any").roles)
    views, pixels = len(recipe.render.views_of("any")), recipe.render.resolution**2
    picture_bytes = pixels * units.value("render.bytes")
    for stage in method.stages:
        config, budget = recipe.train[stage.name], budgets[stage.name]
        encoder = budgets[stage.encodes_with] if stage.encodes_with else None
        on_the_fly = encoder is not None and (recipe.encode_on_the_fly or config.encode_on_the_fly)
        if encoder is not None and not on_the_fly and all(done.step != "encode" for done in steps):
            steps.append(
                StepLoad(
                    "encode",
                    objects,
                    "objects",
                    recipe.resources_for("encode"),
                    bytes_in=objects * views * picture_bytes,
                    bytes_out=float(objects * encoder.array_bytes),
                    cpu_s=views * pixels / 1e6 / units.value("load.megapixels"),
                    flops=encoder.encoding_flops,
                    rate="encode.tflops",
                    units=("encode.tflops", "load.megapixels"),
                )
            )
        per_object = budget.flops + (budget.forward_flops if config.checkpoint_activations else 0.0)
        if encoder is not None and on_the_fly:
            per_object += encoder.encoding_flops * budget.views / views
        arrays = encoder is not None and not on_the_fly
        read = float(encoder.array_bytes) if arrays and encoder is not None else budget.views * picture_bytes
        kept = getattr(method, "activation_bytes", None)
        encodes = any(other.encodes_with == stage.name for other in method.stages)
        rank_rate = "train.vae_rank_tflops" if encodes else "train.rank_tflops"
        steps.append(
            StepLoad(
                f"train.{stage.name}",
                config.steps,
                "updates",
                recipe.resources_for(f"train.{stage.name}"),
                bytes_in=config.steps * config.global_batch * read,
                bytes_out=_checkpoint_bytes(budget, units) * max(1, config.steps // max(1, config.checkpoint_every)),
                training=Training(
                    config,
                    budget.parameters,
                    per_object * config.global_batch,
                    config.global_batch * read,
                    0.0 if arrays else config.global_batch * budget.views * pixels / 1e6,
                    kept(stage.name, recipe.model, conditions) if kept else None,
                    budget.validation_flops * config.validate_objects,
                    # The last one is in the start of the step, whether it was due or not.
                    (config.steps - 1) // config.validate_every if config.validate_every else 0,
                    budget.preview_flops * config.sample_objects,
                    math.ceil(config.steps / config.sample_every) if config.sample_every else 0,
                ),
                rate=rank_rate,
                gpu_rate="train.tflops",
                units=(
                    *(rank_rate, "train.tflops", "train.validate_tflops", "train.preview_tflops", "train.checkpoint_bytes"),
                    "load.array_gb_per_s" if arrays else "load.megapixels",
                ),
                notes=("networks that only a loss needs are not counted",),
            )
        )
    return steps


def _checkpoint_bytes(budget: StageBudget, units: Units) -> float:
    return budget.parameters * units.value("train.checkpoint_bytes")


def _evaluation_steps(recipe: Recipe, units: Units, method: Any, objects: int) -> list[StepLoad]:
    made = max(1, math.floor(objects * recipe.catalog.test_fraction + 0.5))
    if recipe.generate.max_objects is not None:
        made = min(made, recipe.generate.max_objects)
    pixels = recipe.render.resolution**2
    targets = sum(role != CONDITION for role in recipe.render.views_of("any").roles)
    pictures = made * targets * pixels * units.value("render.bytes")
    sampling = method.sampling_flops(recipe.model, recipe.generate.steps) if hasattr(method, "sampling_flops") else 0.0
    return [
        StepLoad(
            "generate",
            made,
            "objects",
            recipe.resources_for("generate"),
            bytes_out=pictures,
            flops=sampling,
            rate="generate.worker_tflops",
            gpu_rate="generate.tflops",
            units=("generate.worker_tflops", "generate.tflops"),
        ),
        StepLoad(
            "reconstruct",
            made,
            "objects",
            recipe.resources_for("reconstruct"),
            bytes_in=pictures,
            bytes_out=made * 2e6,
            cpu_s=reconstruct_cpu_s(recipe, units),
            units=("reconstruct.s_32", "reconstruct.s_64", "reconstruct.s_64_px64", "reconstruct.refine_s"),
            notes=(
                "hull: powers of its cells and of the pictures' side through what was measured; refining: measured at 128 px and 64 cells, "
                "taken as the same per step elsewhere; 2 MB a mesh",
            ),
        ),
        StepLoad(
            "score",
            made,
            "objects",
            recipe.resources_for("score"),
            bytes_in=2 * pictures,
            cpu_s=score_cpu_s(recipe, units),
            units=("score.s", "score.s_20k"),
            notes=("scoring: a line in the surface points through two measured protocols, on 8 views of 64 px",),
        ),
    ]


def reconstruct_cpu_s(recipe: Recipe, units: Units) -> float:
    """Processor seconds of one mesh: a power law in the hull's cells, never falling, and the steps of refining where asked for."""
    small, large = units.value("reconstruct.s_32"), units.value("reconstruct.s_64")
    power = max(0.0, math.log2(large / small)) if small > 0 and large > 0 else 0.0
    coarse = units.value("reconstruct.s_64_px64", "reconstruct.s_64")
    by_side = max(0.0, math.log2(large / coarse)) if coarse > 0 and large > 0 else 0.0
    # Beyond the measured sides nothing is known of the pictures' share, so none is added.
    seconds = large * (recipe.reconstruct.resolution / 64) ** power * min(1.0, recipe.render.resolution / 128) ** by_side
    if "refine" in recipe.reconstruct.stages:
        seconds += recipe.reconstruct.refine_steps * units.value("reconstruct.refine_s")
    return seconds


def score_cpu_s(recipe: Recipe, units: Units) -> float:
    """Processor seconds of scoring one object: a line in the number of surface points, never below zero."""
    few, many = SCORED_POINTS
    share = (recipe.score.resolved().points - few) / (many - few)
    small, large = units.value("score.s_20k", "score.s"), units.value("score.s")
    return max(0.0, small + share * (large - small))
