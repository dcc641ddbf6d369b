"""Patch discriminator: the published layout, each player's gradients in its own weights, one module for one optimiser."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from infra.errors import UserError
from infra.seeds import rng_for
from tests.training.painted import painted_views
from training.deepspeed_engine import DeepSpeedEngine
from training.engine import PlainEngine
from training.methods.base import TrainObject
from training.methods.mvdiffusionpp_config import Config, smoke
from training.methods.mvdiffusionpp_vae import VaeTraining, open_vae, vae_loss
from training.nn.discriminator import PatchDiscriminator, balanced, fooling_loss, hinge_loss
from training.nn.vae import VaeUnderTraining

START = 3
CONFIG = replace(smoke(), vae_views=2, discriminator_start=START, discriminator_width=16, discriminator_layers=2)


def _batch(config: Config = CONFIG) -> dict[str, Any]:
    trainable = VaeTraining(config)
    return trainable.collate([trainable.example(TrainObject(painted_views("a", 32)), rng_for(0, "a"))])


def _built(config: Config = CONFIG) -> tuple[VaeTraining, Any]:
    torch.manual_seed(0)
    trainable = VaeTraining(config)
    return trainable, trainable.build().train()


def _loss(trainable: VaeTraining, module: nn.Module, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
    return trainable.loss(module, _batch(trainable.config), torch.Generator(), step)


def test_the_published_size_and_patch() -> None:
    # Convolutions 3-64-128-256-512-1 of 4 x 4, batch norms on three of them: counted by hand.
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1) + 64 + 1
    batch = PatchDiscriminator(64, 3, "batch")
    assert sum(p.numel() for p in batch.parameters()) == convolutions + 2 * (128 + 256 + 512)
    assert batch(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    pictures = torch.randn(1, 3, 160, 160, requires_grad=True)
    logits = PatchDiscriminator(8, 3, "none")(pictures)
    (slope,) = torch.autograd.grad(logits[0, 0, 9, 9], pictures)
    rows, columns = slope[0].abs().sum(0).nonzero().T
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (70, 70)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_frozen_is_the_same_function_with_gradients_to_the_pictures_alone(norm: str) -> None:
    torch.manual_seed(0)
    network, pictures = PatchDiscriminator(8, 2, norm), torch.randn(2, 3, 32, 32, requires_grad=True)
    assert torch.equal(network(pictures), network(pictures, True))
    slopes = [torch.autograd.grad(network(pictures, frozen).square().sum(), pictures)[0] for frozen in (False, True)]
    torch.testing.assert_close(*slopes)
    network(pictures, True).sum().backward()
    assert all(p.grad is None for p in network.parameters()) and pictures.grad.abs().sum() > 0


def test_group_norm_does_not_depend_on_company() -> None:
    network, pictures = PatchDiscriminator(16, 3, "group"), torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(network(pictures)[:1], network(pictures[:1]), atol=1e-5, rtol=1e-4)


def test_hinge() -> None:
    real, generated = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(hinge_loss(real, generated)) == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 1) / 2))
    assert float(fooling_loss(generated)) == pytest.approx(1.5)


def test_balance_is_latent_diffusions_weight_at_the_picture() -> None:
    torch.manual_seed(0)
    picture, target, network = torch.randn(1, 3, 16, 16, requires_grad=True), torch.randn(1, 3, 16, 16), PatchDiscriminator(8, 1, "none")

    def reconstruction(x: torch.Tensor) -> torch.Tensor:
        return (x - target).abs().mean()

    def fooling(x: torch.Tensor) -> torch.Tensor:
        return fooling_loss(network(x, True))

    (g_rec,), (g_fool,) = (torch.autograd.grad(term(picture), picture) for term in (reconstruction, fooling))
    want = g_rec + 0.5 * (g_rec.norm() / g_fool.norm()) * g_fool
    one, two = balanced(picture, 0.5)
    (got,) = torch.autograd.grad(reconstruction(one) + fooling(two), picture)
    torch.testing.assert_close(got, want, atol=1e-8, rtol=1e-4)
    one, two = balanced(picture, 0.5)
    (got,) = torch.autograd.grad(reconstruction(one) + 0.0 * fooling(two), picture)
    torch.testing.assert_close(got, g_rec)  # nothing to balance


def test_before_the_start_nothing_differs() -> None:
    plain, module = _built(replace(CONFIG, discriminator_start=None))
    playing, both = _built()
    both.load_state_dict({**both.state_dict(), **module.state_dict()})
    losses = [_loss(trainable, net, START - 1) for trainable, net in ((plain, module), (playing, both))]
    assert torch.equal(losses[0][0], losses[1][0]) and set(losses[0][1]) == set(losses[1][1])
    for loss, _ in losses:
        loss.backward()
    assert all(p.grad is None for p in both.discriminator.parameters())
    for (name, a), (_, b) in zip(module.named_parameters(), both.autoencoder.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_each_players_gradient_reaches_its_own_weights_alone() -> None:
    """Without the reconstruction side the discriminator still learns, and the VAE's gradient is the two terms that are its own."""
    trainable, module = _built()
    loss, terms = _loss(trainable, module, START)
    before, _ = _loss(trainable, module, START - 1)
    assert {"generator", "discriminator", "logits_real", "logits_generated"} <= set(terms)
    torch.testing.assert_close(loss, before, atol=1e-5, rtol=1e-5)  # the players' terms are gradients, not value
    loss.backward()
    joint = {name: p.grad.clone() for name, p in module.named_parameters()}
    assert all(grad.abs().sum() > 0 for name, grad in joint.items() if name.startswith("discriminator."))

    # The discriminator's gradient by itself, from pictures without a history.
    batch = _batch()
    decoded, *_, extra = module(batch["pictures"], batch["noise"], 0.5)
    alone = hinge_loss(module.discriminator(batch["pictures"][:, :3]), module.discriminator(decoded[:, :3].detach()))
    names = [name for name, _ in module.named_parameters() if name.startswith("discriminator.")]
    own = torch.autograd.grad(alone, [dict(module.named_parameters())[name] for name in names])
    for name, grad in zip(names, own, strict=True):
        torch.testing.assert_close(joint[name], grad, atol=1e-6, rtol=1e-4, msg=name)

    # The hinge says nothing to the VAE, the fooling term nothing to the discriminator.
    hinge = hinge_loss(extra["real"], extra["generated"])
    assert not hinge.requires_grad or all(
        g is None for g in torch.autograd.grad(hinge, list(module.autoencoder.parameters()), allow_unused=True, retain_graph=True)
    )
    fooling = fooling_loss(extra["fooling"])
    slopes = torch.autograd.grad(fooling, list(module.discriminator.parameters()), allow_unused=True, retain_graph=True)
    assert all(slope is None for slope in slopes)


