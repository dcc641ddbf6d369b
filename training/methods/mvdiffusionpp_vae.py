"""Stage `mvae` of MVDiffusion++: train the mask-aware VAE (§4.2, §5.4)."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import UserError
from infra.seeds import rng_for
from training.batch import signed_rgba, to_device
from training.flops import Flops, training, vae_flops
from training.methods.base import Preview, TrainObject
from training.methods.mvdiffusionpp_config import VALIDATION_VIEWS, Config
from training.methods.mvdiffusionpp_figures import reconstruction_figures
from training.nn.config import lpips_file_of
from training.nn.discriminator import PatchDiscriminator, fooling_loss, hinge_loss
from training.nn.lpips import Lpips
from training.nn.pretrained import load_vae
from training.nn.vae import MaskAwareVAE, VaeUnderTraining, empty_autoencoder

EXTRA = "discriminator.safetensors"


class VaeTraining:
    """Trainable of stage `mvae`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lpips: Lpips | None = None

    def build(self) -> MaskAwareVAE:
        """The VAE: pretrained and widened, or random; with a discriminator and a log variance where the config wants them."""
        config = self.config
        self.lpips(torch.device("cpu"))  # weights that are missing or wrong are refused now, not at the first loss
        source = config.vae.pretrained
        autoencoder = (load_vae(source) if source else empty_autoencoder(config.vae)).train()
        if config.discriminator_start is None and not config.learnt_logvar:
            return MaskAwareVAE(autoencoder, config.latent_scale)
        discriminator = None
        if config.discriminator_start is not None:
            discriminator = PatchDiscriminator(config.discriminator_width, config.discriminator_layers, config.discriminator_norm)
        return VaeUnderTraining(autoencoder, config.latent_scale, discriminator, config.learnt_logvar)

    def load(self, module: nn.Module, folder: Path) -> None:
        """The VAE, and the discriminator if the checkpoint has one and this training wants one."""
        state = dict(open_vae(folder).state_dict())
        if isinstance(module, VaeUnderTraining) and (Path(folder) / EXTRA).is_file():
            wanted = module.own_state()
            state |= {name: value for name, value in load_file(Path(folder) / EXTRA).items() if name in wanted}
        module.load_state_dict({**module.state_dict(), **state})

    def save(self, module: nn.Module, folder: Path) -> None:
        """`vae/` in diffusers layout, the latents' shift and scale in its config, `mvae.json`, and what only training needs in
        `discriminator.safetensors`."""
        vae = cast(MaskAwareVAE, module)
        vae.note_constants()
        vae.autoencoder.save_pretrained(Path(folder) / "vae")
        if isinstance(vae, VaeUnderTraining):
            save_file({name: value.detach().cpu().contiguous() for name, value in vae.own_state().items()}, Path(folder) / EXTRA)
        facts = {"latent_scale": vae.latent_scale.tolist(), "config": self.config.to_dict()}
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
        """L1 or L2 + perceptual + KL + mask BCE, and the two players' terms from `discriminator_start` on. All randomness was drawn
        with the example, so `generator` is not needed."""
        device = next(module.parameters()).device
        batch = to_device(batch, device)
        start = self.config.discriminator_start
        options = {"adversarial_weight": self.config.discriminator_weight} if start is not None and step >= start else {}
        decoded, mean, logvar, *extra = module(batch["pictures"], batch["noise"], **options)
        lpips = self.lpips(device)
        log_variance = extra[0].get("log_variance") if extra else None
        loss, terms = vae_loss(batch["pictures"], decoded, mean, logvar, self.config, lpips, log_variance)
        if options:
            adversarial, more = adversarial_loss(extra[0])
            loss, terms = loss + adversarial, terms | more
        return loss, terms

    def lpips(self, device: torch.device) -> Lpips | None:
        """The frozen network of `perceptual = lpips(PATH)`, loaded once; None for other losses. Never part of the trained module."""
        path = lpips_file_of(self.config.perceptual)
        if path is None:
            return None
        if self._lpips is None:
            self._lpips = Lpips(path)
        return self._lpips.to(device)

    @torch.no_grad()
    def validate(self, module: nn.Module, objects: list[TrainObject], seed: int) -> dict[str, float]:
        """Loss without posterior noise and without the discriminator, PSNR of RGB on white (full frame and foreground), mask IoU,
        and LPIPS where its weights are given; means over views."""
        training = module.training
        module.eval()
        device = next(module.parameters()).device
        rows: list[dict[str, float]] = []
        for obj in objects:
            views = obj.views
            chosen = np.sort(rng_for(seed, views.uid, "validation views").permutation(len(views))[:VALIDATION_VIEWS])
            pictures = torch.from_numpy(signed_rgba(views.rgba[chosen])).to(device)
            silence = torch.zeros(len(chosen), self.config.vae.latent_channels, *_latent_shape(self.config), device=device)
            decoded, mean, logvar, *_ = module(pictures, silence)
            lpips = self.lpips(device)
            loss, _ = vae_loss(pictures, decoded, mean, logvar, self.config, lpips)
            figures = reconstruction_figures(pictures, decoded)
            if lpips is not None:
                figures["lpips"] = lpips(decoded[:, :3].clamp(-1, 1), pictures[:, :3])
            rows += [{"loss": float(loss), **{k: float(v[i]) for k, v in figures.items()}} for i in range(len(chosen))]
        module.train(training)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        vae = cast(MaskAwareVAE, module)
        return means | {"latent_scale": float(vae.latent_scale.mean()), "latent_spread": vae.latent_spread}

    def cost(self, batch: dict[str, Any]) -> dict[str, float]:
        """Operations of training the autoencoder on these pictures, counted from sizes (losses left out), and latent cells as tokens."""
        pictures = len(batch["pictures"])
        forward = sum(vae_flops(self.config.vae, self.config.resolution), Flops())
        return {"flops": pictures * training(forward), "tokens": float(pictures * self.config.latent_size**2)}

    def preview(self, module: nn.Module, objects: list[TrainObject], seed: int) -> Preview:
        """Pictures above their reconstructions."""
        from training.methods.mvdiffusionpp_preview import preview_reconstructions

        return preview_reconstructions(cast(MaskAwareVAE, module), objects)


