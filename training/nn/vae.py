"""Mask-aware VAE: the latent-diffusion autoencoder with the object mask as a fourth channel (MVDiffusion++ §4.2, §5.4)."""

from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from infra.errors import UserError
from training.nn.config import VaeConfig
from training.nn.discriminator import PatchDiscriminator, balanced

LATENT_MOMENTUM = 0.05
LEAST_SPREAD = 1e-2  # of the widest channel; a channel that says nothing is not blown up to noise


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
    if config.picture_lanes:
        open_picture_lanes(vae, channels)
    return vae


@torch.no_grad()
def open_picture_lanes(vae: AutoencoderKL, channels: int = 4) -> None:
    """Start a random VAE near a blur: the first latents follow the shrunken picture, and decoding enlarges them again.

    Every picture channel c runs as +x in channel 2c and -x in channel 2c + 1 of all levels. Residual branches start silent
    there, and silu(x) - silu(-x) = x takes the pair out again. All other weights stay random.
    """
    lanes = 2 * channels
    encoder, decoder, settings = cast(Any, vae.encoder), cast(Any, vae.decoder), cast(Any, vae.config)
    if min(settings.block_out_channels) < lanes or settings.latent_channels < channels:
        raise UserError(
            f"picture_lanes needs widths of at least {lanes} and {channels} latent channels", "widen the VAE or turn picture_lanes off"
        )

    def start(conv: Any, entries: dict[tuple[int, int], float], rows: int, spread: bool = False) -> None:
        weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
        weight[:rows] = 0.0
        bias[:rows] = 0.0
        for (row, column), value in entries.items():
            if spread:
                weight[row, column] = value / weight[row, column].numel()
            elif weight.ndim == 4:
                weight[row, column, weight.shape[2] // 2, weight.shape[3] // 2] = value

    split = {(2 * c + side, c): 1.0 - 2.0 * side for c in range(channels) for side in (0, 1)}
    join = {(c, row): sign for (row, c), sign in split.items()}
    straight = {(c, c): 1.0 for c in range(lanes)}
    start(encoder.conv_in, split, lanes)
    start(encoder.conv_out, join, channels)
    start(vae.quant_conv, {(c, c): 1.0 for c in range(channels)}, channels)
    start(vae.post_quant_conv, {(c, c): 1.0 for c in range(channels)}, channels)
    start(decoder.conv_in, split, lanes)
    start(decoder.conv_out, join, channels)
    for block in (*encoder.down_blocks, encoder.mid_block, decoder.mid_block, *decoder.up_blocks):
        for residual in block.resnets:
            start(residual.conv2, {}, lanes)
            if residual.conv_shortcut is not None:
                start(residual.conv_shortcut, straight, lanes)
        for attention in getattr(block, "attentions", None) or ():
            start(attention.to_out[0], {}, lanes)
        for down in getattr(block, "downsamplers", None) or ():
            start(down.conv, straight, lanes, spread=True)
        for up in getattr(block, "upsamplers", None) or ():
            start(up.conv, straight, lanes)


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

    The denoiser's latents are `(z - shift) * scale`; this is the one place where these constants live.

    Attributes:
        latent_mean, latent_power: `[C]`, running mean and mean square of each channel seen in training (buffers); 0 before the
            first batch.
    """

    latent_mean: Tensor
    latent_power: Tensor

    def __init__(self, autoencoder: AutoencoderKL, latent_scale: float | None) -> None:
        """`latent_scale` multiplies latents for the denoiser, as in latent diffusion. None standardises every channel by what was
        measured while the VAE trained: on a white background latents are far from zero on average, and noise of unit
        spread would drown what differs between objects."""
        super().__init__()
        self.autoencoder = autoencoder
        self.fixed_scale = latent_scale
        channels = cast(int, autoencoder.config["latent_channels"])
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_power", torch.zeros(channels))

    @classmethod
    def stored(cls, autoencoder: AutoencoderKL) -> "MaskAwareVAE":
        """With the constants that `note_constants` left in the autoencoder's config."""
        config = autoencoder.config
        module = cls(autoencoder, None if config["latents_mean"] else config["scaling_factor"])
        if config["latents_mean"]:
            mean, spread = (torch.tensor(config[name], dtype=torch.float32) for name in ("latents_mean", "latents_std"))
            module.latent_mean.copy_(mean)
            module.latent_power.copy_(mean.square() + spread.square())
        return module.to(autoencoder.device)

    def note_constants(self) -> None:
        """Write shift and scale into the autoencoder's config.

        diffusers' convention: `(z - latents_mean) * scaling_factor / latents_std`.
        """
        if self.fixed_scale is not None or not self.latent_power.any():  # fixed, or nothing measured yet
            self.autoencoder.register_to_config(scaling_factor=self.fixed_scale or 1.0, latents_mean=None, latents_std=None)
            return
        shift, scale = (part.flatten().tolist() for part in self._constants())
        spread = [1.0 / value for value in scale]
        self.autoencoder.register_to_config(scaling_factor=1.0, latents_mean=shift, latents_std=spread)

    @property
    def latent_scale(self) -> Tensor:
        """`[C]`, float32."""
        return self._constants()[1].flatten()

    @property
    def latent_spread(self) -> float:
        """Standard deviation of what the denoiser gets, over channels on average; 0 before training."""
        spread = (self.latent_power - self.latent_mean.square()).clamp(min=0).sqrt().float()
        return float((spread * self.latent_scale).mean())

    def _constants(self) -> tuple[Tensor, Tensor]:
        """Shift and scale, `[C, 1, 1]`, float32."""
        mean, power = (part.float()[:, None, None] for part in (self.latent_mean, self.latent_power))
        if self.fixed_scale is not None:
            return torch.zeros_like(mean), torch.full_like(mean, self.fixed_scale)
        if not power.any():
            return mean, torch.ones_like(mean)
        spread = (power - mean.square()).clamp(min=0).sqrt()
        return mean, 1.0 / torch.maximum(spread, LEAST_SPREAD * spread.max())

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of the blocks in the backward pass."""
        self.autoencoder.enable_gradient_checkpointing()

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
        channels = latents.float().transpose(0, 1).flatten(1)
        momentum = torch.where(self.latent_power.sum() == 0, 1.0, LATENT_MOMENTUM)
        for kept, seen in ((self.latent_mean, channels.mean(1)), (self.latent_power, channels.square().mean(1))):
            kept.lerp_(seen.to(kept.dtype), momentum.to(kept.dtype))

    def encode(self, pictures: Tensor) -> Tensor:
        """Shifted and scaled posterior mean of pictures in [-1, 1]."""
        shift, scale = self._constants()
        return (self.autoencoder.encode(pictures.to(self.autoencoder.dtype)).latent_dist.mean.float() - shift) * scale

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The denoiser's latents -> RGB on white `[N, 3, H, W]` in [-1, 1], mask logits `[N, 1, H, W]`."""
        shift, scale = self._constants()
        decoded = self.autoencoder.decode((latents / scale + shift).to(self.autoencoder.dtype)).sample.float()
        return decoded[:, :3].clamp(-1, 1), decoded[:, 3:]


class VaeUnderTraining(MaskAwareVAE):
    """The VAE and what only its losses need: a patch discriminator, and a log variance of the reconstruction error.

    All in one module and one forward pass, so that one optimiser, one engine and one checkpoint do for both players.
    """

    def __init__(
        self, autoencoder: AutoencoderKL, latent_scale: float | None, discriminator: PatchDiscriminator | None, learnt_logvar: bool
    ) -> None:
        super().__init__(autoencoder, latent_scale)
        self.discriminator = discriminator
        # Latent diffusion's log variance of the likelihood, 0 at the start.
        self.log_variance = nn.Parameter(torch.zeros(1)) if learnt_logvar else None

    def forward(  # type: ignore[override]  # one more result
        self, pictures: Tensor, noise: Tensor, adversarial_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """As `MaskAwareVAE`, and what the loss terms of the extra weights need, all but `log_variance` if `adversarial_weight` > 0:

        `log_variance` `[1]`; logits `[N, 1, h, w]` `real` and `generated` (gradients reach the discriminator alone) and
        `fooling` (gradients reach the VAE alone, scaled to `adversarial_weight` times those of the terms on RGB, see `balanced`).
        """
        decoded, mean, logvar = super().forward(pictures, noise)
        extra: dict[str, Tensor] = {}
        if self.log_variance is not None:
            extra["log_variance"] = self.log_variance * 1.0
        if self.discriminator is not None and adversarial_weight > 0:
            rgb, judged = balanced(decoded[:, :3], adversarial_weight)
            decoded = torch.cat([rgb, decoded[:, 3:]], 1)
            dtype = self.autoencoder.dtype
            extra["fooling"] = self.discriminator(judged.to(dtype), True)
            extra["real"] = self.discriminator(pictures[:, :3].to(dtype))
            extra["generated"] = self.discriminator(judged.detach().to(dtype))
        return decoded, mean, logvar, extra

    def own_state(self) -> dict[str, Tensor]:
        """Weights that are no part of the VAE itself."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(("autoencoder.", "latent_"))}
