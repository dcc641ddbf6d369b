"""Stage `mvae` of MVDiffusion++: train the mask-aware VAE (§4.2, §5.4)."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from infra.errors import UserError
from infra.seeds import rng_for
from training.batch import signed_rgba, to_device
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp_config import Config
from training.nn.pretrained import load_vae
from training.nn.vae import MaskAwareVAE, empty_autoencoder

VALIDATION_VIEWS = 8


class VaeTraining:
    """Trainable of stage `mvae`."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self) -> MaskAwareVAE:
        """The VAE: pretrained and widened, or random."""
        source = self.config.vae.pretrained
        autoencoder = load_vae(source) if source else empty_autoencoder(self.config.vae)
        return MaskAwareVAE(autoencoder.train(), self.config.latent_scale)

    def load(self, module: nn.Module, folder: Path) -> None:
        stored = open_vae(folder)
        module.load_state_dict(stored.state_dict())

    def save(self, module: nn.Module, folder: Path) -> None:
        """`vae/` in diffusers layout (its `scaling_factor` is our latent scale) and `mvae.json`."""
        vae = cast(MaskAwareVAE, module)
        vae.autoencoder.register_to_config(scaling_factor=vae.latent_scale)
        vae.autoencoder.save_pretrained(Path(folder) / "vae")
        facts = {"latent_scale": vae.fixed_scale, "latent_power": float(vae.latent_power), "config": self.config.to_dict()}
        (Path(folder) / "mvae.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def example(self, obj: TrainObject, rng: np.random.Generator) -> dict[str, Any]:
        """Random views of one object, and the noise of their posterior draws."""
        views = obj.views
        if views.rgba.shape[1:3] != (self.config.resolution,) * 2:
            size = "x".join(map(str, views.rgba.shape[1:3]))
            raise UserError(f"object {views.uid} was rendered at {size}, the model expects {self.config.resolution}", "make both equal")
        chosen = rng.permutation(len(views))[: self.config.vae_views]
        return {"uid": views.uid, "pictures": signed_rgba(views.rgba[chosen]), "noise": _noise(self.config, len(chosen), rng)}

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """All views of all objects in one axis: `pictures` `[N, 4, H, W]`, `noise` `[N, C, h, w]`."""
        batch: dict[str, Any] = {name: torch.from_numpy(np.concatenate([e[name] for e in examples])) for name in ("pictures", "noise")}
        return batch | {"uid": [e["uid"] for e in examples]}

    def loss(
        self, module: nn.Module, batch: dict[str, Any], generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """L1 or L2 + perceptual + KL + mask BCE. All randomness was drawn with the example, so `generator` is not needed."""
        batch = to_device(batch, next(module.parameters()).device)
        decoded, mean, logvar = module(batch["pictures"], batch["noise"])
        return vae_loss(batch["pictures"], decoded, mean, logvar, self.config)

    @torch.no_grad()
    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        """Loss without posterior noise, PSNR of RGB on white (full frame and foreground), mask IoU; means over views."""
        training = module.training
        module.eval()
        device = next(module.parameters()).device
        rows: list[dict[str, float]] = []
        for obj in objects:
            views = obj.views
            chosen = np.sort(rng_for(seed, views.uid, "validation views").permutation(len(views))[:VALIDATION_VIEWS])
            pictures = torch.from_numpy(signed_rgba(views.rgba[chosen])).to(device)
            silence = torch.zeros(len(chosen), self.config.vae.latent_channels, *_latent_shape(self.config), device=device)
            decoded, mean, logvar = module(pictures, silence)
            loss, _ = vae_loss(pictures, decoded, mean, logvar, self.config)
            figures = reconstruction_figures(pictures, decoded)
            rows += [{"loss": float(loss), **{k: float(v[i]) for k, v in figures.items()}} for i in range(len(chosen))]
        module.train(training)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        return means | {"latent_scale": cast(MaskAwareVAE, module).latent_scale}


def open_vae(folder: Path) -> MaskAwareVAE:
    """A trained VAE from a checkpoint folder, in eval mode. Raises UserError when it is not one."""
    facts_path = Path(folder) / "mvae.json"
    if not facts_path.is_file():
        raise UserError(f"{folder} is not a checkpoint of stage mvae", "give the folder that train.mvae wrote")
    facts = json.loads(facts_path.read_text())
    module = MaskAwareVAE(AutoencoderKL.from_pretrained(Path(folder) / "vae", local_files_only=True), facts["latent_scale"])
    module.latent_power.fill_(facts["latent_power"])
    return module.eval()


def vae_loss(pictures: Tensor, decoded: Tensor, mean: Tensor, logvar: Tensor, config: Config) -> tuple[Tensor, dict[str, float | Tensor]]:
    """§5.4: the loss of latent diffusion on RGB, binary cross-entropy on the mask."""
    rgb, mask = decoded[:, :3], decoded[:, 3:]
    error = rgb - pictures[:, :3]
    error = error.abs() if config.reconstruction == "l1" else error.square()
    foreground = (pictures[:, 3:] + 1.0) / 2.0
    weight = 1.0 + (config.foreground_weight - 1.0) * foreground
    reconstruction = (weight / weight.mean() * error).mean()
    bce = F.binary_cross_entropy_with_logits(mask, foreground)
    # Latent diffusion weights a KL sum against an L1 sum; dividing both by the number of RGB values keeps its weight's meaning.
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum() / pictures[:, :3].numel()
    loss = reconstruction + config.mask_weight * bce + config.kl_weight * kl
    terms: dict[str, float | Tensor] = {config.reconstruction: reconstruction.detach(), "mask_bce": bce.detach(), "kl": kl.detach()}
    if config.perceptual == "gradient":
        edges = gradient_loss(rgb, pictures[:, :3])
        loss = loss + config.perceptual_weight * edges
        terms["perceptual"] = edges.detach()
    return loss, terms


def gradient_loss(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """L1 between horizontal and vertical differences at `scales` resolutions, averaged: edges must be in place."""
    total = a.new_zeros(())
    for scale in range(scales):
        difference = F.avg_pool2d(a - b, 2**scale) if scale else a - b
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / scales


def reconstruction_figures(pictures: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Per view `[N]`: PSNR on white in [0, 1] over all pixels and over true foreground (alpha > 0.5), and mask IoU."""
    error = ((decoded[:, :3].clamp(-1, 1) - pictures[:, :3]) / 2.0).square().mean(1)
    foreground = pictures[:, 3] > 0
    predicted = decoded[:, 3] > 0
    count = foreground.sum((1, 2)).clamp(min=1)
    union = (foreground | predicted).sum((1, 2))
    return {
        "psnr": _psnr(error.mean((1, 2))),
        "psnr_foreground": _psnr((error * foreground).sum((1, 2)) / count),
        "mask_iou": torch.where(union > 0, (foreground & predicted).sum((1, 2)) / union.clamp(min=1), 1.0),
    }


def _psnr(mean_square: Tensor) -> Tensor:
    return -10.0 * torch.log10(mean_square.clamp(min=1e-10))


def _latent_shape(config: Config) -> tuple[int, int]:
    return config.latent_size, config.latent_size


def _noise(config: Config, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, config.vae.latent_channels, *_latent_shape(config)), dtype=np.float32)
