"""Noise schedule: x_t = alpha_t x0 + sigma_t eps, alpha_t^2 + sigma_t^2 = 1, integer t in [0, T)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise levels.

    Attributes:
        kind: `linear` betas (MVDiffusion++ §4.2, "as suggested by Zero123++") or `scaled_linear` (native to SD).
        beta_start, beta_end: the ends; the paper gives none, these are the published ones of Zero123++ and SD.
        timesteps: T.
        zero_terminal_snr: rescale so that nothing of x0 is left at T-1 (arXiv 2305.08891); not in the paper, only for v.
    """

    kind: str = "linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: int = 1000
    zero_terminal_snr: bool = False


class NoiseSchedule:
    """alpha_t and sigma_t as lookup tables. Raises ValueError for an unknown kind."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        alpha = torch.cumprod(1.0 - _betas(config), 0).sqrt()
        if config.zero_terminal_snr:
            # Shift so that the last value is 0, then scale so that the first is unchanged.
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        self.alpha = alpha.float()
        self.sigma = (1.0 - alpha.square()).sqrt().float()

    def levels(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t for integer `timesteps` `[B]`, shaped `[B, 1, ...]` with `ndim` axes."""
        shape = (-1, *[1] * (ndim - 1))
        index = timesteps.long()
        return self.alpha.to(index.device)[index].reshape(shape), self.sigma.to(index.device)[index].reshape(shape)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (alpha_t / sigma_t)^2, `[B]`."""
        alpha, sigma = self.levels(timesteps, 1)
        return (alpha / sigma).square()


def _betas(config: ScheduleConfig) -> Tensor:
    if config.kind == "linear":
        return torch.linspace(config.beta_start, config.beta_end, config.timesteps, dtype=torch.float64)
    if config.kind == "scaled_linear":
        return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.timesteps, dtype=torch.float64).square()
    raise ValueError(f"unknown beta schedule '{config.kind}'; known: linear, scaled_linear")
