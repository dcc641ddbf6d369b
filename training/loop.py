"""The training loop: batches, loss, update, validation, checkpoints. Knows no method by name, no Ray and no tracking."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from infra.errors import UserError
from infra.seeds import rng_for, seed_for
from training.checkpoint import Checkpoints
from training.engine import Engine, gather_objects
from training.guard import Guard
from training.loader import Batch, Loader, pinned, to_device
from training.methods.base import Trainable, TrainObject
from training.rates import peak_memory_gb, peak_tflops, rates
from training.resume import Curves, resume, save
from training.sampler import ObjectSampler

HOW = {"identity": False}  # fields that change how a stage is trained or watched, never what it learns


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What one training stage computes. Batches are counted in objects.

    Attributes:
        method, stage: name in `METHODS` (or import path) and one of its stages; a recipe may leave them to the graph.
        model: the method's own config.
        steps: optimiser updates.
        global_batch: objects per update over all workers.
        micro_batch: objects per forward pass; random noise is drawn per micro-batch, so results do not depend on the
            number of workers as long as `global_batch` is a multiple of `micro_batch * workers`.
        lr, betas, weight_decay: AdamW; `warmup_steps` of linear warm-up, then `schedule`.
        clip: largest gradient norm; 0 = no clipping.
        ema_decay: decay of the averaged weights, which are then the ones validated and saved; 0 = no average.
        precision: fp32, or bf16 or fp16 by autocast around float32 weights. fp16 scales the loss; a step whose gradients overflow is
            left out and counted (`skipped_steps`).
        zero_stage: DeepSpeed ZeRO stage 1-3; 0 = plain data parallel.
        zero_offload: keep ZeRO's optimiser state and step on the CPU.
        checkpoint_activations: recompute activations in the backward pass instead of keeping them; same losses, less memory.
        compile: torch.compile of the trained module.
        seed: of initial weights, sample order, examples and noise.
        validate_every: steps between validations besides the ones before the first and after the last step; 0 = only those.
        validate_objects: held-out objects used.
        checkpoint_every, log_every: steps between checkpoints and between logged rows.
        keep_checkpoints, keep_best: how many of the last checkpoints are retained while training, and how many besides by
            validation loss.
        sample_every: steps between sample grids with their figures, and one after the last step; 0 = none.
        sample_objects: held-out objects shown, always the same.
        spike_factor: a loss or gradient norm above so many times its median of the last 100 steps stops the training; 0 = never.
        encode_on_the_fly: encode views while training, with the encoder of the stage's `encodes_with`, instead of reading
            what an encode step wrote.
        prefetch, readers: steps whose batches are made ahead, and threads that make them.
    """

    method: str = ""
    stage: str = ""
    model: Any = None
    steps: int = 1000
    global_batch: int = 8
    micro_batch: int = 4
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float = 1.0
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    zero_offload: bool = field(default=False, metadata=HOW)
    checkpoint_activations: bool = field(default=False, metadata=HOW)
    compile: bool = field(default=False, metadata=HOW)
    seed: int = 0
    validate_every: int = 0
    validate_objects: int = 8
    checkpoint_every: int = 100
    log_every: int = 10
    keep_checkpoints: int = field(default=2, metadata=HOW)
    keep_best: int = field(default=1, metadata=HOW)
    sample_every: int = field(default=0, metadata=HOW)
    sample_objects: int = field(default=4, metadata=HOW)
    spike_factor: float = field(default=0.0, metadata=HOW)
    encode_on_the_fly: bool = False
    prefetch: int = field(default=2, metadata=HOW)
    readers: int = field(default=2, metadata=HOW)

    def __post_init__(self) -> None:
        if 0 < self.spike_factor <= 1:
            raise UserError(
                f"train.{self.stage}: spike_factor {self.spike_factor:g} would stop at ordinary steps", "use 10, or 0 for never"
            )
        if self.prefetch < 0 or self.readers < 1:
            raise UserError(f"train.{self.stage}: prefetch {self.prefetch} with {self.readers} readers", "prefetch >= 0, readers >= 1")
        if self.zero_offload and not self.zero_stage:
            raise UserError(f"train.{self.stage}: zero_offload needs a ZeRO stage", "set zero_stage to 1, 2 or 3")

    def micro_batches(self, world: int) -> int:
        """Forward passes per worker and update. Raises UserError when the batch does not divide evenly."""
        if self.global_batch % (self.micro_batch * world):
            raise UserError(
                f"train.{self.stage}: global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch} "
                f"x {world} workers",
                f"set global_batch to a multiple of {self.micro_batch * world}, or micro_batch to a divisor of "
                f"{max(1, self.global_batch // world)}",
            )
        return self.global_batch // (self.micro_batch * world)


