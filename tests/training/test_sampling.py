"""Samplers with a perfect denoiser recover the sample; seeds belong to objects; guidance follows its formula."""

import pytest
import torch

from infra.errors import UserError
from training.diffusion.objective import target_of
from training.diffusion.sampling import make_scheduler, sample
from training.diffusion.schedule import NoiseSchedule, ScheduleConfig

ZERO_SNR = ScheduleConfig(zero_terminal_snr=True)


def _oracle(x0: torch.Tensor, config: ScheduleConfig, prediction: str):
    schedule = NoiseSchedule(config)

    def denoise(noisy: torch.Tensor, timesteps: torch.Tensor, dropped: bool) -> torch.Tensor:
        alpha, sigma = schedule.levels(timesteps, noisy.ndim)
        noise = (noisy - alpha * x0) / sigma
        return target_of(prediction, x0, noise, alpha, sigma)

    return denoise


def _generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize(("config", "prediction"), [(ZERO_SNR, "v"), (ScheduleConfig(), "v"), (ScheduleConfig(), "eps")])
def test_a_perfect_denoiser_recovers_the_sample(sampler: str, config: ScheduleConfig, prediction: str) -> None:
    torch.manual_seed(0)
    x0, start = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    scheduler = make_scheduler(sampler, config, prediction)
    found = sample(_oracle(x0, config, prediction), start, scheduler, 10, _generators(2))
    torch.testing.assert_close(found, x0, atol=2e-3, rtol=1e-3)


def test_the_first_step_is_at_the_noisiest_level() -> None:
    seen: list[int] = []

    def denoise(noisy: torch.Tensor, timesteps: torch.Tensor, dropped: bool) -> torch.Tensor:
        seen.append(int(timesteps[0]))
        return torch.zeros_like(noisy)

    sample(denoise, torch.randn(1, 1, 4, 2, 2), make_scheduler("ddim", ZERO_SNR, "v"), 4, _generators(1))
    assert seen == [999, 749, 499, 249]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_an_object_does_not_depend_on_its_batch(sampler: str) -> None:
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4, 2, 2)

    def run(x: torch.Tensor, first: int) -> torch.Tensor:
        return sample(lambda n, t, d: 0.1 * n, x, make_scheduler(sampler, ScheduleConfig(), "v"), 5, _generators(len(x), first))

    together = run(start, 0)
    torch.testing.assert_close(together[1:], run(start[1:], 1))
    if sampler == "ddpm":  # the only one that adds noise
        assert not torch.allclose(together[1:], run(start[1:], 2))


def test_guidance_extrapolates_from_the_unconditional_prediction() -> None:
    calls: list[bool] = []

    def denoise(noisy: torch.Tensor, timesteps: torch.Tensor, dropped: bool) -> torch.Tensor:
        calls.append(dropped)
        return torch.full_like(noisy, 1.0 if dropped else 2.0)

    start = torch.randn(1, 1, 4, 2, 2)
    guided = sample(denoise, start, make_scheduler("ddim", ZERO_SNR, "v"), 3, _generators(1), guidance=3.0)
    constant = 1.0 + 3.0 * (2.0 - 1.0)
    plain = sample(lambda n, t, d: torch.full_like(n, constant), start, make_scheduler("ddim", ZERO_SNR, "v"), 3, _generators(1))
    torch.testing.assert_close(guided, plain)
    assert calls == [False, True] * 3


def test_progress_counts_every_step() -> None:
    seen: list[tuple[int, int]] = []
    scheduler = make_scheduler("ddim", ZERO_SNR, "v")
    sample(lambda n, t, d: n, torch.randn(1, 1, 4, 2, 2), scheduler, 3, _generators(1), progress=lambda *p: seen.append(p))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="zero terminal SNR"):
        make_scheduler("ddim", ZERO_SNR, "eps")
    with pytest.raises(UserError, match="unknown sampler"):
        make_scheduler("euler", ScheduleConfig(), "v")
