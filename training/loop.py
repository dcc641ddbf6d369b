"""The training loop: batches, loss, update, validation, checkpoints. Knows no method by name, no Ray and no tracking."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from infra.errors import UserError
from infra.seeds import rng_for, seed_for
from training.checkpoint import Checkpoints, read_state, write_state
from training.engine import Engine, gather_objects
from training.methods.base import Trainable, TrainObject
from training.sampler import ObjectSampler


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What one training stage computes. Batches are counted in objects.

    Attributes:
        method, stage: name in `METHODS` and one of its stages.
        model: the method's own config.
        steps: optimiser updates.
        global_batch: objects per update over all workers.
        micro_batch: objects per forward pass; random noise is drawn per micro-batch, so results do not depend on the
            number of workers as long as `global_batch` is a multiple of `micro_batch * workers`.
        lr, betas, weight_decay: AdamW; `warmup_steps` of linear warm-up, then `schedule`.
        clip: largest gradient norm; 0 = no clipping.
        ema_decay: decay of the averaged weights, which are then the ones validated and saved; 0 = no average.
        precision: fp32, or bf16 by autocast around float32 weights.
        zero_stage: DeepSpeed ZeRO stage 1-3; 0 = plain data parallel.
        seed: of initial weights, sample order, examples and noise.
        validate_every: steps between validations besides the ones before the first and after the last step; 0 = only those.
        validate_objects: held-out objects used.
        checkpoint_every, log_every: steps between checkpoints and between logged rows.
    """

    method: str
    stage: str
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
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    seed: int = 0
    validate_every: int = 0
    validate_objects: int = 8
    checkpoint_every: int = 100
    log_every: int = 10

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


class NonFiniteTraining(Exception):
    """Loss or gradient became NaN or infinite; nothing after `step` was saved."""

    def __init__(self, step: int, what: str, uids: list[str]) -> None:
        super().__init__(f"{what} is not finite at step {step}; objects of the batch: {', '.join(uids)}")
        self.step, self.what, self.uids = step, what, uids

    def __reduce__(self) -> tuple:
        return type(self), (self.step, self.what, self.uids)


@dataclass
class Curves:
    """Rows logged so far: training figures (averages since the row before) and validations."""

    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


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
    log: Callable[[str, dict[str, float]], None] = lambda kind, row: None,
) -> Curves:
    """Train to `config.steps`, continuing from the newest checkpoint if there is one.

    Sample n of the run is the same object with the same random numbers at any number of workers: rank r takes the
    r-th slice of every global batch, examples are drawn by `(seed, stage, sample index, uid)`, loss noise by
    `(seed, stage, step, number of the micro-batch in the global batch)`.

    Args:
        validate: called on rank 0 with all trained weights (averaged ones if `ema_decay`), before the first step,
            every `validate_every` and after the last.
        log: called on rank 0 with `train` or `validation` and the new row.

    Raises:
        NonFiniteTraining: on every rank, naming the offending batch's objects.
    """
    count = config.micro_batches(engine.world)
    sampler = ObjectSampler(data.train, config.seed)
    curves, window, start = _resume(engine, config, checkpoints)

    def load_step(step: int) -> list[dict[str, Any]]:
        return [_load_batch(trainable, data, sampler, config, step, engine.rank * count + k) for k in range(count)]

    def check_held_out(step: int) -> None:
        weights = engine.full_weights(ema=config.ema_decay > 0) if validate is not None else None
        if weights is not None and validate is not None:
            row = {"step": step, **validate(weights)}
            curves.validation.append(row)
            log("validation", row)

    if start == 0 and not curves.validation:
        check_held_out(0)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as background:
        upcoming: Future | None = background.submit(load_step, start) if start < config.steps else None
        for step in range(start, config.steps):
            began = time.perf_counter()
            assert upcoming is not None
            batches = upcoming.result()
            waited = time.perf_counter() - began
            upcoming = background.submit(load_step, step + 1) if step + 1 < config.steps else None

            terms: dict[str, float] = {}
            broken: list[str] = []
            for k, batch in enumerate(batches):
                generator = torch.Generator(engine.device)
                generator.manual_seed(seed_for(config.seed, config.stage, "noise", step, engine.rank * count + k))
                with torch.autocast(engine.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    loss, parts = trainable.loss(engine.module, to_device(batch, engine.device), generator, step)
                figures = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in parts.items()}
                figures["loss"] = float(loss.detach())
                if not math.isfinite(figures["loss"]):
                    broken += batch["uid"]
                for name, value in figures.items():
                    terms[name] = terms.get(name, 0.0) + value / count
                engine.backward(loss)
            terms = _across_ranks(engine, step, terms, broken)

            lr = lr_at(step, config)
            norm = engine.step(lr)
            if not math.isfinite(norm):
                uids = [uid for number in range(count * engine.world) for _, uid in _samples(sampler, config, step, number)]
                raise NonFiniteTraining(step, "the gradient", uids)
            window.append({**terms, "grad_norm": norm, "seconds": time.perf_counter() - began, "data_wait_s": waited})

            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                row = {"step": done, "lr": lr, **_mean(window)}
                row["samples_per_s"] = config.global_batch / max(row["seconds"], 1e-9)
                window.clear()
                curves.history.append(row)
                if engine.rank == 0:
                    log("train", row)
            if done == config.steps or (config.validate_every and done % config.validate_every == 0):
                check_held_out(done)
            if done % config.checkpoint_every == 0 and done < config.steps:
                _save(engine, config, checkpoints, done, curves, window)
    return curves