class Objects(Protocol):
    """Training objects by uid; `train` lists them."""

    train: list[str]

    def read(self, uid: str) -> TrainObject: ...


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of the update `step` (from 0): linear warm-up, then constant or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def fit(
    trainable: Trainable,
    engine: Engine,
    data: Objects,
    config: TrainConfig,
    *,
    checkpoints: Checkpoints,
    validate: Callable[[dict[str, Tensor]], dict[str, float]] | None = None,
    preview: Callable[[dict[str, Tensor], int], dict[str, float]] | None = None,
    log: Callable[[str, dict[str, float]], None] = lambda kind, row: None,
) -> Curves:
    """Train to `config.steps`, continuing from the newest checkpoint if there is one.

    Sample n of the run is the same object with the same random numbers at any number of workers: rank r takes the
    r-th slice of every global batch, examples are drawn by `(seed, stage, sample index, uid)`, loss noise by
    `(seed, stage, step, number of the micro-batch in the global batch)`.

    Args:
        validate: called on rank 0 with all trained weights (averaged ones if `ema_decay`), before the first step,
            every `validate_every` and after the last.
        preview: called on rank 0 with the same weights and the step, every `sample_every` and after the last; the other
            ranks wait. Given on all ranks or on none, like `validate`.
        log: called on rank 0 with `train`, `validation` or `preview` and the new row.

    Raises:
        UnstableTraining: on every rank, naming the offending batch's objects.
    """
    count = config.micro_batches(engine.world)
    sampler = ObjectSampler(data.train, config.seed)
    curves, window, start = resume(engine, config, checkpoints)
    guard = Guard(config.spike_factor, curves.usual)
    peak = peak_tflops(engine.device, config.precision)
    on_gpu = engine.device.type == "cuda"

    def make(step: int, k: int) -> Batch:
        batch = _load_batch(trainable, data, sampler, config, step, engine.rank * count + k)
        return pinned(batch) if on_gpu else batch

    def look(step: int, validating: bool, previewing: bool) -> None:
        asked = (validating and validate is not None, previewing and preview is not None)
        weights = engine.full_weights(ema=config.ema_decay > 0) if any(asked) else None
        if weights is None:
            return
        if asked[0] and validate is not None:
            curves.validation.append({"step": step, **validate(weights)})
            log("validation", curves.validation[-1])
        if asked[1] and preview is not None:
            began = time.perf_counter()
            figures = preview(weights, step)
            curves.previews.append({"step": step, **figures, "seconds": time.perf_counter() - began})
            log("preview", curves.previews[-1])

    if start == 0 and not curves.validation:
        look(0, validating=True, previewing=False)
    with Loader(make, range(start, config.steps), count, config.prefetch, config.readers).running() as loader:
        for step in range(start, config.steps):
            began = time.perf_counter()
            loaded = loader.next()
            own = [_forward_backward(trainable, engine, config, batch, step, k, count) for k, batch in enumerate(loaded.batches)]
            every = [micro for rank in gather_objects(engine, _shared(own, loaded.batches, trainable, engine.device)) for micro in rank]
            guard.check_loss(step, [(micro["terms"]["loss"], micro["uids"]) for micro in every])
            lr = lr_at(step, config)
            norm = engine.step(lr)
            figures = {**_mean([micro["terms"] for micro in every]), **_total([micro["cost"] for micro in every])}
            if not engine.skipped:
                guard.check_norm(step, norm, [uid for micro in every for uid in micro["uids"]])
                figures["grad_norm"] = norm
            figures["peak_memory_gb"] = max(micro["memory_gb"] for micro in every)
            window.append({**figures, "seconds": time.perf_counter() - began, "data_wait_s": loaded.wait_s})

            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                curves.history.append(_row(done, lr, window, engine, config, checkpoints, loader, peak))
                window.clear()
                if engine.rank == 0:
                    log("train", curves.history[-1])
            last = done == config.steps
            look(done, last or _due(done, config.validate_every), last and config.sample_every > 0 or _due(done, config.sample_every))
            if done % config.checkpoint_every == 0 and not last:
                curves.usual = guard.state()
                save(engine, config, checkpoints, done, curves, window)
    return curves


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _forward_backward(
    trainable: Trainable, engine: Engine, config: TrainConfig, batch: Batch, step: int, k: int, count: int
) -> dict[str, float | Tensor]:
    """Terms of one micro-batch, its gradient added. Nothing here waits for the device."""
    generator = torch.Generator(engine.device)
    generator.manual_seed(seed_for(config.seed, config.stage, "noise", step, engine.rank * count + k))
    half = torch.float16 if config.precision == "fp16" else torch.bfloat16
    with torch.autocast(engine.device.type, half, enabled=config.precision != "fp32"):
        loss, parts = trainable.loss(engine.module, to_device(batch, engine.device), generator, step)
    engine.backward(loss)
    terms = {**parts, "loss": loss}
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in terms.items()}


