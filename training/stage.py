"""One training stage in this process, as one of `world` ranks: build, train, write the results. Knows no Ray."""

import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import UserError
from infra.seeds import seed_for
from infra.storage import Location
from training.checkpoint import Checkpoints, LocalCheckpoints
from training.data import DataLocations, TrainData
from training.engine import DeepSpeedEngine, Engine, PlainEngine, device_here
from training.lookup import method_named
from training.loop import Curves, TrainConfig, fit
from training.methods.base import Trainable, TrainObject

log = logging.getLogger(__name__)

Log = Callable[[str, dict[str, float]], None]


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
    config: TrainConfig, inputs: StageInputs, out: Location, checkpoints: Checkpoints, report: Log, device: torch.device
) -> Curves:
    """Train and, on rank 0, write `checkpoint/`, `uids.json`, `validation.jsonl` and, last, `history.jsonl`."""
    method = method_named(config.method)
    data = TrainData(inputs.data)
    with local_checkpoints(inputs.weights) as weights:
        trainable = method.trainable(config.stage, config.model, weights)
        module = _initial_module(trainable, config, inputs)
        engine, evaluated = _engine(module, config, device)
        held_out = [data.read(uid) for uid in data.val[: config.validate_objects]] if engine.rank == 0 else []
        validate = _validator(trainable, evaluated, held_out, config) if data.val else None
        if validate is None:
            log.warning("train.%s: no validation object is left, held-out figures will be missing", config.stage)
        curves = fit(trainable, engine, data, config, checkpoints=checkpoints, validate=validate, log=report)
        final = engine.full_weights(ema=config.ema_decay > 0)
        if final is not None:
            assert evaluated is not None
            _write_results(trainable, _with_weights(evaluated, final), data, curves, out)
    return curves


def _initial_module(trainable: Trainable, config: TrainConfig, inputs: StageInputs) -> nn.Module:
    # The same on every rank: all randomness of building comes from this one seed.
    torch.manual_seed(seed_for(config.seed, config.stage, "initial weights"))
    module = trainable.build()
    if inputs.init is not None:
        with (inputs.init / "checkpoint").as_local() as folder:
            trainable.load(module, folder)
    return module


def _engine(module: nn.Module, config: TrainConfig, device: torch.device) -> tuple[Engine, nn.Module | None]:
    """The engine, and on rank 0 a whole copy of the module for validation and saving (an engine may scatter its own)."""
    rank, world = _rank_and_world()
    evaluated = copy.deepcopy(module).to(device).eval() if rank == 0 else None
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
        bf16 = config.precision == "bf16"
        return DeepSpeedEngine(module, zero_stage=config.zero_stage, micro_batch=config.micro_batch, bf16=bf16, **settings), evaluated
    return PlainEngine(module, **settings), evaluated


def _rank_and_world() -> tuple[int, int]:
    ready = torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if ready else (0, 1)


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


def _write_results(trainable: Trainable, module: nn.Module, data: TrainData, curves: Curves, out: Location) -> None:
    with tempfile.TemporaryDirectory(prefix="mvforge-checkpoint-") as scratch:
        folder = Path(scratch) / "checkpoint"
        folder.mkdir()
        trainable.save(module, folder)
        (out / "checkpoint").upload(folder)
    (out / "uids.json").write_json(data.train)
    (out / "validation.jsonl").write_text(_json_lines(curves.validation))
    (out / "history.jsonl").write_text(_json_lines(curves.history))


def _json_lines(rows: list[dict[str, float]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def fit_local(config: TrainConfig, inputs: StageInputs, out: Location, report: Log = lambda kind, row: None) -> Curves:
    """The whole stage in this process (or in every process of an open process group), without Ray; `out` must be local.

    An interrupted call continues from the checkpoints it left in `out/state`.
    """
    if not out.is_local:
        raise UserError(f"{out} is not a local folder", "training without Ray keeps its checkpoints on a local disk")
    return train_stage(config, inputs, out, LocalCheckpoints(out.local_path() / "state"), report, device_here())