def _samples(sampler: ObjectSampler, config: TrainConfig, step: int, number: int) -> list[tuple[int, str]]:
    return sampler.micro_batch(step, config.global_batch, config.micro_batch, number)


def _load_batch(trainable: Trainable, data: Objects, sampler: ObjectSampler, config: TrainConfig, step: int, number: int) -> dict[str, Any]:
    examples = [
        trainable.example(data.read(uid), rng_for(config.seed, config.stage, "example", index, uid))
        for index, uid in _samples(sampler, config, step, number)
    ]
    return trainable.collate(examples)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors inside dictionaries, lists and tuples moved to `device`; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _across_ranks(engine: Engine, step: int, terms: dict[str, float], broken: list[str]) -> dict[str, float]:
    """Terms averaged over the ranks that have them. Raises on all ranks when any rank's loss is not finite."""
    shared = gather_objects(engine, (terms, broken))
    if uids := [uid for _, names in shared for uid in names]:
        raise NonFiniteTraining(step, "the loss", uids)
    return _mean([values for values, _ in shared])


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average per name over the rows that have it."""
    names = {name: None for row in rows for name in row}
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _save(engine: Engine, config: TrainConfig, checkpoints: Checkpoints, step: int, curves: Curves, window: list[dict[str, float]]) -> None:
    def write(folder: Any) -> None:
        engine.save(folder)
        if engine.rank == 0:
            write_state(
                folder,
                {
                    "step": step,
                    "world": engine.world,
                    "zero_stage": config.zero_stage,
                    "history": curves.history,
                    "validation": curves.validation,
                    "window": window,
                },
            )

    checkpoints.save(step, write)


def _resume(engine: Engine, config: TrainConfig, checkpoints: Checkpoints) -> tuple[Curves, list[dict[str, float]], int]:
    """Curves, the unlogged rows and the next step; from nothing when there is no checkpoint."""
    with checkpoints.latest() as folder:
        if folder is None:
            return Curves(), [], 0
        state = read_state(folder)
        if config.zero_stage and state["world"] != engine.world:
            # ZeRO shards fit only the number of ranks that wrote them.
            raise UserError(
                f"train.{config.stage} was interrupted with {state['world']} workers and cannot go on with {engine.world}",
                f"run again with {state['world']} workers, or redo it with --rerun train.{config.stage}",
            )
        engine.load(folder)
        return Curves(state["history"], state["validation"]), state["window"], state["step"]
