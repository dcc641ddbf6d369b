"""Figures of reconstructed pictures, as the VAE stage and the previews report them."""

import torch
from torch import Tensor


def reconstruction_figures(pictures: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Per view `[N]`: PSNR on white in [0, 1] over all pixels and over true foreground (alpha > 0.5), and mask IoU."""
    error = ((decoded[:, :3].clamp(-1, 1) - pictures[:, :3]) / 2.0).square().mean(1)
    foreground = pictures[:, 3] > 0
    predicted = decoded[:, 3] > 0
    count = foreground.sum((1, 2)).clamp(min=1)
    union = (foreground | predicted).sum((1, 2))
    return {
        "psnr": _psnr(error.mean((1, 2))),
        "psnr_foreground": _psnr((error * foreground).sum((1, 2)) / count),
        "mask_iou": torch.where(union > 0, (foreground & predicted).sum((1, 2)) / union.clamp(min=1), 1.0),
    }


def _psnr(mean_square: Tensor) -> Tensor:
    return -10.0 * torch.log10(mean_square.clamp(min=1e-10))
