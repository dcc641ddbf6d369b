"""Multi-view denoiser: equals diffusers' U-Net where it must, and joins, pads and embeds views as stated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from infra.errors import UserError
from training.nn.config import UnetConfig
from training.nn.pretrained import load_inpainting_unet, negate_mask_slice
from training.nn.unet import MultiViewUNet, empty_unet

TINY = UnetConfig(
    block_out_channels=(16, 32),
    attention_levels=(True, True),
    layers_per_block=1,
    num_heads=(2, 4),
    cross_attention_dim=12,
    norm_num_groups=8,
)


def _module(seed: int = 0, **changes) -> MultiViewUNet:
    torch.manual_seed(seed)
    config = replace(TINY, **changes)
    return MultiViewUNet.configured(empty_unet(config, latent_size=8), config, 42).eval()


def _inputs(objects: int = 2, conditions: int = 1, targets: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    views = conditions + targets
    return {
        "noisy": torch.randn(objects, views, 4, 8, 8),
        "condition_latents": torch.randn(objects, views, 4, 8, 8),
        "is_condition": (torch.arange(views) < conditions).expand(objects, -1),
        "timesteps": torch.arange(objects) * 300 + 50,
        "slots": torch.arange(views).expand(objects, -1),
        "image_tokens": torch.randn(objects, conditions, 12),
    }


def _inpainting_folder(folder: Path) -> UNet2DConditionModel:
    """A tiny checkpoint in the format of the published inpainting models: no class embedding, 9 channels."""
    torch.manual_seed(3)
    theirs = UNet2DConditionModel.from_config({**empty_unet(TINY, latent_size=8).config, "class_embed_type": None})
    theirs.save_pretrained(folder / "unet")
    return theirs.eval()


@torch.no_grad()
def test_one_view_with_scale_zero_equals_diffusers(tmp_path: Path) -> None:
    theirs = _inpainting_folder(tmp_path)
    module = MultiViewUNet(load_inpainting_unet(tmp_path, "sd"), 42, mask_polarity="sd").eval()
    for condition in (True, False):
        inputs = _inputs(2, 1, 0) | {"is_condition": torch.full((2, 1), condition)}
        sd_mask = torch.full((2, 1, 8, 8), 0.0 if condition else 1.0)  # SD: 1 = to be painted
        stacked = torch.cat([inputs["noisy"][:, 0], sd_mask, inputs["condition_latents"][:, 0]], 1)
        want = theirs(stacked, inputs["timesteps"], inputs["image_tokens"]).sample
        torch.testing.assert_close(module(**inputs)[:, 0], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_negated_mask_slice_is_exact_inside_and_only_the_border_ring_differs() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(9, 6, 3, padding=1)
    turned = torch.nn.Conv2d(9, 6, 3, padding=1)
    turned.load_state_dict(conv.state_dict())
    negate_mask_slice(turned, mask_channel=4)
    sd = torch.randn(1, 9, 8, 8)
    sd[:, 4] = torch.rand(1, 8, 8).round()
    paper = sd.clone()
    paper[:, 4] = 1 - sd[:, 4]
    want, got = conv(sd), turned(paper)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got[..., 0, :], want[..., 0, :], atol=1e-3)


@torch.no_grad()
def test_polarity_on_import_feeds_the_same_inside(tmp_path: Path) -> None:
    _inpainting_folder(tmp_path)
    inputs = _inputs()
    seen = {}
    for polarity in ("sd", "paper"):
        module = MultiViewUNet(load_inpainting_unet(tmp_path, polarity), 42, mask_polarity=polarity).eval()
        module.unet.conv_in.register_forward_hook(lambda m, i, out, name=polarity: seen.update({name: out}))
        module(**inputs)
    torch.testing.assert_close(seen["sd"][..., 1:-1, 1:-1], seen["paper"][..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)


def test_a_text_to_image_unet_is_refused(tmp_path: Path) -> None:
    four = UNet2DConditionModel.from_config({**empty_unet(TINY).config, "in_channels": 4, "class_embed_type": None})
    four.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="4 input channels"):
        load_inpainting_unet(tmp_path, "paper")


@torch.no_grad()
def test_views_of_an_object_see_each_other_and_objects_do_not() -> None:
    module, inputs = _module(), _inputs()
    base = module(**inputs)
    changed = inputs | {"noisy": inputs["noisy"].clone()}
    changed["noisy"][0, 3] += 1.0
    after = module(**changed)
    assert float((after[0, 0] - base[0, 0]).abs().max()) > 1e-4
    torch.testing.assert_close(after[1], base[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_of_views_does_not_matter() -> None:
    module, inputs = _module(), _inputs()
    module.view_scale.fill_(0.7)
    order = torch.tensor([2, 0, 3, 1])
    turned = {k: v[:, order] if k in ("noisy", "condition_latents", "is_condition", "slots") else v for k, v in inputs.items()}
    torch.testing.assert_close(module(**turned), module(**inputs)[:, order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_padded_conditions_equal_the_result_of_each_object_alone() -> None:
    module, inputs = _module(), _inputs(objects=2, conditions=3, targets=2)
    module.view_scale.fill_(0.7)
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    padded = module(**inputs, valid=valid, token_valid=valid[:, :3])
    alone = {k: v[1:, 2:] if v.ndim > 1 else v[1:] for k, v in inputs.items()}
    torch.testing.assert_close(padded[1:, 2:], module(**alone), atol=1e-5, rtol=1e-4)
    whole = {k: v[:1] for k, v in inputs.items()}
    torch.testing.assert_close(padded[:1], module(**whole), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(padded).all()


@torch.no_grad()
def test_view_embeddings_start_silent_and_then_tell_slots_apart() -> None:
    module, inputs = _module(), _inputs()
    other = inputs | {"slots": inputs["slots"] + 20}
    torch.testing.assert_close(module(**inputs), module(**other))
    assert module.view_vectors.shape == (42, 16) and module.view_scale.tolist() == [0.0]
    module.view_scale.fill_(0.5)
    assert not torch.allclose(module(**inputs), module(**other), atol=1e-3)


@torch.no_grad()
def test_view_mlp_has_the_time_embeddings_shape_and_its_own_weights() -> None:
    module = _module()
    assert [p.shape for p in module.view_mlp.parameters()] == [p.shape for p in module.unet.time_embedding.parameters()]
    assert not torch.equal(module.view_mlp.linear_1.weight, module.unet.time_embedding.linear_1.weight)


def test_scale_rate_is_a_factor_on_its_gradient() -> None:
    grads = []
    for rate in (1.0, 30.0):
        module = _module(view_scale_rate=rate)
        module(**_inputs()).square().sum().backward()
        grads.append(float(module.view_scale.grad))
    assert grads[1] == pytest.approx(30 * grads[0], rel=1e-3) and grads[0] != 0


def test_gradient_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        module = _module().train()
        if checkpointing:
            module.enable_gradient_checkpointing()
        valid = torch.tensor([[True] * 4, [False, True, True, True]])
        module(**_inputs(), valid=valid).square().sum().backward()
        grads.append(module.unet.conv_in.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)
