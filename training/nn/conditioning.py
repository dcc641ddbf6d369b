"""Image tokens of the condition views from a frozen CLIP vision tower: one pooled token per picture, or one per patch."""

import re
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from infra.errors import UserError
from training.nn.config import ClipConfig

SPREAD_PICTURES = 16
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def image_encoder(config: ClipConfig) -> CLIPVisionModelWithProjection:
    """The vision tower named by `config.source`, frozen, float32 and in eval mode.

    Raises:
        UserError: its folder is missing, holds no safetensors or no vision tower.
    """
    seed = re.fullmatch(r"random\((\d+)\)", config.source)
    if seed:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed[1]))
            model = CLIPVisionModelWithProjection(_vision_config(config)).eval()
            _spread(model, config.tokens)
    else:
        model = _stored(config.source)
    return model.requires_grad_(False).eval()


@torch.no_grad()
def _spread(model: CLIPVisionModelWithProjection, kind: str) -> None:
    """Make random weights tell pictures apart: tokens of a few made-up pictures get mean 0 and root mean square 1.

    A random tower answers nearly the same to every picture (spread 0.05 around 0.8), which no denoiser learns to read in a short
    training. Shift and scale go into the last norm's bias and the projection, so that the model stays a plain CLIP tower.
    """
    side = int(cast(int, model.config.image_size))
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    pictures = torch.ones(SPREAD_PICTURES, 3, side, side)
    for picture in pictures:
        (x, y), (a, b), colour = torch.rand(2) - 0.5, 0.2 + 0.5 * torch.rand(2), 2 * torch.rand(3) - 1
        inside = ((columns - x) / a).square() + ((rows - y) / b).square() < 1
        picture[:, inside] = colour[:, None]
    # In double precision: sums differ in their last bits from process to process, and a seed shall name one tower, to the last bit.
    model.double()
    tokens = ImageTokens(model, kind).double().tokens(pictures.double()).flatten(0, -2)
    projection, bias = model.visual_projection.weight, model.vision_model.post_layernorm.bias
    bias -= torch.linalg.lstsq(projection, tokens.mean(0)[:, None]).solution[:, 0]
    projection /= (tokens - tokens.mean(0)).square().mean().sqrt()
    model.float()


def _stored(source: str) -> CLIPVisionModelWithProjection:
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file() and (folder / "image_encoder" / "config.json").is_file():
        folder = folder / "image_encoder"
    if not (folder / "config.json").is_file():
        raise UserError(f"no CLIP weights at '{source}'", "give a folder in transformers' layout, or random(0)")
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:  # files that can run code are not opened
        loaded: Any = CLIPVisionModelWithProjection.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{folder} cannot be loaded: {reason}", "give an undamaged folder with safetensors") from error
    model, facts = loaded
    if absent := sorted(facts["missing_keys"]):
        raise UserError(f"{folder} lacks {len(absent)} weights, the first '{absent[0]}'", "give a vision tower with its projection")
    return model


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
    """Pictures -> tokens. The order of an object's pictures carries no meaning for cross-attention (MVDiffusion++ §4.2).

    Attributes:
        kind: `pooled` or `patch` (`ClipConfig.tokens`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: CLIPVisionModelWithProjection, kind: str = "pooled") -> None:
        super().__init__()
        self.encoder, self.kind = encoder, kind
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """RGB on white `[K, 3, H, W]` in [-1, 1] -> float32 tokens: `[K, D]` pooled, `[K, T, D]` patches row by row.

        Either way cross-attention reads `tokens.reshape(-1, D)`, picture after picture. Patch tokens take the way of the pooled
        one, which starts at the class token: last norm, then projection.
        """
        return self.tokens(rgb.float()).float()

    @torch.no_grad()
    def tokens(self, rgb: Tensor) -> Tensor:
        """The same in the precision of `rgb`, which must be that of the tower where this is not float32."""
        size = int(cast(int, self.encoder.config.image_size))
        pictures = (rgb + 1.0) / 2.0
        if pictures.shape[-2:] != (size, size):
            pictures = F.interpolate(pictures, [size, size], mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        pixels = (pictures - self.mean) / self.std
        seen = self.encoder(pixel_values=pixels.to(self.encoder.dtype))
        if self.kind == "pooled":
            return seen.image_embeds
        patches = self.encoder.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
        return self.encoder.visual_projection(patches)
