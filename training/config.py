"""Settings of one training stage, typed; importing this file costs nothing."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infra.errors import UserError

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
