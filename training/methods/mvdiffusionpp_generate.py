"""MVDiffusion++ at work: joint sampling of all views of an object (§6)."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import UserError
from infra.seeds import seed_for
from rendering.cameras import orbit
from rendering.view_set import TARGET, ViewSet
from training.batch import resized, straight_rgba
from training.diffusion.sampling import USUAL_STEPS, make_scheduler, sample
from training.diffusion.schedule import ScheduleConfig
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_encode import VIEWS_AT_ONCE, ViewEncoder
from training.nn.unet import MultiViewUNet

Progress = Callable[[int, int], None]


class ViewGenerator:
    """A trained model ready to make views."""

    def __init__(self, config: Config, encoder: ViewEncoder, unet: MultiViewUNet, prediction: str, schedule: ScheduleConfig) -> None:
        self.config = config
        self.encoder = encoder
        self.unet = unet.to(encoder.device).eval().requires_grad_(False)
        self.prediction = prediction
        self.schedule = schedule

    def generate(
        self,
        conditions: ViewSet,
        seed: int,
        steps: int = USUAL_STEPS["ddpm"],
        sampler: str = "ddpm",
        guidance: float = 1.0,
        targets: Iterable[int] | None = None,
        progress: Progress | None = None,
    ) -> ViewSet:
        """Target views in the frame where the reference (the first condition view) has azimuth 0.

        Args:
            conditions: 1 to `max_conditions` views of any role and size; their cameras are not looked at.
            seed: with `conditions.uid` fixes the result; `facts["noise_seed"]` is what the two come to.
            steps, sampler, guidance, targets, progress: as in `sample`.

        Raises:
            UserError: no condition or too many, an unknown sampler or target.
        """
        wanted = self.wanted(targets)
        noise_seed = seed_for(seed, conditions.uid, "start")
        generator = torch.Generator().manual_seed(noise_seed)
        rgba = self.sample(conditions.rgba, generator, steps, sampler, guidance, wanted, progress)
        facts = {
            "reference_azimuth_deg": float(conditions.azimuth_deg[0]),
            "num_conditions": len(conditions),
            "seed": seed,
            "noise_seed": noise_seed,
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
        }
        return canonical_views(self.config, conditions.uid, rgba, wanted, facts)

    def wanted(self, targets: Iterable[int] | None) -> np.ndarray:
        """Canonical indices A * e + a, all of them for None. Raises UserError for an unknown one."""
        total = self.config.num_targets
        found = np.arange(total) if targets is None else np.asarray(list(targets), int)
        if not len(found) or found.min() < 0 or found.max() >= total or len(set(found.tolist())) < len(found):
            raise UserError(f"views {found.tolist()} are not all different and in 0..{total - 1}", "name existing target views")
        return found

    def sample(
        self,
        conditions: np.ndarray,
        generator: torch.Generator,
        steps: int = USUAL_STEPS["ddpm"],
        sampler: str = "ddpm",
        guidance: float = 1.0,
        targets: Iterable[int] | None = None,
        progress: Progress | None = None,
        decode_at_once: int = VIEWS_AT_ONCE,
    ) -> np.ndarray:
        """The one way from pictures to views: uint8 straight alpha `[K, H, W, 4]`, K in 1 to `max_conditions`, to `[V, H, W, 4]`.

        Args:
            generator: of the starting noise and of the noise that DDPM adds. One on the CPU gives the same noise on any device.
            sampler: `ddpm` (the paper, 75 steps), `ddim` or `dpm++` (20 to 30 steps do).
            guidance: classifier-free guidance scale, 1 = off.
            targets: canonical indices A * e + a to make; None makes all. A subset starts from the same noise.
            progress: called with (steps done, steps in all).
            decode_at_once: views that pass the VAE's decoder together.

        Raises:
            UserError: no condition or too many, an unknown sampler or target.
        """
        most = self.config.max_conditions
        if not 1 <= len(conditions) <= most:
            raise UserError(f"{len(conditions)} condition pictures given", f"give 1 to {most} pictures of the object")
        if steps < 1:
            raise UserError(f"{steps} sampling steps", "take at least one")
        latents = self._latents(conditions, self.wanted(targets), generator, steps, sampler, guidance, progress)
        with torch.no_grad():
            return np.concatenate([straight_rgba(*self.encoder.vae.decode(part)) for part in latents.split(decode_at_once)])

    @torch.no_grad()
    def _latents(
        self,
        conditions: np.ndarray,
        wanted: np.ndarray,
        generator: torch.Generator,
        steps: int,
        sampler: str,
        guidance: float,
        progress: Progress | None,
    ) -> Tensor:
        config, device = self.config, self.encoder.device
        pictures = self.encoder.pictures(resized(conditions, config.resolution))
        count = len(pictures)
        slots = torch.from_numpy(np.concatenate([np.arange(count), config.max_conditions + wanted])).to(device)
        given, blank = self.encoder.latents(pictures), self.encoder.placeholder()
        tokens = self.encoder.image_tokens(pictures).flatten(0, -2)[None]
        condition_latents = torch.cat([given, blank.expand(len(wanted), *blank.shape)])[None]
        dropped_latents = blank.expand_as(condition_latents)
        is_condition = (slots < config.max_conditions)[None]
        # Noise is drawn for every slot: the same seed starts the same views for any subset and any number of conditions.
        noise = torch.randn(config.num_slots, *blank.shape, generator=generator, device=generator.device)
        start = noise[slots.to(noise.device)].to(device)[None]

        def denoise(noisy: Tensor, timesteps: Tensor, dropped: bool) -> Tensor:
            latents, words = (dropped_latents, torch.zeros_like(tokens)) if dropped else (condition_latents, tokens)
            return self.unet(noisy, latents, is_condition, timesteps, slots[None], words)

        scheduler = make_scheduler(sampler, self.schedule, self.prediction)
        every = sample(denoise, start, scheduler, steps, [generator], guidance, progress)
        return every[0, count:]  # outputs of condition views are discarded


def canonical_views(config: Config, uid: str, rgba: np.ndarray, wanted: np.ndarray, facts: dict[str, Any]) -> ViewSet:
    """Pictures of canonical targets `wanted` as views with cameras; azimuth 0 is the reference view's."""
    azimuth = (wanted % config.num_azimuths) * (360.0 / config.num_azimuths)
    elevation = np.asarray(config.elevations_deg, float)[wanted // config.num_azimuths]
    return ViewSet(
        uid=uid,
        rgba=rgba,
        camera=orbit(azimuth, elevation, config.radius, config.fov_deg),
        roles=(TARGET,) * len(wanted),
        azimuth_deg=azimuth,
        elevation_deg=elevation,
        radius=np.full(len(wanted), config.radius),
        rig=config.rig,
        origin="mvdiffusionpp",
        facts=facts,
    )
