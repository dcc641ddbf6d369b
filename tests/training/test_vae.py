"""Mask-aware VAE: widening keeps the function, pictures survive the border, losses are the stated formulas."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from infra.errors import UserError
from rendering.view_set import on_white
from tests.training.painted import painted_views
from training.batch import resized, signed_rgba, straight_rgba
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_figures import reconstruction_figures
from training.methods.mvdiffusionpp_vae import gradient_loss, vae_loss
from training.nn.config import VaeConfig
from training.nn.pretrained import load_vae
from training.nn.vae import MaskAwareVAE, empty_autoencoder

TINY = VaeConfig(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4)


def test_widening_keeps_rgb_exactly_and_ignores_the_mask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb_vae = empty_autoencoder(TINY, channels=3).eval()
    rgb_vae.save_pretrained(tmp_path / "vae")
    wide = load_vae(tmp_path).eval()
    pictures = torch.rand(2, 4, 32, 32) * 2 - 1
    other_mask = torch.cat([pictures[:, :3], -pictures[:, 3:]], 1)
    with torch.no_grad():
        want = rgb_vae.encode(pictures[:, :3]).latent_dist
        got = wide.encode(pictures).latent_dist
        torch.testing.assert_close(got.mean, want.mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(wide.encode(other_mask).latent_dist.mean, want.mean, atol=1e-6, rtol=1e-5)
        decoded = wide.decode(want.mean).sample
        torch.testing.assert_close(decoded[:, :3], rgb_vae.decode(want.mean).sample, atol=1e-6, rtol=1e-5)
    assert float(decoded[:, 3].abs().max()) == 0.0


def test_the_new_mask_channel_learns_after_widening(tmp_path: Path) -> None:
    empty_autoencoder(TINY, channels=3).save_pretrained(tmp_path)
    wide = load_vae(tmp_path)
    wide.decode(wide.encode(torch.rand(1, 4, 32, 32)).latent_dist.mean).sample.square().sum().backward()
    assert float(wide.encoder.conv_in.weight.grad[:, 3].abs().max()) > 0
    wide.zero_grad()
    F.binary_cross_entropy_with_logits(wide.decode(torch.randn(1, 4, 4, 4)).sample[:, 3], torch.zeros(1, 32, 32)).backward()
    assert float(wide.decoder.conv_out.weight.grad[3].abs().max()) > 0


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no vae weights"):
        load_vae(tmp_path / "nowhere")


def test_latent_scale_is_fixed_or_measured() -> None:
    fixed = MaskAwareVAE(empty_autoencoder(TINY), 0.18215)
    measured = MaskAwareVAE(empty_autoencoder(TINY), None).train()
    pictures = torch.rand(4, 4, 32, 32) * 2 - 1
    with torch.no_grad():
        assert measured.latent_scale.tolist() == [1.0] * 4
        for _ in range(3):
            _, mean, _ = measured(pictures, torch.zeros(4, 4, 4, 4))
        assert measured.latent_scale.tolist() == pytest.approx((1.0 / mean.std((0, 2, 3), correction=0)).tolist(), rel=1e-2)
        latents = measured.eval().encode(pictures)
        torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=2e-2, rtol=0)
        torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=2e-2, rtol=0)
        rgb, mask = measured.decode(latents)
        direct = measured.autoencoder.decode(measured.autoencoder.encode(pictures).latent_dist.mean).sample
        torch.testing.assert_close(rgb, direct[:, :3].clamp(-1, 1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mask, direct[:, 3:], atol=1e-5, rtol=1e-4)
        measured.note_constants()
        again = MaskAwareVAE.stored(measured.autoencoder)
        torch.testing.assert_close(again.encode(pictures), latents, atol=1e-5, rtol=1e-5)
        assert measured.autoencoder.config["scaling_factor"] == 1.0  # diffusers' convention: (z - mean) * factor / std
        factor, mean_, std_ = (measured.autoencoder.config[name] for name in ("scaling_factor", "latents_mean", "latents_std"))
        raw = measured.autoencoder.encode(pictures).latent_dist.mean
        by_diffusers = (raw - torch.tensor(mean_)[:, None, None]) * factor / torch.tensor(std_)[:, None, None]
        torch.testing.assert_close(by_diffusers, latents, atol=1e-5, rtol=1e-5)
        mean = fixed.autoencoder.encode(pictures).latent_dist.mean
        torch.testing.assert_close(fixed.encode(pictures), 0.18215 * mean)
        rgb, mask = fixed.decode(0.18215 * mean)
        direct = fixed.autoencoder.decode(mean).sample
    torch.testing.assert_close(rgb, direct[:, :3].clamp(-1, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mask, direct[:, 3:], atol=1e-5, rtol=1e-4)


def test_loss_terms_are_their_formulas() -> None:
    torch.manual_seed(0)
    config = smoke()
    pictures, decoded = torch.rand(2, 4, 8, 8) * 2 - 1, torch.randn(2, 4, 8, 8)
    mean, logvar = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    loss, terms = vae_loss(pictures, decoded, mean, logvar, config)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).sum() / (2 * 3 * 8 * 8)
    probability, wanted = torch.sigmoid(decoded[:, 3]), (pictures[:, 3] + 1) / 2
    bce = -(wanted * probability.log() + (1 - wanted) * (1 - probability).log()).mean()
    l1 = (decoded[:, :3] - pictures[:, :3]).abs().mean()
    torch.testing.assert_close(terms["kl"], kl, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["mask_bce"], bce, atol=1e-5, rtol=1e-4)
    edges = gradient_loss(decoded[:, :3], pictures[:, :3])
    torch.testing.assert_close(loss, l1 + config.mask_weight * bce + config.kl_weight * kl + config.perceptual_weight * edges)


def test_gradient_loss_sees_edges_not_brightness() -> None:
    flat = torch.zeros(1, 3, 16, 16)
    edge = flat.clone()
    edge[..., 8:] = 1.0
    assert float(gradient_loss(flat, flat + 0.3)) == pytest.approx(0.0, abs=1e-6)
    # One step of height 1 between columns 7 and 8: at scale 0 it is one of 15 differences, then one of 7, then one of 3.
    assert float(gradient_loss(flat, edge)) == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 3, rel=1e-5)


def test_figures_are_their_formulas() -> None:
    pictures = torch.from_numpy(signed_rgba(painted_views("a", 16).rgba[:2]))
    decoded = pictures.clone()
    decoded[:, :3] = (decoded[:, :3] - 0.2).clamp(-1, 1)
    decoded[0, 3] = -1.0
    figures = reconstruction_figures(pictures, decoded)
    mask = pictures[:, 3].numpy() > 0
    for i in range(2):
        error = ((decoded[i, :3] - pictures[i, :3]).numpy() / 2) ** 2
        assert float(figures["psnr"][i]) == pytest.approx(-10 * math.log10(error.mean()), rel=1e-4)
        assert float(figures["psnr_foreground"][i]) == pytest.approx(-10 * math.log10(error[:, mask[i]].mean()), rel=1e-4)
    assert figures["mask_iou"].tolist() == [0.0, 1.0]


def test_pictures_come_back_over_white() -> None:
    """u8 -> network -> u8: alpha exact, and composited on white the colours are the same to rounding."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (2, 8, 8, 4)).astype(np.uint8)
    rgba[0, :4, :, 3] = 0
    signed = torch.from_numpy(signed_rgba(rgba))
    assert signed.dtype == torch.float32 and float(signed.abs().max()) <= 1.0
    logits = torch.logit(((signed[:, 3:] + 1) / 2).double()).clamp(-40, 40).float()
    back = straight_rgba(signed[:, :3], logits)
    assert np.array_equal(back[..., 3], rgba[..., 3])
    assert not back[back[..., 3] == 0].any()
    assert np.abs(on_white(back) - on_white(rgba)).max() <= 1.01 / 255


