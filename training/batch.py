"""The border between stored pictures (uint8, straight alpha) and what networks see ([-1, 1], white background)."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rendering.view_set import on_white


def signed_rgba(rgba: np.ndarray) -> np.ndarray:
    """uint8 straight alpha `[..., H, W, 4]` -> float32 `[..., 4, H, W]`: RGB on white in [-1, 1], mask in [-1, 1]."""
    channels = np.concatenate([on_white(rgba), rgba[..., 3:].astype(np.float32) / 255.0], -1)
    return np.ascontiguousarray(np.moveaxis(channels * 2.0 - 1.0, -1, -3), dtype=np.float32)


def straight_rgba(rgb: Tensor, mask_logits: Tensor) -> np.ndarray:
    """Decoded RGB on white `[V, 3, H, W]` in [-1, 1] and mask logits `[V, 1, H, W]` -> uint8 straight alpha `[V, H, W, 4]`.

    The white is taken out again, so compositing the result on white gives the decoded RGB back wherever that
    colour can be reached with the decoded alpha; RGB is zero where alpha rounds to 0.
    """
    alpha = torch.sigmoid(mask_logits.float())
    alpha = (alpha * 255.0).round() / 255.0
    composited = (rgb.float().clamp(-1, 1) + 1.0) / 2.0
    straight = ((composited - (1.0 - alpha)) / alpha.clamp(min=1.0 / 255.0)).clamp(0, 1)
    straight = torch.where(alpha > 0, straight, torch.zeros_like(straight))
    picture = torch.cat([straight, alpha], 1).permute(0, 2, 3, 1)
    return (picture * 255.0).round().to(torch.uint8).cpu().numpy()


def resized(rgba: np.ndarray, size: int) -> np.ndarray:
    """uint8 straight alpha `[V, H, W, 4]` at `size` x `size`; colours are weighted by alpha so no dark rims appear."""
    if rgba.shape[1:3] == (size, size):
        return rgba
    planes = torch.from_numpy(np.array(rgba)).permute(0, 3, 1, 2).float() / 255.0
    premultiplied = torch.cat([planes[:, :3] * planes[:, 3:], planes[:, 3:]], 1)
    small = F.interpolate(premultiplied, [size, size], mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    alpha = small[:, 3:]
    straight = torch.where(alpha > 0, small[:, :3] / alpha.clamp(min=1e-6), torch.zeros_like(small[:, :3])).clamp(0, 1)
    return (torch.cat([straight, alpha], 1).permute(0, 2, 3, 1) * 255.0).round().to(torch.uint8).numpy()


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with every tensor on `device`; other values are left alone."""
    return {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in batch.items()}
