"""Floating-point operations and parameters of the networks, counted from their sizes alone; nothing is built.

A multiply-add is two operations. Convolutions and linear layers grow with the number of views, joint attention with its
square: softmax(q k^T) v over L tokens of width C costs 4 L^2 C. Norms, activations and additions are left out, as
everywhere in the field. Axis letters: V views, N tokens of one view, L = V * N, K image tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.nn.config import UnetConfig, VaeConfig

# One backward pass is two products for each product forward. Attention that keeps no score matrix computes the scores
# once more: 5 products backward against 2 forward.
TRAIN_LINEAR, TRAIN_ATTENTION = 3.0, 3.5


@dataclass(frozen=True)
class Flops:
    """Operations by kind, because they grow and train differently."""

    linear_conv: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        return self.linear_conv + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.linear_conv + other.linear_conv, self.attention + other.attention)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.linear_conv * times, self.attention * times)


@dataclass
class _Tally:
    """Adds up layers. `macs` are multiply-adds of one view in convolutions and linear layers; `scores` of all views of one
    object in attention, in which `pairs` (view, view it looks at) take part."""

    views: int = 1
    pairs: int = 1
    params: int = 0
    macs: float = 0.0
    scores: float = 0.0

    def conv(self, inputs: int, outputs: int, size: int, kernel: int = 3) -> None:
        """`size` is the side of the square result."""
        self.params += inputs * outputs * kernel**2 + outputs
        self.macs += inputs * outputs * kernel**2 * size**2

    def linear(self, inputs: int, outputs: int, tokens: int = 1, bias: bool = True) -> None:
        self.params += inputs * outputs + outputs * bias
        self.macs += inputs * outputs * tokens

    def norm(self, width: int) -> None:
        self.params += 2 * width

    def resnet(self, inputs: int, outputs: int, size: int, embedding: int = 0) -> None:
        """Residual block; `embedding` is the width of the time embedding it reads, 0 = none."""
        self.norm(inputs)
        self.conv(inputs, outputs, size)
        if embedding:
            self.linear(embedding, outputs)
        self.norm(outputs)
        self.conv(outputs, outputs, size)
        if inputs != outputs:
            self.conv(inputs, outputs, size, 1)

    def transformer(self, width: int, size: int, context: int, image_tokens: int) -> None:
        """Joint self-attention over all views, cross-attention of every view to K tokens of width `context`, GEGLU of 4 C."""
        tokens = size**2
        self.norm(width)
        self.linear(width, width, tokens)  # 1x1 convolution or linear layer: the same count
        for _ in range(3):
            self.norm(width)
        for source, count in ((width, tokens), (context, image_tokens)):
            self.linear(width, width, tokens, bias=False)
            self.linear(source, width, count, bias=False)
            self.linear(source, width, count, bias=False)
            self.linear(width, width, tokens)
        self.linear(width, 8 * width, tokens)
        self.linear(4 * width, width, tokens)
        self.linear(width, width, tokens)
        self.scores += 2 * self.pairs * tokens**2 * width + 2 * self.views * tokens * image_tokens * width

    def flops(self) -> Flops:
        return Flops(2.0 * self.macs * self.views, 2.0 * self.scores)


def unet_flops(
    config: UnetConfig, views: int, latent_size: int, latent_channels: int = 4, image_tokens: int = 1, conditions: int = 1
) -> Flops:
    """One forward pass of the multi-view denoiser for one object of `views` views, with the attention of `config.cross_view`.

    The blocks of correspondence-aware attention (`caa`) are not counted.

    Args:
        latent_size: side of a view's latent in cells.
        image_tokens: tokens every view cross-attends to (one per condition view unless patch tokens are used).
        conditions: condition views among `views`; matters to `ring` attention alone.
    """
    return _unet(config, views, latent_size, latent_channels, image_tokens, conditions).flops()


def unet_parameters(config: UnetConfig, latent_channels: int = 4, slots: int = 42) -> int:
    """Weights of the multi-view denoiser, view vectors and their MLP included."""
    tally = _unet(config, 1, 2 ** len(config.block_out_channels), latent_channels, 1)
    return tally.params + slots * config.block_out_channels[0] + 1  # and the scale s


def train_flops(
    config: UnetConfig, counts: Sequence[int], latent_size: int, latent_channels: int = 4, image_tokens: int = 1, recompute: bool = False
) -> float:
    """One forward and backward pass of the denoiser over objects with `counts` views each (condition and target views).

    Args:
        recompute: activations are not kept but computed again (gradient checkpointing): one forward pass more.
    """
    total = 0.0
    for views in counts:
        forward = unet_flops(config, views, latent_size, latent_channels, image_tokens)
        total += training(forward, recompute)
    return total


def training(forward: Flops, recompute: bool = False) -> float:
    """Forward and backward pass from the forward pass."""
    return TRAIN_LINEAR * forward.linear_conv + TRAIN_ATTENTION * forward.attention + recompute * forward.total


def vae_flops(config: VaeConfig, resolution: int, channels: int = 4) -> tuple[Flops, Flops]:
    """Encoding and decoding of one picture of `resolution` pixels."""
    return _vae_encoder(config, resolution, channels).flops(), _vae_decoder(config, resolution, channels).flops()


def vae_parameters(config: VaeConfig, channels: int = 4) -> int:
    size = config.factor
    return _vae_encoder(config, size, channels).params + _vae_decoder(config, size, channels).params


def _pairs(cross_view: str, views: int, conditions: int) -> int:
    """How many views all views of an object look at, as `training.nn.view_attention.view_groups` arranges it."""
    if cross_view == "global":
        return views**2
    if cross_view == "ring":
        made = views - conditions
        return conditions**2 + made * (conditions + min(made, 3))
    return views


def _unet(config: UnetConfig, views: int, size: int, channels: int, image_tokens: int, conditions: int = 1) -> _Tally:
    """diffusers' `UNet2DConditionModel` as `training.nn.unet.empty_unet` builds it, and the view embedding."""
    tally = _Tally(views, _pairs(config.cross_view, views, conditions))
    widths, layers = config.block_out_channels, config.layers_per_block
    first, levels = widths[0], len(widths)
    embedding = 4 * first

    def block(inputs: int, width: int, attention: bool) -> None:
        tally.resnet(inputs, width, size, embedding)
        if attention:
            tally.transformer(width, size, config.cross_attention_dim, image_tokens)

    for _ in ("time", "view"):  # the two embeddings have the same MLP (MVDiffusion++ fig. 3)
        tally.linear(first, embedding)
        tally.linear(embedding, embedding)
    tally.conv(2 * channels + 1, first, size)
    skips = [first]
    for level, width in enumerate(widths):
        for _ in range(layers):
            block(skips[-1], width, config.attention_levels[level])
            skips.append(width)
        if level < levels - 1:
            size = (size + 1) // 2
            tally.conv(width, width, size)
            skips.append(width)
    current = widths[-1]
    block(current, current, attention=True)
    block(current, current, attention=False)
    for level in reversed(range(levels)):
        width = widths[level]
        for _ in range(layers + 1):
            block(current + skips.pop(), width, config.attention_levels[level])
            current = width
        if level > 0:
            size *= 2
            tally.conv(width, width, size)
    tally.norm(first)
    tally.conv(first, channels, size)
    return tally


