"""Other people's checkpoints in diffusers' layouts: written by diffusers itself, tiny, and equal to diffusers' own networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from infra.errors import UserError
from training.nn.config import UnetConfig
from training.nn.pretrained import load_inpainting_unet, load_vae
from training.nn.unet import MultiViewUNet

# What differs between the two published inpainting models: head counts per level and linear projections, or one number and 1x1
# convolutions, and the width of the text tokens.
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd2": {"attention_head_dim": [2, 4], "use_linear_projection": True, "cross_attention_dim": 16},
    "sd15": {"attention_head_dim": 4, "use_linear_projection": False, "cross_attention_dim": 12},
}
# All that SD-1.5's config file says; the rest are defaults of today's diffusers.
OLD_KEYS = {
    *("_class_name", "_diffusers_version", "act_fn", "attention_head_dim", "block_out_channels", "center_input_sample"),
    *("cross_attention_dim", "down_block_types", "downsample_padding", "flip_sin_to_cos", "freq_shift", "in_channels"),
    *("layers_per_block", "mid_block_scale_factor", "norm_eps", "norm_num_groups", "out_channels", "sample_size", "up_block_types"),
}


def _theirs(layout: str) -> UNet2DConditionModel:
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        **LAYOUTS[layout],
    ).eval()


def _saved(layout: str, how: str, folder: Path) -> UNet2DConditionModel:
    theirs = _theirs(layout)
    if how == "fp16":
        theirs.half().save_pretrained(folder / "unet", variant="fp16")
        theirs.float()
    else:
        theirs.save_pretrained(folder / "unet", **({"max_shard_size": "100KB"} if how == "sharded" else {}))
    if layout == "sd15":
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k in OLD_KEYS}))
    return theirs


def _ours(folder: Path, layout: str, polarity: str) -> MultiViewUNet:
    config = UnetConfig(cross_attention_dim=LAYOUTS[layout]["cross_attention_dim"], mask_polarity=polarity, pretrained=str(folder))
    return MultiViewUNet.configured(load_inpainting_unet(folder, polarity), config, 42).eval()


def _inputs(layout: str, condition: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two objects of one view, and the same as the inpainting model wants it (mask 1 = to be painted)."""
    torch.manual_seed(4)
    ours = {
        "noisy": torch.randn(2, 1, 4, 8, 8),
        "condition_latents": torch.randn(2, 1, 4, 8, 8),
        "is_condition": torch.full((2, 1), condition),
        "timesteps": torch.tensor([20, 700]),
        "slots": torch.tensor([[0], [31]]),
        "image_tokens": torch.randn(2, 3, LAYOUTS[layout]["cross_attention_dim"]),
    }
    mask = torch.full((2, 1, 8, 8), 0.0 if condition else 1.0)
    return ours, torch.cat([ours["noisy"][:, 0], mask, ours["condition_latents"][:, 0]], 1)


@pytest.mark.parametrize("how", ["whole", "fp16", "sharded"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_one_view_equals_diffusers(layout: str, how: str, tmp_path: Path) -> None:
    theirs = _saved(layout, how, tmp_path)
    assert (len(list((tmp_path / "unet").glob("*.safetensors"))) > 1) == (how == "sharded")
    straight, turned = (_ours(tmp_path, layout, polarity) for polarity in ("sd", "paper"))
    assert {p.dtype for p in straight.parameters()} == {torch.float32}
    for condition in (True, False):
        ours, stacked = _inputs(layout, condition)
        first = theirs.conv_in(stacked)
        want = theirs(stacked, ours["timesteps"], ours["image_tokens"]).sample
        torch.testing.assert_close(straight(**ours)[:, 0], want, atol=1e-5, rtol=1e-5)

        # The turned mask: the first convolution is equal inside, its outermost ring is all that differs.
        def with_their_ring(module: Any, inputs: Any, out: torch.Tensor, theirs: torch.Tensor = first) -> torch.Tensor:
            torch.testing.assert_close(out[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
            mended = theirs.clone()
            mended[..., 1:-1, 1:-1] = out[..., 1:-1, 1:-1]
            return mended

        mend = turned.unet.conv_in.register_forward_hook(with_their_ring)
        torch.testing.assert_close(turned(**ours)[:, 0], want, atol=1e-5, rtol=1e-5)
        mend.remove()


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    theirs = _saved("sd2", "whole", tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    save_file({n: w for n, w in load_file(weights).items() if n != "conv_out.bias"}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="conv_out.bias"):
        load_inpainting_unet(tmp_path, "sd")
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_inpainting_unet(tmp_path, "sd")
    weights.unlink()
    torch.save(theirs.state_dict(), tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors"):  # pickles are not opened
        load_inpainting_unet(tmp_path, "sd")
    with pytest.raises(UserError, match="no unet weights"):
        load_inpainting_unet(tmp_path / "nowhere", "sd")


def test_a_width_that_does_not_fit_the_tokens_is_refused(tmp_path: Path) -> None:
    _saved("sd15", "whole", tmp_path)
    with pytest.raises(UserError, match="width 12"):
        MultiViewUNet.configured(load_inpainting_unet(tmp_path, "sd"), UnetConfig(cross_attention_dim=1024), 42)


@pytest.mark.parametrize("how", ["whole", "fp16", "sharded"])
@torch.no_grad()
def test_a_vae_keeps_its_reconstruction(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).eval()
    if how == "fp16":
        rgb.half().save_pretrained(tmp_path / "vae", variant="fp16")
        rgb.float()
    else:
        rgb.save_pretrained(tmp_path / "vae", **({"max_shard_size": "40KB"} if how == "sharded" else {}))
    wide = load_vae(tmp_path).eval()
    pictures = torch.rand(2, 4, 16, 16) * 2 - 1
    want = rgb.decode(rgb.encode(pictures[:, :3]).latent_dist.mean).sample
    got = wide.decode(wide.encode(pictures).latent_dist.mean).sample
    torch.testing.assert_close(got[:, :3], want, atol=1e-6, rtol=1e-5)
    assert not got[:, 3].any() and not wide.encoder.conv_in.weight[:, 3].any() and wide.dtype == torch.float32
