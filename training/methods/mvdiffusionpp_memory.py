"""What a denoiser stage keeps for its backward pass, estimated from its settings (for `mvforge plan --cluster`)."""

from training.methods.base import Stage
from training.methods.mvdiffusionpp_budget import condition_shares
from training.methods.mvdiffusionpp_config import Config
from training.nn.config import UnetConfig

# Bytes kept per view by the SD-2 layout at 64x64 latents in bf16: docs/training.md, 7.8 GiB for 9 views. Counted on paper, a
# lower bound: attention stores no scores. Other sizes scale with the elements that blocks of all levels hold.
SD2_BYTES = 7.8 * 2**30 / 9
SD2_LATENT = 64


def activation_bytes(config: Config, stage: Stage, conditions: int) -> float | None:
    """Bytes of one object's activations at its largest number of views, in half precision; None for the VAE stage, not estimated."""
    if "prediction" not in stage.settings:
        return None
    views = max(count for count, share in condition_shares(config, stage, conditions).items() if share) + config.keep_views
    share = _elements(config.unet, config.latent_size) / _elements(UnetConfig(), SD2_LATENT)
    return views * SD2_BYTES * share


def _elements(config: UnetConfig, size: int) -> float:
    """Values in the outputs of all blocks for one view; a block with attention holds several times those of one without."""
    total = 0.0
    for level, (width, attention) in enumerate(zip(config.block_out_channels, config.attention_levels, strict=True)):
        blocks = 2 * config.layers_per_block + 1
        total += blocks * width * (size / 2**level) ** 2 * (4.0 if attention else 1.0)
    return total