def test_a_learnt_log_variance_finds_the_logarithm_of_the_error() -> None:
    config = replace(CONFIG, discriminator_start=None, learnt_logvar=True, perceptual="none")
    module = _built(config)[1]
    assert isinstance(module, VaeUnderTraining) and module.discriminator is None
    batch = _batch(config)
    with torch.no_grad():
        decoded, mean, logvar, extra = module(batch["pictures"], batch["noise"])
    assert extra["log_variance"].tolist() == [0.0]
    optimizer = torch.optim.Adam([module.log_variance], 0.1)
    for _ in range(80):
        loss, terms = vae_loss(batch["pictures"], decoded, mean, logvar, config, log_variance=module.log_variance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # error / e^s + s is least where e^s is the error
    assert float(terms["log_variance"]) == pytest.approx(float(torch.log(terms[config.reconstruction])), abs=0.05)


def test_saved_beside_the_vae_and_kept(tmp_path: Path) -> None:
    trainable, module = _built(replace(CONFIG, learnt_logvar=True))
    with torch.no_grad():
        module.log_variance.fill_(0.25)
    trainable.save(module, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"vae", "mvae.json", "discriminator.safetensors"}
    stored = open_vae(tmp_path)
    assert type(stored.autoencoder).__name__ == "AutoencoderKL" and not hasattr(stored, "discriminator")
    torch.manual_seed(9)
    other = trainable.build()
    trainable.load(other, tmp_path)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    plain = VaeTraining(replace(CONFIG, discriminator_start=None))
    plain.load(plain.build(), tmp_path)  # a training without the second player takes the VAE alone
    late = _built()[1]
    fresh = {name: value.clone() for name, value in late.discriminator.state_dict().items()}
    (tmp_path / "discriminator.safetensors").unlink()
    trainable_late, _ = _built()
    trainable_late.load(late, tmp_path)
    assert all(torch.equal(value, late.discriminator.state_dict()[name]) for name, value in fresh.items())


SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.9), "weight_decay": 0.0, "clip": 1.0, "ema_decay": 0.0, "micro_batches": 1}


def _curve(engine: Any, trainable: VaeTraining, steps: range) -> list[list[float]]:
    """Loss, discriminator's loss and gradient norm of each step."""
    rows = []
    for step in steps:
        loss, terms = _loss(trainable, engine.module, step)
        engine.backward(loss)
        rows.append([float(loss.detach()), float(terms.get("discriminator", 0.0)), engine.step(1e-3)])
    return rows


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_one_optimiser_for_both_players_under_zero(zero_stage: int) -> None:
    """Equal to plain training; and the start comes in the middle of a training whose first steps left the discriminator out."""
    curves, weights = [], []
    for make in (PlainEngine, partial(DeepSpeedEngine, zero_stage=zero_stage, micro_batch=1)):
        trainable, module = _built()
        engine = make(module, **SETTINGS)
        curves.append(_curve(engine, trainable, range(START, START + 3)))
        weights.append(engine.full_weights(ema=False))
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), atol=1e-4, rtol=1e-3)
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-3, rtol=1e-3, msg=name)

    trainable, module = _built()
    engine = DeepSpeedEngine(module, zero_stage=zero_stage, micro_batch=1, **SETTINGS)
    before = engine.full_weights(ema=False)
    _curve(engine, trainable, range(START - 2, START))
    silent = engine.full_weights(ema=False)
    rows = _curve(engine, trainable, range(START, START + 2))
    after = engine.full_weights(ema=False)
    for name in before:
        if name.startswith("discriminator."):
            assert torch.equal(before[name], silent[name]) and not torch.equal(silent[name], after[name]), name
    assert rows[0][1] != rows[1][1]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="discriminator_norm"):
        replace(CONFIG, discriminator_norm="layer")
    with pytest.raises(UserError, match="perceptual"):
        replace(CONFIG, perceptual="lpips")
    assert Config.from_dict(replace(CONFIG, perceptual="lpips(/w.pt)").to_dict()).perceptual == "lpips(/w.pt)"
