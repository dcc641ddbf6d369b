"""What a person sees of an MVDiffusion++ stage while it trains: a few fixed held-out objects, their truth above what is made.

Grids: one band of rows per object, one column per view; the condition stands in front of the truth. All on white.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.batch import signed_rgba
from training.diffusion.objective import x0_from
from training.diffusion.sampling import make_scheduler, sample
from training.diffusion.schedule import NoiseSchedule
from training.methods.base import Preview, TrainObject
from training.methods.mvdiffusionpp_config import PREVIEW_STEPS, SHOWN_VIEWS
from training.methods.mvdiffusionpp_figures import reconstruction_figures
from training.nn.vae import MaskAwareVAE

SMALLEST_TILE, GAP = 96, 2
PALE, GREY = 225, 150


@torch.no_grad()
def preview_reconstructions(vae: MaskAwareVAE, objects: list[TrainObject]) -> Preview:
    """Rows: pictures, their reconstructions from posterior means. Figures are means over the views shown."""
    device = next(vae.parameters()).device
    bands, figures = [], []
    for obj in objects:
        chosen = np.linspace(0, len(obj.views) - 1, min(SHOWN_VIEWS, len(obj.views))).astype(int)
        pictures = torch.from_numpy(signed_rgba(obj.views.rgba[chosen])).to(device)
        decoded = torch.cat(vae.decode(vae.encode(pictures)), 1)
        figures.append(reconstruction_figures(pictures, decoded))
        bands.append(np.concatenate([_row(tiles_of(pictures)), _row(tiles_of(decoded))]))
    means = {name: float(torch.cat([each[name] for each in figures]).mean()) for name in figures[0]}
    return Preview(means, {"reconstructions": _stacked(bands)})


@dataclass(frozen=True)
class Shown:
    """One held-out object of a grid.

    Attributes:
        batch: the object alone, as `collate` makes it; `noise` is where sampling starts.
        condition: `[1, 4, H, W]`, pictures: `[V, 4, H, W]`: given and true, in [-1, 1] on white.
    """

    batch: dict[str, Any]
    condition: Tensor
    pictures: Tensor


# (batch, noisy latents [1, V, C, h, w], timesteps [1]) -> prediction
Predict = Callable[[dict[str, Any], Tensor, Tensor], Tensor]


@torch.no_grad()
def preview_samples(predict: Predict, vae: MaskAwareVAE, objects: list[Shown], prediction: str, schedule: NoiseSchedule) -> Preview:
    """Rows: truth, views sampled jointly with DDIM, and the clean views that one prediction from pure noise implies.

    The first view of every batch is its one condition. PSNR on white against the rendered pictures, over the frame and over
    the true foreground, of sampled views (`psnr`) and of that one prediction (`psnr_one_step`, which rewards a blurred mean);
    `psnr_latents` is what the VAE makes of the true latents, a ceiling.
    """
    bands, figures = [], []
    for shown in objects:
        latents = {**_made(predict, shown.batch, prediction, schedule), "latents": shown.batch["latents"]}
        decoded = {name: torch.cat(vae.decode(each[0, 1:]), 1) for name, each in latents.items()}
        figures.append({name: reconstruction_figures(shown.pictures, each) for name, each in decoded.items()})
        columns = np.linspace(0, len(shown.pictures) - 1, min(SHOWN_VIEWS, len(shown.pictures))).astype(int)
        truth = torch.cat([shown.condition, shown.pictures[columns]])
        made = [torch.cat([torch.ones_like(shown.condition), decoded[name][columns]]) for name in ("sampled", "one_step")]
        bands.append(np.concatenate([_row(tiles_of(row)) for row in (truth, *made)]))
    means = {
        f"{figure}{suffix}": float(torch.cat([each[name][figure] for each in figures]).mean())
        for name, suffix in (("sampled", ""), ("one_step", "_one_step"), ("latents", "_latents"))
        for figure in ("psnr", "psnr_foreground")
    }
    return Preview(means, {"samples": _stacked(bands)})


def _made(predict: Predict, batch: dict[str, Any], prediction: str, schedule: NoiseSchedule) -> dict[str, Tensor]:
    """Latents `[1, V, C, h, w]`: `sampled` with DDIM, and `one_step` from the noise it starts with."""
    start = batch["noise"]
    last = torch.full((1,), schedule.config.timesteps - 1, device=start.device)
    alpha, sigma = schedule.levels(last, 5)
    scheduler = make_scheduler("ddim", schedule.config, prediction)
    sampled = sample(
        lambda noisy, timesteps, dropped: predict(batch, noisy, timesteps), start, scheduler, PREVIEW_STEPS, [torch.Generator()]
    )
    return {"sampled": sampled, "one_step": x0_from(prediction, predict(batch, start, last), start, alpha, sigma)}


def tiles_of(pictures: Tensor) -> np.ndarray:
    """RGB on white in [-1, 1] (further channels are left out) `[N, C, H, W]` -> uint8 `[N, H, W, 3]`, small ones enlarged."""
    values = ((pictures[:, :3].clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    times = max(1, -(-SMALLEST_TILE // values.shape[1]))
    return values.repeat(times, 1).repeat(times, 2)


def _row(tiles: np.ndarray) -> np.ndarray:
    """Tiles `[N, H, W, 3]` side by side with a pale gap around each."""
    framed = np.pad(tiles, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=PALE)
    return np.concatenate(list(framed), 1)


def _stacked(bands: list[np.ndarray]) -> np.ndarray:
    """Bands of equal width below each other, a line between two objects."""
    line = np.full((GAP, bands[0].shape[1], 3), GREY, np.uint8)
    return np.concatenate([piece for band in bands for piece in (band, line)][:-1])
