"""Noise schedules against diffusers, the published terminal figures, and closed forms."""

import pytest
import torch
from diffusers import DDPMScheduler

from training.diffusion.schedule import NoiseSchedule, ScheduleConfig


@pytest.mark.parametrize(("kind", "terminal"), [("linear", 0.0397), ("scaled_linear", 0.0683)])
def test_terminal_alpha_is_the_published_one(kind: str, terminal: float) -> None:
    assert float(NoiseSchedule(ScheduleConfig(kind)).alpha[-1]) == pytest.approx(terminal, abs=5e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_levels_equal_diffusers(kind: str, zero_snr: bool) -> None:
    schedule = NoiseSchedule(ScheduleConfig(kind, zero_terminal_snr=zero_snr))
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=kind, rescale_betas_zero_snr=zero_snr)
    torch.testing.assert_close(schedule.alpha.square(), theirs.alphas_cumprod, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(schedule.alpha.square() + schedule.sigma.square(), torch.ones(1000))


def test_zero_terminal_snr_ends_at_nothing_and_keeps_the_start() -> None:
    plain, zero = NoiseSchedule(ScheduleConfig()), NoiseSchedule(ScheduleConfig(zero_terminal_snr=True))
    assert float(zero.alpha[-1]) == 0.0 and float(zero.snr(torch.tensor([999]))) == 0.0
    assert float(zero.alpha[0]) == pytest.approx(float(plain.alpha[0]), rel=1e-6)
    assert bool((zero.alpha.diff() < 0).all())


def test_levels_broadcast_per_object() -> None:
    alpha, sigma = NoiseSchedule(ScheduleConfig()).levels(torch.tensor([0, 999]), 5)
    assert alpha.shape == sigma.shape == (2, 1, 1, 1, 1) and alpha[0] > alpha[1] and sigma[0] < sigma[1]


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine"):
        NoiseSchedule(ScheduleConfig("cosine"))
