"""Multi-view denoiser: diffusers' U-Net, joint self-attention over views, learned view embeddings (MVDiffusion++ §4.2)."""

from typing import Any, cast

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from training.nn.attention import JointViewAttention
from training.nn.config import UnetConfig


def empty_unet(config: UnetConfig, latent_channels: int = 4, latent_size: int = 64) -> UNet2DConditionModel:
    """A diffusers U-Net of this layout with random weights: 2 * latent + 1 channels in, latent channels out."""
    down = tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in config.attention_levels)
    up = tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(config.attention_levels))
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=2 * latent_channels + 1,
        out_channels=latent_channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        attention_head_dim=tuple(config.num_heads),  # diffusers' name for head counts
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
        use_linear_projection=config.use_linear_projection,
        class_embed_type="identity",
    )


class MultiViewUNet(nn.Module):
    """Predicts noise or velocity for all views of each object at once.

    `class_embed_type="identity"` makes diffusers add a given vector to the time embedding, without a parameter:
    the place where `s * tau(V_i)` goes in.
    """

    def __init__(self, unet: UNet2DConditionModel, num_slots: int, view_scale_rate: float = 1.0, mask_polarity: str = "paper") -> None:
        super().__init__()
        if unet.config["class_embed_type"] != "identity":
            raise ValueError("the U-Net must be built with class_embed_type='identity'")
        width = unet.config["block_out_channels"][0]
        unet.set_attn_processor(cast(Any, JointViewAttention()))
        self.unet = unet
        self.view_vectors = nn.Parameter(torch.randn(num_slots, width))
        # Own weights, architecture of the time embedding: sharing them with the time embedding is reported to fail.
        self.view_mlp = TimestepEmbedding(width, width * 4)
        self.view_scale = nn.Parameter(torch.zeros(1))  # s, zero at the start (MVDiffusion++ §4.2)
        self.view_scale_rate = view_scale_rate
        self.mask_polarity = mask_polarity

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of the U-Net blocks in the backward pass."""
        self.unet.enable_gradient_checkpointing()

    def view_embedding(self, slots: Tensor) -> Tensor:
        """s * tau(V_i) for slots `[...]` -> `[..., 4 * width]` (MVDiffusion++ fig. 3)."""
        return self.view_scale * self.view_scale_rate * self.view_mlp(self.view_vectors[slots])

    def forward(
        self,
        noisy: Tensor,
        condition_latents: Tensor,
        is_condition: Tensor,
        timesteps: Tensor,
        slots: Tensor,
        image_tokens: Tensor,
        token_valid: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Prediction `[B, V, C, h, w]` in float32.

        Args:
            noisy: noised latents of all views, condition views too, `[B, V, C, h, w]`.
            condition_latents: latent of the condition picture, or of the white placeholder, same shape.
            is_condition: bool `[B, V]`.
            timesteps: integer `[B]`, one per object.
            slots: integer `[B, V]`, which view vector each view has.
            image_tokens: `[B, K, D]`; token_valid: bool `[B, K]`, False = padding.
            valid: bool `[B, V]`, False = padding; such views influence no other and their output means nothing.
        """
        objects, views = slots.shape
        dtype = self.view_vectors.dtype
        marked = is_condition if self.mask_polarity == "paper" else ~is_condition
        mask = marked.to(dtype)[:, :, None, None, None].expand(-1, -1, 1, *noisy.shape[-2:])
        stacked = torch.cat([noisy.to(dtype), mask, condition_latents.to(dtype)], 2).flatten(0, 1)
        prediction = self.unet(
            stacked,
            timesteps.repeat_interleave(views),
            image_tokens.to(dtype).repeat_interleave(views, 0),
            class_labels=self.view_embedding(slots).flatten(0, 1),
            encoder_attention_mask=None if token_valid is None else token_valid.repeat_interleave(views, 0),
            cross_attention_kwargs={"num_views": views, "valid": valid},
        ).sample
        return prediction.float().unflatten(0, (objects, views))
