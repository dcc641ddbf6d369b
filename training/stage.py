"""One training stage in this process, as one of `world` ranks: build, train, write the results. Knows no Ray."""

import contextlib
import copy
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra import notice
from infra.errors import UserError
from infra.scratch import scratch_folder
from infra.seeds import seed_for
from infra.storage import Location
from training.checkpoint import Checkpoints, LocalCheckpoints, uploads_ended
from training.config import TrainConfig
from training.data import DataLocations, TrainData
from training.deepspeed_engine import DeepSpeedEngine
from training.engine import Engine, PlainEngine, device_here, process_group_from_environment, rank_and_world
from training.lookup import method_named
from training.loop import Curves, fit
from training.methods.base import Encoder, Method, Stage, Trainable, TrainObject
from training.notice import LEAVE, NOTHING, Asked, nothing
from training.pictures import write_pictures

log = logging.getLogger(__name__)

Log = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class StageInputs:
    """Locations a stage reads: its data, the output folders of the stage it starts from and of earlier ones by name."""

    data: DataLocations
    init: Location | None = None
    weights: dict[str, Location] = field(default_factory=dict)


@contextlib.contextmanager
def local_checkpoints(folders: dict[str, Location]) -> Iterator[dict[str, Path]]:
    """The `checkpoint` folders inside train outputs, as local paths."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context((folder / "checkpoint").as_local()) for name, folder in folders.items()}


def train_stage(
    config: TrainConfig,
    inputs: StageInputs,
    out: Location,
    checkpoints: Checkpoints,
    report: Log,
    device: torch.device,
    asked: Asked = nothing,
    resumed: Callable[[Curves], None] = lambda curves: None,
) -> Curves:
    """Train and, on rank 0, write `checkpoint/`, `uids.json`, `validation.jsonl`, `previews.jsonl` and, last, `history.jsonl`.

    Rows go to `report` as they are made, those of the checkpoint that it goes on from to `resumed`; of kind `pictures` are the paths
    below `out` that `pictures/` has got at a step.

    Raises:
        Left: a notice asked for it (`training.notice`); called again, it goes on.
    """
    method = method_named(config.method)
    stage = next(each for each in method.stages if each.name == config.stage)
    with local_checkpoints(inputs.weights) as weights, uploads_ended(checkpoints):
        data = TrainData(inputs.data, encode=_encoder(method, stage, config, weights, device), pictures=stage.pictures)
        trainable = method.trainable(config.stage, config.model, weights)
        module = initial_module(trainable, config, inputs.init)
        engine, evaluated = stage_engine(module, config, device)
        shown = config.sample_objects if config.sample_every else 0
        held_out = [data.read_whole(uid) for uid in data.val[: max(config.validate_objects, shown)]] if engine.rank == 0 else []
        validate = _validator(trainable, evaluated, held_out[: config.validate_objects], config) if data.val else None
        preview = _previewer(trainable, evaluated, held_out[:shown], config, out, report) if data.val and shown else None
        if validate is None:
            log.warning("train.%s: no validation object is left, held-out figures will be missing", config.stage)
        told: dict[str, Any] = {"log": report, "asked": asked, "resumed": resumed}
        curves = fit(trainable, engine, data, config, checkpoints=checkpoints, validate=validate, preview=preview, **told)
        final = engine.full_weights(ema=config.ema_decay > 0)
        if final is not None:
            assert evaluated is not None
            _write_results(trainable, _with_weights(evaluated, final), data, curves, out)
    return curves


def initial_module(trainable: Trainable, config: TrainConfig, init: Location | None) -> nn.Module:
    """The weights that training starts with, the same on every rank: all randomness of building comes from this one seed."""
    torch.manual_seed(seed_for(config.seed, config.stage, "initial weights"))
    module = trainable.build()
    if init is not None:
        with (init / "checkpoint").as_local() as folder:
            trainable.load(module, folder)
    return module


def stage_engine(module: nn.Module, config: TrainConfig, device: torch.device) -> tuple[Engine, nn.Module | None]:
    """The engine, and on rank 0 a whole copy of the module for validation and saving (an engine may scatter its own)."""
    rank, world = rank_and_world()
    evaluated = copy.deepcopy(module).to(device).eval() if rank == 0 else None
    _prepare(module, config)
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "clip": config.clip,
        "ema_decay": config.ema_decay,
        "micro_batches": config.micro_batches(world),
        "device": device,
    }
    if config.zero_stage:
        zero: dict[str, Any] = {"zero_stage": config.zero_stage, "offload": config.zero_offload, "micro_batch": config.micro_batch}
        return DeepSpeedEngine(module, precision=config.precision, **zero, **settings), evaluated
    return PlainEngine(module, fp16=config.precision == "fp16", **settings), evaluated


def _prepare(module: nn.Module, config: TrainConfig) -> None:
    """Gradient checkpointing and compilation, in place: names and values of the weights stay as they are."""
    if config.checkpoint_activations:
        enable = getattr(module, "enable_gradient_checkpointing", None)
        if enable is None:
            raise UserError(
                f"train.{config.stage}: this stage's network cannot recompute activations", "set checkpoint_activations to false"
            )
        enable()
    if config.compile:
        # Not `module.compile()`, which leaves modules of torch's own classes (a Sequential) as they are.
        module.forward = torch.compile(module.forward)  # type: ignore[method-assign]


@torch.no_grad()
def _with_weights(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, value in weights.items():
        tensors[name].copy_(value)
    return module


def _validator(
    trainable: Trainable, module: nn.Module | None, objects: list[TrainObject], config: TrainConfig
) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        assert module is not None
        with torch.no_grad():
            figures = trainable.validate(_with_weights(module, weights), objects, seed_for(config.seed, "validation"))
        return {name: float(value) for name, value in figures.items()}

    return validate


def _previewer(
    trainable: Trainable, module: nn.Module | None, objects: list[TrainObject], config: TrainConfig, out: Location, report: Log
) -> Callable[[dict[str, Tensor], int], dict[str, float]] | None:
    """Sample grids of held-out objects, written below `out`; None where the stage has none to show."""
    make = getattr(trainable, "preview", None)
    if make is None:
        log.warning("train.%s shows no sample grids: its method has no `preview`", config.stage)
        return None

    def preview(weights: dict[str, Tensor], step: int) -> dict[str, float]:
        assert module is not None
        with torch.no_grad():
            made = make(_with_weights(module, weights), objects, seed_for(config.seed, "preview"))
        report("pictures", {"step": step, "paths": write_pictures(out, step, made.pictures)})
        return {name: float(value) for name, value in made.figures.items()}

    return preview


def _encoder(method: Method, stage: Stage, config: TrainConfig, weights: dict[str, Path], device: torch.device) -> Encoder | None:
    """What makes arrays while training, where no encode step did before."""
    if not config.encode_on_the_fly or stage.encodes_with is None:
        return None
    return method.encoder(stage.encodes_with, config.model, weights[stage.encodes_with], str(device))


def _write_results(trainable: Trainable, module: nn.Module, data: TrainData, curves: Curves, out: Location) -> None:
    with scratch_folder("checkpoint") as scratch:
        folder = Path(scratch) / "checkpoint"
        folder.mkdir()
        trainable.save(module, folder)
        (out / "checkpoint").upload(folder)
    (out / "uids.json").write_json(data.train)
    (out / "validation.jsonl").write_text(_json_lines(curves.validation))
    if curves.previews:
        (out / "previews.jsonl").write_text(_json_lines(curves.previews))
    (out / "history.jsonl").write_text(_json_lines(curves.history))


def _json_lines(rows: list[dict[str, float]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def fit_local(config: TrainConfig, inputs: StageInputs, out: Location, report: Log = lambda kind, row: None) -> Curves:
    """The whole stage without Ray: in this process, in every process of an open process group, or in every process that
    `torchrun` started; `out` must be local, and the same for all.

    An interrupted call continues from the checkpoints it left in `out/state`. On SIGTERM to any of the processes all of them finish the
    step, write a checkpoint and raise `Left`.
    """
    if not out.is_local:
        raise UserError(f"{out} is not a local folder", "training without Ray keeps its checkpoints on a local disk")
    with notice.heeding() as told, process_group_from_environment():
        checkpoints = LocalCheckpoints(out.local_path() / "state", config.keep_checkpoints, config.keep_best)
        return train_stage(config, inputs, out, checkpoints, report, device_here(), lambda: LEAVE if told() else NOTHING)
