"""Weights that others trained, in diffusers' folder layout: what changes on the way in, and nothing else."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn

from infra.errors import UserError
from training.nn.vae import widen_to_mask


def _folder(path: str | Path, part: str) -> Path:
    """`path` itself or its sub-folder `part`, whichever holds a config.json."""
    root = Path(path).expanduser()
    for folder in (root, root / part):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"no {part} weights at '{path}'", f"give a diffusers folder that holds {part}/config.json")


def _weights(kind: Any, folder: Path, **options: Any) -> Any:
    """Float32 weights of a diffusers folder: whole or sharded, its full-precision file or else the `fp16` variant.

    Raises:
        UserError: there are no safetensors (files that can run code are not opened), or they do not fit the config.
    """
    names = [file.name for file in folder.glob("*.safetensors*")]
    if not names:
        raise UserError(f"{folder} holds no safetensors", "save the model again with safe_serialization=True")
    variant = "fp16" if all(".fp16" in name for name in names) else None
    options |= {"local_files_only": True, "use_safetensors": True, "variant": variant, "torch_dtype": torch.float32}
    try:
        model, facts = kind.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{folder} cannot be loaded: {reason}", "give an undamaged diffusers folder") from error
    if absent := sorted(facts["missing_keys"]):
        raise UserError(f"{folder} lacks {len(absent)} weights, the first '{absent[0]}'", "give an undamaged diffusers folder")
    return model


def load_vae(path: str | Path) -> AutoencoderKL:
    """A 4-channel VAE from a folder of a 3- or 4-channel one. Raises UserError when nothing lies there."""
    vae = _weights(AutoencoderKL, _folder(path, "vae"))
    return widen_to_mask(vae) if vae.config.in_channels == 3 else vae


def load_inpainting_unet(path: str | Path, mask_polarity: str) -> UNet2DConditionModel:
    """An inpainting U-Net (9 input channels), its mask slice turned to `mask_polarity`.

    Raises:
        UserError: nothing lies there, or the U-Net has another number of input channels.
    """
    folder = _folder(path, "unet")
    unet = _weights(UNet2DConditionModel, folder, class_embed_type="identity")
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
