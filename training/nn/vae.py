"""Mask-aware VAE: the latent-diffusion autoencoder with the object mask as a fourth channel (MVDiffusion++ §4.2, §5.4)."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from training.nn.config import VaeConfig

LATENT_POWER_MOMENTUM = 0.05


def empty_autoencoder(config: VaeConfig, channels: int = 4) -> AutoencoderKL:
    """A diffusers VAE of this layout with random weights; `channels` in and out (3 = RGB, 4 = RGB and mask)."""
    levels = len(config.block_out_channels)
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        latent_channels=config.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        sample_size=config.factor * 8,
    )
    with torch.no_grad():
        vae.quant_conv.bias[config.latent_channels :] += config.initial_logvar
    return vae


def widen_to_mask(rgb: AutoencoderKL) -> AutoencoderKL:
    """A 4-channel copy of a 3-channel VAE whose RGB result is exactly the same until trained.

    RGB weights are copied; the mask's input slice and output filter are zero. (Which initialisation the authors
    used is unknown; this one keeps the pretrained function.)
    """
    wide = AutoencoderKL.from_config({**rgb.config, "in_channels": 4, "out_channels": 4})
    state = rgb.state_dict()
    for name, axis in (("encoder.conv_in.weight", 1), ("decoder.conv_out.weight", 0), ("decoder.conv_out.bias", 0)):
        narrow = state[name]
        shape = list(narrow.shape)
        shape[axis] = 1
        state[name] = torch.cat([narrow, narrow.new_zeros(shape)], axis)
    wide.load_state_dict(state)
    return wide


class MaskAwareVAE(nn.Module):
    """Pictures `[N, 4, H, W]` (RGB on white and mask, all in [-1, 1]) <-> latents `[N, C, H/8, W/8]`.

    Attributes:
        latent_power: running mean square of the latents seen in training (a buffer); 0 before the first batch.
    """

    latent_power: Tensor

    def __init__(self, autoencoder: AutoencoderKL, latent_scale: float | None) -> None:
        """`latent_scale` multiplies latents for the denoiser; None means 1 / (measured root mean square)."""
        super().__init__()
        self.autoencoder = autoencoder
        self.fixed_scale = latent_scale
        self.register_buffer("latent_power", torch.zeros(()))

    @property
    def latent_scale(self) -> float:
        """What latents are multiplied with before diffusion; the one place where this constant lives."""
        if self.fixed_scale is not None:
            return self.fixed_scale
        power = float(self.latent_power)
        return power**-0.5 if power > 0 else 1.0

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct: decoded `[N, 4, H, W]` (RGB in [-1, 1], mask logits), posterior mean and log variance.

        `noise` `[N, C, h, w]` is the standard normal draw of the posterior sample.
        """
        dtype = self.autoencoder.dtype
        posterior = self.autoencoder.encode(pictures.to(dtype)).latent_dist
        if self.training:
            self._measure(posterior.mean.detach())
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise.to(dtype)).sample
        return decoded.float(), posterior.mean.float(), posterior.logvar.float()

    @torch.no_grad()
    def _measure(self, latents: Tensor) -> None:
        power = latents.float().square().mean().to(self.latent_power.dtype)
        momentum = torch.where(self.latent_power == 0, 1.0, LATENT_POWER_MOMENTUM).to(power.dtype)
        self.latent_power.lerp_(power, momentum)

    def encode(self, pictures: Tensor) -> Tensor:
        """Scaled posterior mean of pictures in [-1, 1]."""
        return self.autoencoder.encode(pictures.to(self.autoencoder.dtype)).latent_dist.mean.float() * self.latent_scale

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled latents -> RGB on white `[N, 3, H, W]` in [-1, 1], mask logits `[N, 1, H, W]`."""
        decoded = self.autoencoder.decode((latents / self.latent_scale).to(self.autoencoder.dtype)).sample.float()
        return decoded[:, :3].clamp(-1, 1), decoded[:, 3:]
