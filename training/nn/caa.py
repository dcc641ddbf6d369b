"""Correspondence-aware attention (CAA) of MVDiffusion (arXiv 2307.01097 §4.1), for views with known correspondences.

A token looks at the K x K neighbourhood of its corresponding point in each neighbouring view. Different from the published
code, as its paper says: invalid places are masked out of the softmax, any batch size works, and keys and values are
projected before they are sampled. Axis letters: B scenes, V views, L neighbours of a view, N tokens of a view, P = L * K * K
places looked at, H heads, D head width, C = H * D.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from training.nn.correspondences import Correspondences

HEAD_WIDTH = 32  # of the published code
LARGEST_PERIOD = 10_000.0


def displacement_encoding(displacement: Tensor, width: int) -> Tensor:
    """gamma: `[..., 2]` in feature cells -> `[..., width]`, sine and cosine of x and of y at width / 4 frequencies each.

    Frequencies fall geometrically from 1 to 1 / 10,000 radians per cell [C].
    """
    count = width // 4
    steps = torch.arange(count, device=displacement.device, dtype=displacement.dtype)
    angles = displacement[..., None] * LARGEST_PERIOD ** (-steps / max(1, count - 1))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """`[N, 2]` in picture units, row by row."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], -1).reshape(-1, 2)


def neighbourhood(size: int, device: torch.device | None = None) -> Tensor:
    """`[size * size, 2]` integer offsets in cells around 0."""
    reach = torch.arange(size, device=device) - size // 2
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


