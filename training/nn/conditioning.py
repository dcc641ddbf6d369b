"""Image tokens of the condition views from a frozen CLIP vision tower, one pooled and projected token per picture."""

import re
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from infra.errors import UserError
from training.nn.config import ClipConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def image_encoder(config: ClipConfig) -> CLIPVisionModelWithProjection:
    """The vision tower named by `config.source`, frozen and in eval mode. Raises UserError when its folder is missing."""
    seed = re.fullmatch(r"random\((\d+)\)", config.source)
    if seed:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed[1]))
            model = CLIPVisionModelWithProjection(_vision_config(config))
    elif Path(config.source).is_dir():
        model = CLIPVisionModelWithProjection.from_pretrained(config.source, local_files_only=True)
    else:
        raise UserError(f"no CLIP weights at '{config.source}'", "give a folder in transformers' layout, or random(0)")
    return model.requires_grad_(False).eval()


def _vision_config(config: ClipConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        projection_dim=config.projection_dim,
        hidden_act=config.activation,
    )


class ImageTokens(nn.Module):
    """Pictures -> tokens. The order of an object's pictures carries no meaning for cross-attention."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Tensor:
        """RGB on white `[K, 3, H, W]` in [-1, 1] -> float32 tokens `[K, D]`."""
        size = int(cast(int, self.encoder.config.image_size))
        pictures = (rgb.float() + 1.0) / 2.0
        if pictures.shape[-2:] != (size, size):
            pictures = F.interpolate(pictures, [size, size], mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        pixels = (pictures - self.mean) / self.std
        return self.encoder(pixel_values=pixels.to(self.encoder.dtype)).image_embeds.float()
