"""What a recipe's training will cost, counted from its settings: nothing is built, nothing is measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from pipelines.recipe import Recipe
from rendering.view_set import CONDITION
from training.config import TrainConfig
from training.lookup import method_named
from training.methods.base import StageBudget
from training.rates import PEAK_TFLOPS

# The projection's two assumptions. The card is the paper's (MVDiffusion++ §6), its peak the data sheet's dense bf16 rate; the
# share of it that training reaches is a guess until `mvforge bench train` measures it.
CARD, SHARE = "H100", 0.4
# Bytes a weight needs to go on training: itself, two AdamW moments, and its average, in float32.
STATE_BYTES, AVERAGE_BYTES = 12, 4


@dataclass(frozen=True)
class StageCost:
    """One row: a training stage.

    Attributes:
        views: per object and step, a mean.
        tflop_object, tflop_step, tflop_gpu_step: training operations of one object, of a whole step, and of a step on one worker,
            with recomputed activations where the stage recomputes them.
        gpu_hours, days: at the assumed rate; None where the recipe trains without GPUs.
        checkpoint_gb: what a resumable checkpoint holds.
    """

    stage: str
    steps: int
    objects: int
    views: float
    parameters_m: float
    tflop_object: float
    tflop_step: float
    tflop_gpu_step: float
    gpu_hours: float | None
    days: float | None
    checkpoint_gb: float


def project(recipe: Recipe) -> dict[str, Any] | None:
    """Stages, data and sampling of a recipe; None for a method that does not tell its budget."""
    method: Any = method_named(recipe.method)
    if not hasattr(method, "budget"):
        return None
    views = recipe.render.views_of("any")
    conditions = sum(role == CONDITION for role in views.roles)
    stages, encoding = [], []
    for stage in method.stages:
        budget: StageBudget = method.budget(stage.name, recipe.model, conditions)
        stages.append(_stage_cost(recipe, recipe.train[stage.name], stage.name, budget))
        if budget.array_bytes:
            encoding.append((budget.encoding_flops, budget.array_bytes))
    objects = recipe.catalog.count or 0
    pictures = objects * len(views)
    result: dict[str, Any] = {
        "stages": [asdict(stage) for stage in stages],
        "objects": objects,
        "pictures": pictures,
        "picture_gb_raw": pictures * recipe.render.resolution**2 * 4 / 1e9,
        "array_gb": sum(size for _, size in encoding) * objects / 1e9,
        "encode_pflop": sum(flops for flops, _ in encoding) * objects / 1e15,
        "weights": {f"model.{name}": value for name, value in _weight_files(recipe.model)},
        "assumed": {"card": CARD, "peak_tflops": _peak(), "share": SHARE},
    }
    if hasattr(method, "sampling_flops"):
        result["sample_tflop"] = method.sampling_flops(recipe.model, recipe.generate.steps) / 1e12
    return result


def _stage_cost(recipe: Recipe, config: TrainConfig, name: str, budget: StageBudget) -> StageCost:
    resources = recipe.resources_for(f"train.{name}")
    per_object = budget.flops + (budget.forward_flops if config.checkpoint_activations else 0.0)
    step = per_object * config.global_batch
    hours = config.steps * step / (_peak() * 1e12 * SHARE) / 3600
    gpus = resources.workers * resources.gpus
    return StageCost(
        stage=name,
        steps=config.steps,
        objects=config.global_batch,
        views=budget.views,
        parameters_m=budget.parameters / 1e6,
        tflop_object=per_object / 1e12,
        tflop_step=step / 1e12,
        tflop_gpu_step=step / 1e12 / resources.workers,
        gpu_hours=hours if gpus else None,
        days=hours / gpus / 24 if gpus else None,
        checkpoint_gb=budget.parameters * (STATE_BYTES + (AVERAGE_BYTES if config.ema_decay else 0)) / 1e9,
    )


def _weight_files(model: Any, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Fields of the method's config that may name weights, with their values."""
    for one in fields(model):
        value = getattr(model, one.name)
        if is_dataclass(value):
            yield from _weight_files(value, f"{prefix}{one.name}.")
        elif "content" in one.metadata:
            yield prefix + one.name, value


def _peak() -> float:
    return dict(PEAK_TFLOPS)[CARD]


def lines(cost: dict[str, Any]) -> list[str]:
    """The projection for a person; `cost` is what `project` returned."""
    header = ["stage", "steps", "objects/step", "views/object", "M weights", "TFLOP/object", "TFLOP/step", "TFLOP/step/worker"]
    rows = [[*header, "GPU-hours", "days", "checkpoint GB"]]
    for row in cost["stages"]:
        figures = [row[name] for name in ("views", "parameters_m", "tflop_object", "tflop_step", "tflop_gpu_step")]
        projected = [_shown(row[name]) for name in ("gpu_hours", "days", "checkpoint_gb")]
        rows.append([row["stage"], str(row["steps"]), str(row["objects"]), *map(_shown, figures), *projected])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    hours, assumed = [row["gpu_hours"] for row in cost["stages"]], cost["assumed"]
    if all(value is not None for value in hours):
        rate = f"{assumed['share']:.0%} of the {assumed['peak_tflops']:.0f} TFLOP/s of an {assumed['card']} (data sheet, bf16 dense)"
        text.append(f"{_shown(sum(hours))} GPU-hours in all, if training reaches {rate}: an assumption, `mvforge bench train` measures it")
    else:
        text.append("no GPUs in this recipe, so no hours are projected")
    text.append(
        f"data: {cost['objects']} objects, {cost['pictures']} pictures ({_shown(cost['picture_gb_raw'])} GB uncompressed), "
        f"encoded arrays {_shown(cost['array_gb'])} GB uncompressed, encoding them {_shown(cost['encode_pflop'])} PFLOP"
    )
    if cost["weights"]:
        text.append("starts from: " + ", ".join(f"{name}={value}" for name, value in cost["weights"].items()))
    if "sample_tflop" in cost:
        text.append(f"generating one object: {_shown(cost['sample_tflop'])} TFLOP")
    return text


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