class CorrespondenceAttention(nn.Module):
    """The message M: attention of every cell to the places that correspond to it; zero where there is none."""

    def __init__(self, channels: int, neighbourhood_size: int = 3) -> None:
        super().__init__()
        self.size, self.heads = neighbourhood_size, max(1, channels // HEAD_WIDTH)
        if channels % self.heads or channels % 4 or neighbourhood_size % 2 == 0:
            raise ValueError(f"no {self.heads} equal heads, no four parts or no middle: {channels} channels, window {neighbourhood_size}")
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor, correspondences: Correspondences) -> Tensor:
        """`features` `[B, V, h, w, C]` -> messages of the same shape, before the output projection."""
        scenes, views, height, width, channels = features.shape
        kind = "cpu" if features.device.type == "meta" else features.device.type
        with torch.autocast(kind, enabled=False), torch.no_grad():  # places need float32
            places, displacement, usable = self._places(correspondences, (scenes, views, height, width), features.device)
        gamma = displacement_encoding(displacement, channels).to(features.dtype)  # [B, V, N, P, C]
        # F(s) + gamma(0)
        still = displacement_encoding(displacement.new_zeros(2), channels).to(features.dtype)
        query = self.to_q(features + still).reshape(scenes, views, height * width, self.heads, -1)
        key, value = (self._sampled(layer(features), correspondences, places) for layer in (self.to_k, self.to_v))
        # The projection of gamma is taken to the other side of both products: once per query, not once per place looked at.
        key_weight, value_weight = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.to_k, self.to_v))  # [H, D, C]
        scores = torch.einsum("bvnhd,bvnphd->bvnhp", query, key)
        scores = scores + torch.einsum("bvnhc,bvnpc->bvnhp", torch.einsum("bvnhd,hdc->bvnhc", query, key_weight), gamma)
        weights = _softmax_over(scores / math.sqrt(channels // self.heads), usable[:, :, :, None])
        message = torch.einsum("bvnhp,bvnphd->bvnhd", weights, value)
        message = message + torch.einsum("bvnhc,hdc->bvnhd", torch.einsum("bvnhp,bvnpc->bvnhc", weights, gamma), value_weight)
        return message.reshape(scenes, views, height, width, channels)

    def _places(self, correspondences: Correspondences, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Where to look: `[B, V, L, N, K*K, 2]` in picture units; displacement in cells and usability `[B, V, N, L*K*K(, 2)]`."""
        scenes, views, height, width = shape
        neighbours = correspondences.neighbours.to(device)
        count, window = neighbours.shape[1], self.size**2
        source = torch.arange(views, device=device).repeat_interleave(count)
        target = neighbours.flatten().clamp(min=0)
        cells = torch.tensor([width, height], device=device, dtype=torch.float32)
        start = cell_centres(height, width, device).float()
        centre, exists = correspondences.locate(start.expand(scenes, len(source), -1, -1), source, target)
        around = centre[..., None, :] + neighbourhood(self.size, device) / cells  # [B, V*L, N, K*K, 2]
        back, returns = correspondences.locate(around.flatten(2, 3), target, source)
        displacement = (back.unflatten(2, (-1, window)) - start[:, None]) * cells
        inside = ((around >= 0) & (around <= 1)).all(-1)
        usable = exists[..., None] & inside & returns.unflatten(2, (-1, window)) & (neighbours.flatten() >= 0)[:, None, None]
        # Unusable places must not carry wild numbers into products with zero.
        displacement = torch.where(usable[..., None], displacement, 0.0)
        around = torch.where(usable[..., None], around, 0.5)

        def by_view(values: Tensor) -> Tensor:
            return values.unflatten(1, (views, count)).transpose(2, 3).flatten(3, 4)  # [B, V, N, L*K*K, ...]

        return around.unflatten(1, (views, count)), by_view(displacement), by_view(usable)

    def _sampled(self, projected: Tensor, correspondences: Correspondences, places: Tensor) -> Tensor:
        """Bilinear samples of the neighbours' projected features: `[B, V, h, w, C]` -> `[B, V, N, P, H, D]`."""
        scenes, views, count, tokens, window, _ = places.shape
        planes = projected.permute(0, 1, 4, 2, 3)
        target = correspondences.neighbours.to(projected.device).clamp(min=0)
        found = []
        for step in range(count):  # one neighbour at a time: memory for one copy of the features
            maps = planes[:, target[:, step]].flatten(0, 1)
            grid = (places[:, :, step] * 2.0 - 1.0).flatten(0, 1)
            values = F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
            found.append(values.to(projected.dtype))
        every = torch.stack(found, 2)  # [B*V, C, L, N, K*K]
        return every.permute(0, 3, 2, 4, 1).reshape(scenes, views, tokens, count * window, self.heads, -1)


def _softmax_over(scores: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last axis among usable places; all zero where there is none."""
    some = usable.any(-1, keepdim=True)
    masked = scores.float().masked_fill(~usable, float("-inf"))
    weights = torch.where(some, masked, 0.0).softmax(-1)
    return torch.where(some, weights, 0.0).to(scores.dtype)


class CorrespondenceBlock(nn.Module):
    """Attention and feed-forward, both residual and both silent at the start (MVDiffusion §4.1), in the panorama layout."""

    def __init__(self, channels: int, neighbourhood_size: int = 3) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = CorrespondenceAttention(channels, neighbourhood_size)
        self.attention_out = nn.Linear(channels, channels)
        self.inner = nn.Linear(channels, channels * 8)  # GEGLU: half of it gates the other half
        self.outer = nn.Linear(channels * 4, channels)
        for last in (self.attention_out, self.outer):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, correspondences: Correspondences) -> Tensor:
        """`[B, V, C, h, w]` in and out."""
        rows = features.permute(0, 1, 3, 4, 2)
        rows = rows + self.attention_out(self.attention(self.norm1(rows), correspondences))
        value, gate = self.inner(self.norm2(rows)).chunk(2, -1)
        rows = rows + self.outer(value * F.gelu(gate))
        return rows.permute(0, 1, 4, 2, 3)


class CorrespondenceBlocks(nn.Module):
    """One block at the end of each block of a diffusers U-Net, before it is halved or doubled in size.

    The blocks hang on their places by forward hooks; `views` and `correspondences` of the running pass are set beforehand and
    stay until the next pass, because gradient checkpointing runs some places again during the backward pass.
    """

    def __init__(self, unet: UNet2DConditionModel, neighbourhood_size: int = 3) -> None:
        super().__init__()
        self.views = 0
        self.correspondences: Correspondences | None = None
        places = [_last_layer(block) for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
        self.blocks = nn.ModuleList(CorrespondenceBlock(_width(place), neighbourhood_size) for place in places)
        for number, place in enumerate(places):
            place.register_forward_hook(self._hook(number))

    def prepare(self, views: int, correspondences: Correspondences) -> None:
        self.views, self.correspondences = views, correspondences

    def _hook(self, number: int) -> Any:
        def add(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self.correspondences is None:
                raise RuntimeError("a U-Net with correspondence-aware attention was run outside of its MultiViewUNet")
            features = output[0] if isinstance(output, tuple) else output
            features = self.blocks[number](features.unflatten(0, (-1, self.views)), self.correspondences).flatten(0, 1)
            return (features, *output[1:]) if isinstance(output, tuple) else features

        return add


def _last_layer(block: Any) -> nn.Module:
    """The layer that runs last before a change of size: a transformer where the block ends with one, else a ResNet."""
    attentions: Any = getattr(block, "attentions", None) or []
    # The middle block has a transformer between two ResNets, the others one behind each.
    return cast(nn.Module, attentions[-1] if len(attentions) == len(block.resnets) else block.resnets[-1])


def _width(layer: Any) -> int:
    return int(getattr(layer, "out_channels", None) or layer.in_channels)
