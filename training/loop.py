"""The training loop: batches, loss, update, validation, checkpoints. Knows no method by name, no Ray and no tracking."""

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from infra.seeds import rng_for, seed_for
from training.checkpoint import Checkpoints
from training.config import TrainConfig
from training.engine import Engine, gather_objects
from training.guard import Guard
from training.loader import Batch, Loader, pinned, to_device
from training.methods.base import Trainable, TrainObject
from training.notice import LEAVE, SAVE, Asked, Left, nothing
from training.rates import peak_memory_gb, peak_tflops, rates
from training.resume import Curves, resume, save
from training.sampler import ObjectSampler


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
    asked: Asked = nothing,
    resumed: Callable[[Curves], None] = lambda curves: None,
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
        resumed: called on rank 0 with the rows of the checkpoint that the training goes on from, if there is one.
        asked: see `training.notice`; what one rank is asked for, all do after the same step, since they tell each other with the terms
            of the loss.

    Raises:
        Left: on every rank, when a notice asked for it; a validation that was due then is made when the training goes on.
        UnstableTraining: on every rank, naming the offending batch's objects.
    """
    count = config.micro_batches(engine.world)
    sampler = ObjectSampler(data.train, config.seed)
    curves, window, start = resume(engine, config, checkpoints)
    if start and engine.rank == 0:
        resumed(curves)
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
    elif start:
        look(start, *_owed(start, curves, config))
    with Loader(make, range(start, config.steps), count, config.prefetch, config.readers).running() as loader:
        for step in range(start, config.steps):
            began = time.perf_counter()
            loaded = loader.next()
            own = [_forward_backward(trainable, engine, config, batch, step, k, count) for k, batch in enumerate(loaded.batches)]
            every = [
                micro for rank in gather_objects(engine, _shared(own, loaded.batches, trainable, engine.device, asked())) for micro in rank
            ]
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
            wish = max(micro["asked"] for micro in every)
            if wish != LEAVE:
                look(done, last or _due(done, config.validate_every), last and config.sample_every > 0 or _due(done, config.sample_every))
            if wish == LEAVE or not last and (wish == SAVE or done % config.checkpoint_every == 0):
                curves.usual = guard.state()
                save(engine, config, checkpoints, done, curves, window)
            if wish == LEAVE:
                checkpoints.close()
                raise Left(done)
    return curves


def _owed(step: int, curves: Curves, config: TrainConfig) -> tuple[bool, bool]:
    """Whether validation and preview of a step that the training goes on from are still to be made: it left in a hurry then."""
    last = step == config.steps
    validated, previewed = (bool(rows) and rows[-1]["step"] == step for rows in (curves.validation, curves.previews))
    validating = (last or _due(step, config.validate_every)) and not validated
    return validating, (last and config.sample_every > 0 or _due(step, config.sample_every)) and not previewed


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
    terms: list[dict[str, float | Tensor]], batches: list[Batch], trainable: Trainable, device: torch.device, asked: int
) -> list[dict[str, Any]]:
    """What all ranks learn of this rank's micro-batches: terms, objects, cost, memory; and what this rank is asked for."""
    cost = getattr(trainable, "cost", None)
    memory = peak_memory_gb(device)
    common = {"memory_gb": memory, "asked": asked}
    return [
        {"terms": values, "uids": list(batch["uid"]), "cost": cost(batch) if cost is not None else {}, **common}
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
