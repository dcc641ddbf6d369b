"""Views -> what the denoiser trains on: latents, image tokens, and the constant placeholder latent (MVDiffusion++ §4.2)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infra.errors import UserError
from rendering.view_set import CONDITION, ViewSet
from training.batch import signed_rgba
from training.methods.base import Arrays
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_vae import open_vae
from training.nn.conditioning import ImageTokens, image_encoder
from training.nn.vae import MaskAwareVAE

VIEWS_AT_ONCE = 16


class ViewEncoder:
    """Encodes one object at a time with frozen networks."""

    def __init__(self, config: Config, vae: MaskAwareVAE, tokens: ImageTokens, device: str) -> None:
        self.config = config
        self.device = torch.device(device)
        self.vae = vae.to(self.device).eval().requires_grad_(False)
        self.tokens = tokens.to(self.device).eval()
        self._placeholder: Tensor | None = None

    @classmethod
    def from_checkpoint(cls, config: Config, checkpoint: Path, device: str) -> "ViewEncoder":
        """With the VAE of a `mvae` checkpoint and the image encoder the config names."""
        tower = image_encoder(config.clip)
        width, wanted = tower.config.projection_dim, config.unet.cross_attention_dim
        if width != wanted:
            raise UserError(
                f"the image encoder's tokens have width {width}, the denoiser reads {wanted}",
                "set unet.cross_attention_dim to the encoder's width, or take another encoder",
            )
        return cls(config, open_vae(checkpoint), ImageTokens(tower, config.clip.tokens), device)

    def __call__(self, views: ViewSet) -> Arrays:
        """float16 arrays of one object.

        `latents` `[V, C, h, w]`: scaled posterior means of all views, in order; `clip_tokens`: those of the
        condition views, in order, `[K, D]` or with `clip.tokens = patch` `[K, T, D]`; `placeholder_latent` `[C, h, w]`: what
        generation views get in place of a condition; with `encode_logvar` also `latent_logvar`, log variances of the posteriors
        whose means are `latents`.
        """
        pictures = self.pictures(views.rgba)
        given = np.flatnonzero(np.asarray(views.roles) == CONDITION)
        tokens = self.image_tokens(pictures[given]) if len(given) else self.image_tokens(pictures[:1])[:0]
        arrays = {"latents": self.latents(pictures), "clip_tokens": tokens, "placeholder_latent": self.placeholder()}
        if self.config.encode_logvar:
            arrays["latent_logvar"] = self.log_variances(pictures)
        return {name: value.cpu().numpy().astype(np.float16) for name, value in arrays.items()}

    def pictures(self, rgba: np.ndarray) -> Tensor:
        """uint8 `[V, H, W, 4]` -> `[V, 4, H, W]` in [-1, 1]. Raises UserError for another size than the model's."""
        if rgba.shape[1:3] != (self.config.resolution,) * 2:
            size = "x".join(map(str, rgba.shape[1:3]))
            raise UserError(f"views are {size} pixels, the model expects {self.config.resolution}", "render at the model's resolution")
        return torch.from_numpy(signed_rgba(rgba)).to(self.device)

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.vae.encode(part) for part in pictures.split(VIEWS_AT_ONCE)])

    @torch.no_grad()
    def log_variances(self, pictures: Tensor) -> Tensor:
        """Of the scaled latents, same shape."""
        autoencoder = self.vae.autoencoder
        raw = [autoencoder.encode(part.to(autoencoder.dtype)).latent_dist.logvar.float() for part in pictures.split(VIEWS_AT_ONCE)]
        return torch.cat(raw) + 2.0 * self.vae.latent_scale.log()[:, None, None]

    def image_tokens(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.tokens(part[:, :3]) for part in pictures.split(VIEWS_AT_ONCE)])

    def placeholder(self) -> Tensor:
        """Latent of the white picture; with an all-ones mask by §4.2's text (figure 3 shows zeros). Made once."""
        if self._placeholder is None:
            white = torch.ones(1, 4, self.config.resolution, self.config.resolution, device=self.device)
            white[:, 3] = 1.0 if self.config.placeholder_mask == "ones" else -1.0
            self._placeholder = self.latents(white)[0]
        return self._placeholder