def test_resizing_leaves_no_dark_rim() -> None:
    rgba = np.zeros((1, 32, 32, 4), np.uint8)
    rgba[:, 8:24, 8:24] = (200, 100, 50, 255)
    small = resized(rgba, 12)[0]
    assert small.shape == (12, 12, 4)
    solid = small[small[..., 3] > 8]
    assert np.abs(solid[:, :3].astype(int) - [200, 100, 50]).max() <= 6
    assert resized(rgba, 32) is rgba


def test_picture_lanes_carry_the_shrunken_picture_from_the_start():
    """Group norms bend it, so it is no copy; but every channel is there, which plain random weights lose on the way."""

    def agreement(picture_lanes: bool) -> list[float]:
        torch.manual_seed(0)
        vae = empty_autoencoder(replace(TINY, picture_lanes=picture_lanes)).eval()
        pictures = torch.from_numpy(signed_rgba(painted_views("lanes", 64).rgba[:8]))
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        pairs = zip(latents.unbind(1), F.avg_pool2d(pictures, 8).unbind(1), strict=True)
        return [float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in pairs]

    assert min(agreement(True)) > 0.6
    assert min(map(abs, agreement(False))) < 0.3


def test_picture_lanes_need_room():
    with pytest.raises(UserError, match="picture_lanes needs widths"):
        empty_autoencoder(replace(TINY, block_out_channels=(4, 16, 16, 16), picture_lanes=True))


def test_foreground_weight_is_a_weighted_mean():
    config = replace(smoke(), reconstruction="l2", foreground_weight=4.0, perceptual="none", mask_weight=0.0, kl_weight=0.0)
    pictures = torch.zeros(1, 4, 2, 2)
    pictures[:, 3] = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    decoded = torch.zeros(1, 4, 2, 2)
    decoded[:, :3, 0, 0], decoded[:, :3, 1, 1] = 0.5, 1.0
    loss, terms = vae_loss(pictures, decoded, torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1), config)
    assert float(loss) == pytest.approx((4 * 0.25 + 1 * 1.0) / 7) and float(terms["l2"]) == pytest.approx(float(loss))
