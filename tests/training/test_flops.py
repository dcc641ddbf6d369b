"""Counted FLOPs and parameters against what the real networks execute, and against the published sizes' table."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.flops import Flops, train_flops, training, unet_flops, unet_parameters, vae_flops, vae_parameters
from training.methods.mvdiffusionpp_config import paper, small, smoke, tiny
from training.nn.config import UnetConfig, VaeConfig
from training.nn.unet import MultiViewUNet, empty_unet
from training.nn.vae import empty_autoencoder

ODD = UnetConfig(
    block_out_channels=(32, 48, 64),
    attention_levels=(False, True, True),
    layers_per_block=2,
    num_heads=(2, 3, 4),
    cross_attention_dim=24,
    norm_num_groups=8,
    use_linear_projection=False,
)
LAYOUTS = {
    "smoke": smoke().unet,
    "tiny": tiny().unet,
    "small": small().unet,
    "odd": ODD,
    "ring": replace(ODD, cross_view="ring"),
    "alone": replace(smoke().unet, cross_view="none"),
}


def _executed(run) -> Flops:
    """What torch's own counter sees, by operator. It knows PyTorch's plain attention on every device, the CPU's own it does not."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in counts.items() if "attention" in str(op) or "bmm" in str(op))
    return Flops(sum(counts.values()) - attention, attention)


@pytest.mark.parametrize("name", LAYOUTS)
def test_unet_as_executed(name: str) -> None:
    config, views, tokens = LAYOUTS[name], 5, 3
    # Ring attention reads which views are conditions, which the meta device cannot tell.
    with torch.device("cpu" if name == "ring" else "meta"):
        module = MultiViewUNet.configured(empty_unet(config, 4, 16), config, 42)
        shape = (1, views, 4, 16, 16)
        inputs = (torch.ones(shape), torch.ones(shape), (torch.arange(views) < 2)[None], torch.zeros(1, dtype=torch.long))
        inputs += (torch.zeros(1, views, dtype=torch.long), torch.ones(1, tokens, config.cross_attention_dim))
    executed = _executed(lambda: module(*inputs))
    counted = unet_flops(config, views, 16, 4, tokens, conditions=2)
    assert counted.linear_conv == pytest.approx(executed.linear_conv, rel=1e-3)
    assert counted.attention == pytest.approx(executed.attention, rel=1e-3)
    assert unet_parameters(config) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("config", [VaeConfig(), small().vae, VaeConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8)])
def test_vae_as_executed(config: VaeConfig) -> None:
    size = 8 * config.factor
    with torch.device("meta"):
        vae = empty_autoencoder(config)
        pictures, latents = torch.ones(1, 4, size, size), torch.ones(1, config.latent_channels, 8, 8)
    encode, decode = vae_flops(config, size)
    assert encode.total == pytest.approx(_executed(lambda: vae.encode(pictures)).total, rel=1e-3)
    assert decode.total == pytest.approx(_executed(lambda: vae.decode(latents)).total, rel=1e-3)
    assert vae_parameters(config) == sum(p.numel() for p in vae.parameters())


@pytest.mark.parametrize(("views", "forward", "train"), [(9, 16.1, 53), (18, 52.0, 176), (33, 155.9, 534), (42, 244.7, 842)])
def test_full_size_as_published(views: int, forward: float, train: float) -> None:
    """The compute table of the reproduction notes: SD-2 layout, 64x64 latents, 77 cross-attention tokens."""
    config = paper().unet
    assert unet_flops(config, views, 64, image_tokens=77).total / 1e12 == pytest.approx(forward, rel=4e-3)
    assert train_flops(config, [views], 64, image_tokens=77) / 1e12 == pytest.approx(train, rel=5e-3)


def test_full_size_vae_as_published() -> None:
    encode, decode = vae_flops(paper().vae, 512, channels=3)
    assert encode.total / 1e12 == pytest.approx(1.117, rel=2e-3)
    assert decode.total / 1e12 == pytest.approx(2.515, rel=2e-3)


def test_full_size_parameters_need_no_weights() -> None:
    assert unet_parameters(paper().unet) == pytest.approx(865.93e6 + 2.07e6, rel=1e-3)  # and the view embedding
    assert vae_parameters(paper().vae) == pytest.approx(83.66e6, rel=1e-3)


def test_training_is_counted_per_object_and_recomputing_adds_a_forward_pass() -> None:
    config = tiny().unet
    both = train_flops(config, [9, 33], 8)
    assert both == pytest.approx(train_flops(config, [9], 8) + train_flops(config, [33], 8))
    forward = unet_flops(config, 9, 8) + unet_flops(config, 33, 8)
    assert train_flops(config, [9, 33], 8, recompute=True) - both == pytest.approx(forward.total)
    assert training(Flops(2.0, 10.0) * 2.0) == pytest.approx(3 * 4 + 3.5 * 20)
