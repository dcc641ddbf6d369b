"""eps, v and x0 say the same thing: closed-form identities, and diffusers' own formulas."""

import pytest
import torch
from diffusers import DDPMScheduler

from training.diffusion.objective import noise_from, noised, target_of, x0_from
from training.diffusion.schedule import NoiseSchedule, ScheduleConfig

TIMESTEPS = torch.tensor([0, 250, 500, 999])


def _setting() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x0, noise = torch.randn(4, 3, 2, 2, 2), torch.randn(4, 3, 2, 2, 2)
    return x0, noise, *NoiseSchedule(ScheduleConfig()).levels(TIMESTEPS, 5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_perfect_prediction_gives_back_both_parts(prediction: str) -> None:
    x0, noise, alpha, sigma = _setting()
    x_t = noised(x0, noise, alpha, sigma)
    output = target_of(prediction, x0, noise, alpha, sigma)
    torch.testing.assert_close(x0_from(prediction, output, x_t, alpha, sigma), x0, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(noise_from(prediction, output, x_t, alpha, sigma), noise, atol=1e-5, rtol=1e-4)


def test_noising_and_velocity_equal_diffusers() -> None:
    x0, noise, alpha, sigma = _setting()
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    torch.testing.assert_close(noised(x0, noise, alpha, sigma), theirs.add_noise(x0, noise, TIMESTEPS), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(target_of("v", x0, noise, alpha, sigma), theirs.get_velocity(x0, noise, TIMESTEPS), atol=1e-5, rtol=1e-4)


def test_v_is_noise_at_no_noise_and_minus_x0_at_pure_noise() -> None:
    x0, noise = torch.randn(1, 2), torch.randn(1, 2)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    assert torch.equal(target_of("v", x0, noise, one, zero), noise) and torch.equal(target_of("v", x0, noise, zero, one), -x0)


def test_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="x0"):
        target_of("x0", *_setting())
