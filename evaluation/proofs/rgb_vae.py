"""The autoencoder as others publish it: three channels, no mask; trained here on the same views, then imported like theirs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_vae import VaeTraining
from training.nn.vae import MaskAwareVAE, empty_autoencoder


class RgbVAE(MaskAwareVAE):
    """Looks at the RGB channels alone; its mask logits are constant, so that the same loss and figures apply."""

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoded, mean, logvar = super().forward(pictures[:, :3], noise)
        return torch.cat([decoded, decoded.new_zeros(decoded[:, :1].shape)], 1), mean, logvar


class RgbVaeTraining(VaeTraining):
    """As the mask-aware training, without a mask anywhere."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def build(self) -> RgbVAE:
        return RgbVAE(empty_autoencoder(self.config.vae, channels=3).train(), self.config.latent_scale)

    def save(self, module: nn.Module, folder: Path) -> None:
        """A plain diffusers VAE folder."""
        vae: Any = module
        vae.autoencoder.save_pretrained(Path(folder) / "vae")
