"""Two updates of a stage at its real shapes on made-up data: what it will need and how long it will take, before it is run."""

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.rig_views import RigViews
from rendering.view_set import ViewSet
from training.checkpoint import NoCheckpoints
from training.config import TrainConfig
from training.engine import gather_objects, trained_parameters
from training.lookup import method_named
from training.loop import fit
from training.memory import free_bytes, within_memory
from training.methods.base import Stage, Trainable, TrainObject
from training.rates import peak_memory_gb
from training.stage import initial_module, stage_engine

UPDATES = 2
DISTINCT_OBJECTS = 4  # in memory at once; samples repeat them
GRADIENT_AND_ADAM_BYTES, AVERAGE_BYTES, COPY_BYTES = 12, 4, 4  # float32: gradient and two moments; EMA; the copy for validation

MEND = "lower micro_batch, set checkpoint_activations=true or zero_offload=true, or try it on a larger device"


@dataclass(frozen=True)
class Trial:
    """What one of `workers` equal processes does in an update, as measured on this one.

    Attributes:
        device, processes: where it ran, and how many processes shared the batch.
        workers: processes the recipe asks for; more than `processes` means that ZeRO's shares and the exchange of gradients
            were not those of the recipe.
        parameters, trained_parameters: weights in all, and those that are trained.
        objects: per update here; micro_batches of micro_batch objects on every process.
        first_step_s, step_s: the first update warms up (allocations, compilation, kernels); the second counts.
        samples_per_s: objects, in the second update.
        tflops_per_device, mfu: None where the method counts no operations, or the device's peak is not known.
        peak_memory_gb: of the device's allocator in GiB, or of the whole process on a CPU; the largest over the processes.
        steps, projected_h: updates of the stage, and hours at `step_s`; without validation, checkpoints and waiting for data.
    """

    stage: str
    device: str
    processes: int
    workers: int
    precision: str
    zero_stage: int
    parameters: int
    trained_parameters: int
    objects: int
    micro_batch: int
    micro_batches: int
    first_step_s: float
    step_s: float
    samples_per_s: float
    tflops_per_device: float | None
    mfu: float | None
    peak_memory_gb: float
    steps: int
    projected_h: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class MadeUpObjects:
    """Objects of noise in the shapes of a stage, instead of stored ones."""

    def __init__(self, trainable: Trainable, stage: Stage, rig: RigViews, resolution: int) -> None:
        self.train = [f"made-up-{n}" for n in range(DISTINCT_OBJECTS)]
        self._objects = {uid: _made_up(trainable, stage, uid, rig, resolution) for uid in self.train}

    def read(self, uid: str) -> TrainObject:
        return self._objects[uid]


def _made_up(trainable: Trainable, stage: Stage, uid: str, rig: RigViews, resolution: int) -> TrainObject:
    rng = rng_for("made up", uid)
    side = resolution if stage.pictures else 0
    rgba = rng.integers(0, 256, (len(rig), side, side, 4), np.uint8)
    views = ViewSet(uid, rgba, rig.camera, rig.roles, rig.azimuth_deg, rig.elevation_deg, rig.radius, rig.name, "made up")
    if stage.encodes_with is None:
        return TrainObject(views)
    synthetic = getattr(trainable, "synthetic", None)
    if synthetic is None:
        raise UserError(
            f"stage {stage.name} trains on encoded arrays and its method makes up none", "give its Trainable a method `synthetic`"
        )
    return TrainObject(views, synthetic(views, rng))


def try_stage(config: TrainConfig, rig: RigViews, resolution: int, workers: int, device: torch.device) -> Trial:
    """Two updates with the engine, precision and sizes of `config`; nothing is read and nothing is written.

    One process stands for one of `workers`; in an open process group every process does.

    Args:
        rig, resolution: views of the made-up objects.

    Raises:
        UserError: memory does not suffice, the sizes do not fit each other, or the method makes up no arrays.
    """
    method = method_named(config.method)
    stages = {each.name: each for each in method.stages}
    if config.stage not in stages:
        raise UserError(f"method {config.method} has no stage '{config.stage}'", f"its stages are {', '.join(stages)}")
    stage = stages[config.stage]
    count = config.micro_batches(workers)
    with within_memory(device, f"train.{config.stage}", MEND):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainable = method.trainable(config.stage, config.model, {})
        data = MadeUpObjects(trainable, stage, rig, resolution)
        module = initial_module(trainable, config, None)
        weights = {name: parameter.numel() for name, parameter in module.named_parameters()}
        trained = sum(parameter.numel() for parameter in trained_parameters(module).values())
        _refuse_hopeless(config, trained, sum(weights.values()), device)
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        small = replace(
            config,
            steps=UPDATES,
            global_batch=config.micro_batch * count * processes,
            log_every=1,
            validate_every=0,
            sample_every=0,
            spike_factor=0.0,
        )
        engine, _ = stage_engine(module, small, device)
        first, second = fit(trainable, engine, data, small, checkpoints=NoCheckpoints()).history
        memory = max(gather_objects(engine, peak_memory_gb(device)))
    return Trial(
        stage=config.stage,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        processes=engine.world,
        workers=workers,
        precision=config.precision,
        zero_stage=config.zero_stage,
        parameters=sum(weights.values()),
        trained_parameters=trained,
        objects=small.global_batch,
        micro_batch=config.micro_batch,
        micro_batches=count,
        first_step_s=first["seconds"],
        step_s=second["seconds"],
        samples_per_s=second["samples_per_s"],
        tflops_per_device=second.get("tflops_per_device"),
        mfu=second.get("mfu"),
        peak_memory_gb=memory,
        steps=config.steps,
        projected_h=config.steps * second["seconds"] / 3600.0,
    )


def _refuse_hopeless(config: TrainConfig, trained: int, parameters: int, device: torch.device) -> None:
    """What is needed beside the weights, activations not counted, is compared with what is free before it is asked for."""
    shares = int(os.environ.get("WORLD_SIZE", "1")) if config.zero_stage else 1
    per_weight = 0 if config.zero_offload else GRADIENT_AND_ADAM_BYTES + (AVERAGE_BYTES if config.ema_decay else 0)
    weights = 4 * parameters if device.type == "cuda" else 0  # on the CPU they are there already
    needed = trained * per_weight / shares + COPY_BYTES * parameters + weights
    if needed > (free := free_bytes(device)):
        raise UserError(
            f"train.{config.stage} needs at least {needed / 2**30:.1f} GiB for {trained / 1e6:.0f} M weights before any activation, "
            f"{free / 2**30:.1f} GiB are free on this {device.type}",
            MEND,
        )
