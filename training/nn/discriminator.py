"""Patch discriminator of latent diffusion, its hinge losses, and the weight of its term against the reconstruction."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("group", "batch", "none")
LARGEST_WEIGHT = 1e4


class PatchDiscriminator(nn.Module):
    """Pictures `[N, 3, H, W]` -> logits `[N, 1, h, w]`, high = real; each judges a patch of 70 x 70 pixels with 3 layers.

    The layout of latent diffusion (and pix2pix before it): 4 x 4 convolutions, `layers` of stride 2 and two of stride 1,
    leaky ReLU of slope 0.2, a norm after all but the first and the last. Batch norm is the original's; `group` (the default)
    sees one picture at a time, so that its result depends neither on batch size nor on the number of workers [C].
    """

    def __init__(self, width: int = 64, layers: int = 3, norm: str = "group") -> None:
        super().__init__()
        widths = [width * min(2**n, 8) for n in range(layers + 1)]
        self.norm = norm
        self.first = _Convolution(3, widths[0], 4, 2, 1)
        steps = list(zip(widths, widths[1:], strict=False))
        self.convolutions = nn.ModuleList(
            _Convolution(inputs, outputs, 4, 1 if n == layers - 1 else 2, 1, bias=norm == "none")
            for n, (inputs, outputs) in enumerate(steps)
        )
        self.norms = nn.ModuleList(_Affine(outputs, norm) for _, outputs in steps if norm != "none")
        self.last = _Convolution(widths[-1], 1, 4, 1, 1)
        for convolution in (self.first, *self.convolutions, self.last):
            nn.init.normal_(convolution.weight, 0.0, 0.02)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def forward(self, pictures: Tensor, frozen: bool = False) -> Tensor:
        """`frozen` sends gradients to the pictures and none to the weights."""
        x = F.leaky_relu(self.first(pictures, frozen), 0.2)
        for n, convolution in enumerate(self.convolutions):
            x = convolution(x, frozen)
            x = F.leaky_relu(self.norms[n](x, frozen) if self.norms else x, 0.2)
        return self.last(x, frozen)


class _Convolution(nn.Conv2d):
    """A convolution whose weights can be held fixed. They are detached in here, because ZeRO-3 has them whole only while the
    layer that owns them runs."""

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        if not frozen:
            return super().forward(x)
        return self._conv_forward(x, self.weight.detach(), None if self.bias is None else self.bias.detach())


class _Affine(nn.Module):
    """Group or batch norm whose weights can be held fixed. Batch norm always uses the batch at hand."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).normal_(1.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels > g)
        self.norm = norm

    def forward(self, x: Tensor, frozen: bool) -> Tensor:
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        if self.norm == "batch":
            return F.batch_norm(x, None, None, weight, bias, training=True)
        return F.group_norm(x, self.groups, weight, bias)


def hinge_loss(real: Tensor, generated: Tensor) -> Tensor:
    """What the discriminator minimises: logits of real pictures above 1, of generated ones below -1."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + generated.float()).mean())


def fooling_loss(generated: Tensor) -> Tensor:
    """What the generator minimises."""
    return -generated.float().mean()


class _Balanced(torch.autograd.Function):
    """One picture used twice; on the way back the second use's gradient gets the size of `share` times the first's."""

    @staticmethod
    def forward(ctx: Any, picture: Tensor, share: float) -> tuple[Tensor, Tensor]:
        ctx.share = share
        return picture.view_as(picture), picture.view_as(picture)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        reconstruction, fooling = (slope.float() for slope in slopes)
        norm = fooling.norm()
        weight = torch.where(norm > 0, reconstruction.norm() / norm.clamp(min=1e-30), 0.0).clamp(max=LARGEST_WEIGHT)
        return (reconstruction + ctx.share * weight * fooling).to(slopes[0].dtype), None


def balanced(picture: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The adaptive weight of latent diffusion without a second backward pass: `picture` for the reconstruction terms and for
    the discriminator's, whose gradient is scaled by |d reconstruction| / |d fooling| (at most 10^4) times `share`.

    Latent diffusion takes both gradients at the decoder's last weights. Here they are those at the decoded picture [C]: they pass
    by anyway, so no parameter is touched, which any kind of sharding survives.
    """
    return _Balanced.apply(picture, share)
