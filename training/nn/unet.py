"""Multi-view denoiser: diffusers' U-Net, joint self-attention over views, learned view embeddings (MVDiffusion++ §4.2)."""

from typing import Any, cast

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from infra.errors import UserError
from training.nn.caa import CorrespondenceBlocks
from training.nn.config import UnetConfig
from training.nn.correspondences import Correspondences
from training.nn.view_attention import JointViewAttention, view_groups


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

    Attributes:
        attention: the processor shared by all attention layers; its `backend` may be set for benchmarks.
        caa: correspondence-aware attention, None unless `cross_view` is `caa`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        num_slots: int,
        view_scale_rate: float = 1.0,
        mask_polarity: str = "paper",
        cross_view: str = "global",
        ragged: str = "packed",
        caa_window: int = 3,
    ) -> None:
        super().__init__()
        if unet.config["class_embed_type"] != "identity":
            raise ValueError("the U-Net must be built with class_embed_type='identity'")
        width = unet.config["block_out_channels"][0]
        self.attention = JointViewAttention()
        unet.set_attn_processor(cast(Any, self.attention))
        self.unet = unet
        self.view_vectors = nn.Parameter(torch.randn(num_slots, width))
        # Own weights, architecture of the time embedding: sharing them with the time embedding is reported to fail.
        self.view_mlp = TimestepEmbedding(width, width * 4)
        self.view_scale = nn.Parameter(torch.zeros(1))  # s, zero at the start (MVDiffusion++ §4.2)
        self.view_scale_rate = view_scale_rate
        self.mask_polarity = mask_polarity
        self.cross_view = cross_view
        self.ragged = ragged
        self.caa = CorrespondenceBlocks(unet, caa_window) if cross_view == "caa" else None

    @classmethod
    def configured(cls, unet: UNet2DConditionModel, config: UnetConfig, num_slots: int) -> "MultiViewUNet":
        """Around `unet`, with everything else as `config` says. Raises UserError when they disagree on the image tokens' width."""
        width = unet.config["cross_attention_dim"]
        if width != config.cross_attention_dim:
            raise UserError(
                f"the U-Net reads image tokens of width {width}, unet.cross_attention_dim is {config.cross_attention_dim}",
                f"set unet.cross_attention_dim to {width} and take an image encoder that projects to it",
            )
        return cls(unet, num_slots, config.view_scale_rate, config.mask_polarity, config.cross_view, config.ragged, config.caa_window)

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
        correspondences: Correspondences | None = None,
    ) -> Tensor:
        """Prediction `[B, V, C, h, w]` in float32.

        Args:
            noisy: noised latents of all views, condition views too, `[B, V, C, h, w]`.
            condition_latents: latent of the condition picture, or of the white placeholder, same shape.
            is_condition: bool `[B, V]`.
            timesteps: integer `[B]`, one per object.
            slots: integer `[B, V]`, which view vector each view has.
            image_tokens: `[B, K, D]`; token_valid: bool `[B, K]`, False = padding.
            valid: bool `[B, V]`, False = padding; such views influence no other, whatever they hold. Their output is 0 when
                packed, where they are not computed at all, and means nothing when masked.
            correspondences: for `cross_view="caa"` only, where they are needed.

        Raises:
            UserError: correspondences are missing or not wanted, or come with padding.
        """
        objects, views = slots.shape
        dtype = self.view_vectors.dtype
        self._prepare_correspondences(correspondences, views, valid)
        marked = is_condition if self.mask_polarity == "paper" else ~is_condition
        mask = marked.to(dtype)[:, :, None, None, None].expand(-1, -1, 1, *noisy.shape[-2:])
        stacked = torch.cat([noisy.to(dtype), mask, condition_latents.to(dtype)], 2).flatten(0, 1)
        if token_valid is not None:  # a weight of 0 does not undo a padded token that is infinite
            image_tokens = image_tokens.masked_fill(~token_valid[..., None], 0.0)
        object_of = torch.arange(objects, device=slots.device).repeat_interleave(views)
        slot_of = slots.flatten()
        kept = None
        if valid is not None and self.ragged == "packed":
            kept = valid.flatten().nonzero().squeeze(1)
            stacked, object_of, slot_of = stacked[kept], object_of[kept], slot_of[kept]
        elif valid is not None:
            stacked = stacked.masked_fill(~valid.flatten()[:, None, None, None], 0.0)
        prediction = self.unet(
            stacked,
            timesteps.to(slots.device)[object_of],
            image_tokens.to(dtype)[object_of],
            class_labels=self.view_embedding(slot_of),
            encoder_attention_mask=None if token_valid is None else token_valid[object_of],
            cross_attention_kwargs=self._who_sees_whom(is_condition, valid),
        ).sample
        if kept is not None:
            prediction = prediction.new_zeros(objects * views, *prediction.shape[1:]).index_copy(0, kept, prediction)
        return prediction.float().unflatten(0, (objects, views))

    def _who_sees_whom(self, is_condition: Tensor, valid: Tensor | None) -> dict[str, Any]:
        """What the attention processor needs to know about the rows of the batch."""
        objects, views = is_condition.shape
        if valid is not None and self.ragged == "masked":
            return {"num_views": views, "valid": valid}
        if valid is None and self.cross_view != "ring":
            flags = [[False] * views] * objects  # the kinds do not matter: no need to wait for the device
        else:
            real = [[True] * views] * objects if valid is None else valid.tolist()
            kinds = is_condition.tolist() if self.cross_view == "ring" else real
            flags = [[kind for kind, there in zip(*rows, strict=True) if there] for rows in zip(kinds, real, strict=True)]
        return {"groups": view_groups(self.cross_view, flags, is_condition.device)}

    def _prepare_correspondences(self, correspondences: Correspondences | None, views: int, valid: Tensor | None) -> None:
        if (correspondences is None) != (self.caa is None):
            problem = "needs correspondences" if self.caa else "takes no correspondences"
            raise UserError(f"cross_view '{self.cross_view}' {problem}", "give them with unet.cross_view=caa, and only then")
        if self.caa is not None and correspondences is not None:
            if valid is not None:
                raise UserError("correspondence-aware attention needs equally many views in every scene", "batch scenes of one size")
            self.caa.prepare(views, correspondences)
