"""From noise to latents with diffusers' schedulers: DDPM (the paper's), DDIM and DPM-Solver++."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from infra.errors import UserError
from training.diffusion.schedule import ScheduleConfig

SAMPLERS = ("ddpm", "ddim", "dpm++")
# Steps that do: the paper's for DDPM (MVDiffusion++ §6), for the others the usual 20 to 30 [C].
USUAL_STEPS = {"ddpm": 75, "ddim": 25, "dpm++": 25}
Denoise = Callable[[Tensor, Tensor, bool], Tensor]


def make_scheduler(sampler: str, schedule: ScheduleConfig, prediction: str) -> Any:
    """A diffusers scheduler. Trailing spacing, no clipping; DDPM variance fixed_small (the paper states none of these).

    Raises:
        UserError: unknown sampler, or eps prediction with zero terminal SNR, where it is undefined.
    """
    if prediction == "eps" and schedule.zero_terminal_snr:
        raise UserError("eps prediction is undefined at zero terminal SNR", "use v, or set zero_terminal_snr to false")
    settings: dict[str, Any] = {
        "num_train_timesteps": schedule.timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.kind,
        "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[prediction],
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }
    if sampler == "ddpm":
        return DDPMScheduler(**settings, clip_sample=False, variance_type="fixed_small")
    if sampler == "ddim":
        return DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=True)
    if sampler == "dpm++":
        return DPMSolverMultistepScheduler(**settings, algorithm_type="dpmsolver++", final_sigmas_type="zero", euler_at_final=True)
    raise UserError(f"unknown sampler '{sampler}'", f"use one of {', '.join(SAMPLERS)}")


@torch.no_grad()
def sample(
    denoise: Denoise,
    start: Tensor,
    scheduler: Any,
    steps: int,
    generators: list[torch.Generator],
    guidance: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise `start` `[B, V, C, h, w]`, all views of an object together.

    Args:
        denoise: (noisy, timesteps `[B]`, dropped) -> prediction; `dropped` asks for the prediction without condition.
        generators: one per object, for the noise that DDPM adds; results of an object do not depend on its batch.
        guidance: classifier-free guidance scale, u + w (c - u); 1 calls the denoiser once per step.
        progress: called with (steps done, steps in all).
    """
    scheduler.set_timesteps(steps, device=start.device)
    current = start * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, 1):
        timesteps = torch.full((len(current),), int(timestep), device=current.device)
        prediction = denoise(scheduler.scale_model_input(current, timestep), timesteps, False)
        if guidance != 1.0:
            without = denoise(current, timesteps, True)
            prediction = without + guidance * (prediction - without)
        current = scheduler.step(prediction, timestep, current, generator=generators).prev_sample
        if progress is not None:
            progress(done, steps)
    return current