def _shared(
    terms: list[dict[str, float | Tensor]], batches: list[Batch], trainable: Trainable, device: torch.device
) -> list[dict[str, Any]]:
    """What all ranks learn of this rank's micro-batches: terms, objects, cost, memory."""
    cost = getattr(trainable, "cost", None)
    memory = peak_memory_gb(device)
    return [
        {"terms": values, "uids": list(batch["uid"]), "cost": cost(batch) if cost is not None else {}, "memory_gb": memory}
        for values, batch in zip(_as_floats(terms), batches, strict=True)
    ]


def _as_floats(rows: list[dict[str, float | Tensor]]) -> list[dict[str, float]]:
    """Tensors as plain numbers, with a single wait for the device."""
    tensors = [value.reshape(()).double() for row in rows for value in row.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [{name: next(numbers) if isinstance(value, Tensor) else float(value) for name, value in row.items()} for row in rows]


def _row(
    done: int,
    lr: float,
    window: list[dict[str, float]],
    engine: Engine,
    config: TrainConfig,
    checkpoints: Checkpoints,
    loader: Loader,
    peak: float | None,
) -> dict[str, float]:
    """The logged row of the steps in `window`; all ranks must call."""
    row = {"step": done, "lr": lr, **_mean(window), **engine.figures()}
    if (drift := engine.ema_drift()) is not None:
        row["ema_drift"] = drift
    seconds = max(row["seconds"], 1e-9)
    row["samples_per_s"] = config.global_batch / seconds
    row |= rates(row.pop("flops", 0.0), row.pop("tokens", 0.0), seconds, engine.world, peak)
    if (speed := loader.take_speed()) is not None:
        row["loader_samples_per_s"] = speed * config.micro_batch * engine.world
    return row | checkpoints.timings()


def _load_batch(trainable: Trainable, data: Objects, sampler: ObjectSampler, config: TrainConfig, step: int, number: int) -> Batch:
    examples = [
        trainable.example(data.read(uid), rng_for(config.seed, config.stage, "example", index, uid))
        for index, uid in sampler.micro_batch(step, config.global_batch, config.micro_batch, number)
    ]
    return trainable.collate(examples)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average per name over the rows that have it."""
    names = {name: None for row in rows for name in row}
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _total(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) for name in {name: None for row in rows for name in row}}
