"""Memory of one GPU while a stage trains, part by part, by ZeRO stage (Rajbhandari et al. 2020, arXiv 1910.02054, section 5)."""

from dataclasses import dataclass

from training.config import TrainConfig

# Bytes a weight: master weights stay float32 here, so do gradients; AdamW has two moments; the average is a fourth copy.
WEIGHT, GRADIENT, MOMENTS, AVERAGE = 4, 4, 8, 4
# Autocast keeps half-precision copies of the weights during forward and backward.
CAST = 2
# Activations are a lower bound; what allocators and buffers add to it (docs/training.md: plan 1.3 to 1.6 times as much).
OVERHEAD = 1.6


@dataclass(frozen=True)
class StageMemory:
    """10^9 bytes on one GPU (or one process on a CPU).

    Attributes:
        parameters, gradients, optimiser, ema: after ZeRO's division.
        cast: half-precision copies of the weights that autocast makes.
        activations: of one micro-batch, a lower bound; None where the method estimates none.
        total_low: the sum; activations count 0 where there is no estimate.
        total_high: the same with activations times `OVERHEAD`.
    """

    parameters: float
    gradients: float
    optimiser: float
    ema: float
    cast: float
    activations: float | None

    @property
    def state(self) -> float:
        return self.parameters + self.gradients + self.optimiser + self.ema + self.cast

    @property
    def total_low(self) -> float:
        return self.state + (self.activations or 0.0)

    @property
    def total_high(self) -> float:
        return self.state + OVERHEAD * (self.activations or 0.0)


def stage_memory(parameters: int, config: TrainConfig, workers: int, activation_bytes: float | None) -> StageMemory:
    """Memory of one of `workers` ranks.

    Args:
        parameters: trained weights.
        activation_bytes: of one object in half precision; None = not estimated.
    """
    stage = config.zero_stage
    optimiser = 0.0 if config.zero_offload else MOMENTS / (workers if stage >= 1 else 1)
    average = (AVERAGE if config.ema_decay else 0) / (workers if stage >= 1 else 1)
    gradients = GRADIENT / (workers if stage >= 2 else 1)
    weights = WEIGHT / (workers if stage >= 3 else 1)
    cast = 0 if config.precision == "fp32" else CAST
    activations = None
    if activation_bytes is not None and not config.checkpoint_activations:
        activations = activation_bytes * config.micro_batch * (2 if config.precision == "fp32" else 1) / 1e9
    billion = parameters / 1e9
    return StageMemory(billion * weights, billion * gradients, billion * optimiser, billion * average, billion * cast, activations)
