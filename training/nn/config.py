"""Shapes of the networks as plain dataclasses: importing this file costs nothing, building a network does."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError

CROSS_VIEW = ("global", "ring", "none", "caa")
RAGGED = ("packed", "masked")


def folder_of(value: str | None) -> str | None:
    """The path that a `pretrained` field names."""
    return value


def clip_folder_of(source: str | None) -> str | None:
    """The path that `ClipConfig.source` names; None for `random(SEED)`."""
    return None if source is None or re.fullmatch(r"random\(\d+\)", source) else source


def lpips_file_of(perceptual: str | None) -> str | None:
    """The path in `lpips(PATH)`; None for the losses that need no weights."""
    found = re.fullmatch(r"lpips\((.+)\)", perceptual or "")
    return found[1] if found else None


def weights_field(default: str | None, path_of: Callable[[str | None], str | None]) -> Any:
    """A field whose value may name a file or folder of weights, which counts by its content and must exist (`path_of` finds it)."""
    return field(default=default, metadata={"content": path_of})


@dataclass(frozen=True)
class VaeConfig:
    """The autoencoder; defaults are the layout of the Stable Diffusion VAE (MVDiffusion++ §5.4).

    Attributes:
        block_out_channels: width per level; the picture is halved between levels, so four levels give factor 8.
        layers_per_block: residual blocks per level (the decoder has one more).
        latent_channels: channels of the latent picture.
        norm_num_groups: groups of every group norm; must divide all widths.
        initial_logvar: added to the posterior's log variance when weights are random; at 0 the posterior noise drowns what a
            new encoder says, and short training never recovers.
        picture_lanes: random weights start with the shrunken picture passed straight through (`open_picture_lanes`), since
            short training from plain random weights never gets colour into the latents [C].
        pretrained: folder of a diffusers VAE (3 or 4 channels) to start from; None starts from random weights.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    initial_logvar: float = -6.0
    picture_lanes: bool = False
    pretrained: str | None = weights_field(None, folder_of)

    @property
    def factor(self) -> int:
        """Picture pixels per latent cell along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class UnetConfig:
    """The denoiser; defaults are the layout of the SD-2 inpainting U-Net (MVDiffusion++ §5.5; the version is our choice).

    Attributes:
        block_out_channels: width per level.
        attention_levels: which levels carry transformer blocks (joint self-attention and cross-attention).
        layers_per_block: residual blocks per level (the way up has one more).
        num_heads: attention heads per level.
        cross_attention_dim: width of the image tokens; must equal the projection width of the image encoder.
        norm_num_groups: groups of every group norm.
        use_linear_projection: linear instead of 1x1 convolution around transformers (SD 2 yes, SD 1.5 no).
        view_scale_rate: the zero-initialised scale s is stored divided by this, so that under Adam it moves this many
            times faster; 1 is the plain scalar of MVDiffusion++ §4.2.
        mask_polarity: `paper` has 1 on condition views; `sd` has 1 on views to be painted.
        pretrained: folder of a diffusers inpainting U-Net (9 channels) to start from; None starts from random weights.
        cross_view: what self-attention sees. `global`: all views of the object (MVDiffusion++ §4.2). `ring`: a generated view,
            its two neighbours and all condition views. `none`: each view alone. `caa`: each view alone, and
            correspondence-aware attention after each block (MVDiffusion §4.1), which needs correspondences.
        caa_window: side of the neighbourhood that correspondence-aware attention looks at.
        ragged: objects with unequal view counts in one batch. `packed`: only real views are computed. `masked`: padding is
            computed and masked out; same result.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    num_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention_dim: int = 1024
    norm_num_groups: int = 32
    use_linear_projection: bool = True
    view_scale_rate: float = 1.0
    mask_polarity: str = "paper"
    pretrained: str | None = weights_field(None, folder_of)
    cross_view: str = "global"
    caa_window: int = 3
    ragged: str = "packed"

    def __post_init__(self) -> None:
        one_of("unet.mask_polarity", self.mask_polarity, ("paper", "sd"))
        one_of("unet.cross_view", self.cross_view, CROSS_VIEW)
        one_of("unet.ragged", self.ragged, RAGGED)
        if self.ragged == "masked" and self.cross_view != "global":
            raise UserError(f"unet.ragged 'masked' exists for global attention only, not for '{self.cross_view}'", "use packed")
        if self.caa_window < 1 or self.caa_window % 2 == 0:
            raise UserError(f"unet.caa_window is {self.caa_window}", "use an odd number such as 3")


@dataclass(frozen=True)
class ClipConfig:
    """The frozen image encoder; defaults are the vision tower of OpenCLIP ViT-H/14 (projection width 1024).

    Attributes:
        source: `random(SEED)` builds one from the sizes below; anything else is a folder in transformers' layout,
            whose own sizes then count.
        image_size: pictures are resized to this many pixels.
        patch_size, hidden_size, num_layers, num_heads, mlp_size: the transformer.
        projection_dim: width of the projected tokens.
        activation: of the MLPs.
        tokens: `pooled` gives one token per picture (MVDiffusion++ is silent; our choice), `patch` all patch tokens, projected.
    """

    source: str = weights_field("random(0)", clip_folder_of)
    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1280
    num_layers: int = 32
    num_heads: int = 16
    mlp_size: int = 5120
    projection_dim: int = 1024
    activation: str = "gelu"
    tokens: str = "pooled"

    def __post_init__(self) -> None:
        one_of("clip.tokens", self.tokens, ("pooled", "patch"))

    @property
    def tokens_per_picture(self) -> int:
        """1, or the number of patches (of the sizes above; a tower from a folder has its own)."""
        return 1 if self.tokens == "pooled" else (self.image_size // self.patch_size) ** 2


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError when `value` is not among `known`."""
    if value not in known:
        raise UserError(f"{name} is '{value}'", f"use one of {', '.join(known)}")
