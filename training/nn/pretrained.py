"""Weights that others trained, in diffusers' folder layout: what changes on the way in, and nothing else."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from infra.errors import UserError
from training.nn.vae import widen_to_mask


def _folder(path: str | Path, part: str) -> Path:
    """`path` itself or its sub-folder `part`, whichever holds a config.json."""
    for folder in (Path(path), Path(path) / part):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"no {part} weights at '{path}'", f"give a diffusers folder that holds {part}/config.json")


def load_vae(path: str | Path) -> AutoencoderKL:
    """A 4-channel VAE from a folder of a 3- or 4-channel one. Raises UserError when nothing lies there."""
    vae = AutoencoderKL.from_pretrained(_folder(path, "vae"), local_files_only=True)
    return widen_to_mask(vae) if vae.config.in_channels == 3 else vae


def load_inpainting_unet(path: str | Path, mask_polarity: str) -> UNet2DConditionModel:
    """An inpainting U-Net (9 input channels), its mask slice turned to `mask_polarity`.

    Raises:
        UserError: nothing lies there, or the U-Net has another number of input channels.
    """
    folder = _folder(path, "unet")
    unet = UNet2DConditionModel.from_pretrained(folder, local_files_only=True, class_embed_type="identity")
    channels = unet.config.in_channels
    if channels != 2 * unet.config.out_channels + 1:
        raise UserError(f"the U-Net in {folder} has {channels} input channels, not latent + mask + latent", "use an inpainting checkpoint")
    if mask_polarity == "paper":
        negate_mask_slice(unet.conv_in, mask_channel=unet.config.out_channels)
    return unet.train()


@torch.no_grad()
def negate_mask_slice(conv_in: nn.Conv2d, mask_channel: int) -> None:
    """Make `conv_in` take the mask m where it used to take 1 - m, in place.

    W * (1 - m) = sum(W) - W * m, so the slice changes sign and its spatial sum joins the bias. Exact inside; on the
    outermost cell ring zero padding breaks the identity, because padding is 0 in either polarity.
    """
    assert conv_in.bias is not None
    conv_in.bias += conv_in.weight[:, mask_channel].sum((1, 2))
    conv_in.weight[:, mask_channel] *= -1