def _vae_middle(tally: _Tally, width: int, size: int) -> None:
    tally.resnet(width, width, size)
    tally.norm(width)
    for _ in ("query", "key", "value", "out"):
        tally.linear(width, width, size**2)
    tally.scores += 2 * size**4 * width
    tally.resnet(width, width, size)


def _vae_encoder(config: VaeConfig, size: int, channels: int) -> _Tally:
    tally, widths = _Tally(), config.block_out_channels
    tally.conv(channels, widths[0], size)
    current = widths[0]
    for level, width in enumerate(widths):
        for _ in range(config.layers_per_block):
            tally.resnet(current, width, size)
            current = width
        if level < len(widths) - 1:
            size //= 2
            tally.conv(width, width, size)
    _vae_middle(tally, current, size)
    tally.norm(current)
    tally.conv(current, 2 * config.latent_channels, size)
    tally.conv(2 * config.latent_channels, 2 * config.latent_channels, size, 1)
    return tally


def _vae_decoder(config: VaeConfig, resolution: int, channels: int) -> _Tally:
    tally, widths = _Tally(), config.block_out_channels
    size = resolution // config.factor
    current = widths[-1]
    tally.conv(config.latent_channels, config.latent_channels, size, 1)
    tally.conv(config.latent_channels, current, size)
    _vae_middle(tally, current, size)
    for level in reversed(range(len(widths))):
        for _ in range(config.layers_per_block + 1):
            tally.resnet(current, widths[level], size)
            current = widths[level]
        if level > 0:
            size *= 2
            tally.conv(current, current, size)
    tally.norm(current)
    tally.conv(current, channels, size)
    return tally
