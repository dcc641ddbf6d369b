"""MVDiffusion++ at work: the generator folder, and joint sampling of all views of an object (§6)."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from infra.errors import UserError
from infra.seeds import seed_for
from rendering.cameras import orbit
from rendering.views import TARGET, ViewSet
from training.batch import resized, straight_rgba
from training.diffusion.sampling import make_scheduler, sample
from training.diffusion.schedule import ScheduleConfig
from training.methods.base import Stage
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_encode import VIEWS_AT_ONCE, ViewEncoder
from training.methods.mvdiffusionpp_unet import load_unet, save_unet, stage_schedule
from training.methods.mvdiffusionpp_vae import open_vae
from training.nn.conditioning import ImageTokens, image_encoder
from training.nn.unet import MultiViewUNet
from training.nn.vae import MaskAwareVAE

FORMAT_VERSION = 1
SETTINGS = "mvforge.json"
DEFAULT_STEPS = 75  # §6, with DDPM


def export(config: Config, checkpoints: dict[str, Path], folder: Path, denoiser_stages: list[Stage]) -> None:
    """Write `vae/`, `unet/`, `image_encoder/`, `scheduler/` in diffusers layout, `model_index.json` and `mvforge.json`.

    Raises:
        UserError: no checkpoint of `mvae`, or of any denoiser stage.
    """
    trained = [stage for stage in denoiser_stages if stage.name in checkpoints]
    if not trained or "mvae" not in checkpoints:
        given = ", ".join(checkpoints) or "none"
        raise UserError(f"a generator needs mvae and a denoiser stage; given: {given}", "train the missing stage")
    stage = trained[-1]
    folder.mkdir(parents=True, exist_ok=True)
    vae = open_vae(checkpoints["mvae"])
    vae.autoencoder.save_pretrained(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(checkpoints[stage.name] / "unet", local_files_only=True)
    module = MultiViewUNet(unet, config.num_slots, config.unet.view_scale_rate, config.unet.mask_polarity)
    load_unet(module, checkpoints[stage.name])
    facts = {"stage": stage.name, "prediction": stage.settings["prediction"], "config": config.to_dict()}
    save_unet(module, folder, facts)
    image_encoder(config.clip).save_pretrained(folder / "image_encoder")
    schedule = stage_schedule(config, stage)
    make_scheduler("ddpm", schedule, stage.settings["prediction"]).save_pretrained(folder / "scheduler")
    settings = {
        "format": FORMAT_VERSION,
        "method": "mvdiffusionpp",
        **facts,
        "latent_scale": vae.latent_scale,
        "zero_terminal_snr": schedule.zero_terminal_snr,
        "schedule_kind": schedule.kind,
        "rig": config.rig,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    index = {
        "_class_name": "MVDiffusionPPPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


class ViewGenerator:
    """A trained model ready to make views."""

    def __init__(self, config: Config, encoder: ViewEncoder, unet: MultiViewUNet, prediction: str, schedule: ScheduleConfig) -> None:
        self.config = config
        self.encoder = encoder
        self.unet = unet.to(encoder.device).eval().requires_grad_(False)
        self.prediction = prediction
        self.schedule = schedule

    @classmethod
    def open(cls, folder: Path, device: str) -> "ViewGenerator":
        """From a folder written by `export`. Raises UserError when it is not one of this format."""
        settings = json.loads((folder / SETTINGS).read_text())
        if settings["format"] != FORMAT_VERSION:
            raise UserError(f"{folder} has generator format {settings['format']}, this version reads {FORMAT_VERSION}", "export it again")
        config = Config.from_dict(settings["config"])
        vae = MaskAwareVAE(AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True), settings["latent_scale"])
        tokens = ImageTokens(CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", local_files_only=True))
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
        module = MultiViewUNet(unet, config.num_slots, config.unet.view_scale_rate, config.unet.mask_polarity)
        module.load_state_dict({**module.state_dict(), **load_file(folder / "view_embedding.safetensors")})
        schedule = ScheduleConfig(
            settings["schedule_kind"],
            config.schedule.beta_start,
            config.schedule.beta_end,
            config.schedule.timesteps,
            settings["zero_terminal_snr"],
        )
        return cls(config, ViewEncoder(config, vae, tokens, device), module, settings["prediction"], schedule)

    def generate(
        self,
        conditions: ViewSet,
        seed: int,
        steps: int = DEFAULT_STEPS,
        sampler: str = "ddpm",
        guidance: float = 1.0,
        targets: Iterable[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ViewSet:
        """Target views in the frame where the reference (the first condition view) has azimuth 0.

        Args:
            conditions: 1 to `max_conditions` views of any role and size; their cameras are not looked at.
            seed: with `conditions.uid` fixes the result; a subset of targets starts from the same noise.
            sampler: `ddpm` (the paper, 75 steps), `ddim` or `dpm++` (20 to 30 steps do).
            guidance: classifier-free guidance scale, 1 = off.
            targets: canonical indices A * e + a to make; None makes all.
            progress: called with (steps done, steps in all).

        Raises:
            UserError: no condition or too many, an unknown sampler or target.
        """
        config = self.config
        if not 1 <= len(conditions) <= config.max_conditions:
            raise UserError(f"{len(conditions)} condition views given", f"give 1 to {config.max_conditions}")
        wanted = np.arange(config.num_targets) if targets is None else np.asarray(list(targets), int)
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= config.num_targets:
            raise UserError(f"targets {wanted.tolist()} are not all in 0..{config.num_targets - 1}", "name existing target views")
        latents = self._sample(conditions, wanted, seed, steps, sampler, guidance, progress)
        rgba = np.concatenate([straight_rgba(*self.encoder.vae.decode(part)) for part in latents.split(VIEWS_AT_ONCE)])
        facts = {
            "reference_azimuth_deg": float(conditions.azimuth_deg[0]),
            "num_conditions": len(conditions),
            "seed": seed,
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
        }
        return canonical_views(config, conditions.uid, rgba, wanted, facts)

    @torch.no_grad()
    def _sample(
        self,
        conditions: ViewSet,
        wanted: np.ndarray,
        seed: int,
        steps: int,
        sampler: str,
        guidance: float,
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        config, device = self.config, self.encoder.device
        pictures = self.encoder.pictures(resized(conditions.rgba, config.resolution))
        count = len(pictures)
        slots = torch.from_numpy(np.concatenate([np.arange(count), config.max_conditions + wanted])).to(device)
        given, tokens, blank = self.encoder.latents(pictures), self.encoder.image_tokens(pictures)[None], self.encoder.placeholder()
        condition_latents = torch.cat([given, blank.expand(len(wanted), *blank.shape)])[None]
        dropped_latents = blank.expand_as(condition_latents)
        is_condition = (slots < config.max_conditions)[None]
        # Noise is drawn for every slot on the CPU: the same seed starts the same views on any device and for any subset.
        generator = torch.Generator().manual_seed(seed_for(seed, conditions.uid, "start"))
        start = torch.randn(config.num_slots, *blank.shape, generator=generator)[slots.cpu()].to(device)[None]

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