def open_vae(folder: Path) -> MaskAwareVAE:
    """A trained VAE from a checkpoint folder, in eval mode. Raises UserError when it is not one."""
    facts_path = Path(folder) / "mvae.json"
    if not facts_path.is_file():
        raise UserError(f"{folder} is not a checkpoint of stage mvae", "give the folder that train.mvae wrote")
    return MaskAwareVAE.stored(AutoencoderKL.from_pretrained(Path(folder) / "vae", local_files_only=True)).eval()


def vae_loss(
    pictures: Tensor,
    decoded: Tensor,
    mean: Tensor,
    logvar: Tensor,
    config: Config,
    lpips: Lpips | None = None,
    log_variance: Tensor | None = None,
) -> tuple[Tensor, dict[str, float | Tensor]]:
    """§5.4: the loss of latent diffusion on RGB, binary cross-entropy on the mask.

    Args:
        pictures, decoded: `[N, 4, H, W]`, RGB in [-1, 1], then the mask in [-1, 1] or its logits.
        mean, logvar: of the posterior `[N, C, h, w]`.
        lpips: for `config.perceptual` of that kind.
        log_variance: learnt one of the reconstruction terms `[1]`, as in latent diffusion.
    """
    rgb, mask = decoded[:, :3], decoded[:, 3:]
    error = rgb - pictures[:, :3]
    error = error.abs() if config.reconstruction == "l1" else error.square()
    foreground = (pictures[:, 3:] + 1.0) / 2.0
    weight = 1.0 + (config.foreground_weight - 1.0) * foreground
    reconstruction = (weight / weight.mean() * error).mean()
    bce = F.binary_cross_entropy_with_logits(mask, foreground)
    # Latent diffusion weights a KL sum against an L1 sum; dividing both by the number of RGB values keeps its weight's meaning.
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum() / pictures[:, :3].numel()
    terms: dict[str, float | Tensor] = {config.reconstruction: reconstruction.detach(), "mask_bce": bce.detach(), "kl": kl.detach()}
    likelihood = reconstruction
    if lpips is not None or config.perceptual == "gradient":
        perceptual = gradient_loss(rgb, pictures[:, :3]) if lpips is None else lpips(rgb, pictures[:, :3]).mean()
        likelihood = likelihood + config.perceptual_weight * perceptual
        terms["perceptual"] = perceptual.detach()
    if log_variance is not None:
        likelihood = (likelihood * (-log_variance).exp() + log_variance).squeeze()
        terms["log_variance"] = log_variance.detach().squeeze()
    return likelihood + config.mask_weight * bce + config.kl_weight * kl, terms


def adversarial_loss(logits: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
    """Both players' terms, as gradients alone: their value is 0, so that the loss stays comparable across the start step.

    The weight of the generator's term acts on its gradient (`training.nn.discriminator.balanced`).
    """
    generator, discriminator = fooling_loss(logits["fooling"]), hinge_loss(logits["real"], logits["generated"])
    total = generator + discriminator
    return total - total.detach(), {
        "generator": generator.detach(),
        "discriminator": discriminator.detach(),
        "logits_real": logits["real"].detach().float().mean(),
        "logits_generated": logits["generated"].detach().float().mean(),
    }


def gradient_loss(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """L1 between horizontal and vertical differences at `scales` resolutions, averaged: edges must be in place."""
    total = a.new_zeros(())
    for scale in range(scales):
        difference = F.avg_pool2d(a - b, 2**scale) if scale else a - b
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / scales


def _latent_shape(config: Config) -> tuple[int, int]:
    return config.latent_size, config.latent_size


def _noise(config: Config, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, config.vae.latent_channels, *_latent_shape(config)), dtype=np.float32)
