"""The full-size model is what the specification says: parameters, tokens and FLOPs, counted on the meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.methods import METHODS
from training.methods.mvdiffusionpp_config import paper
from training.nn import view_attention
from training.nn.attention import attend
from training.nn.unet import MultiViewUNet, empty_unet


def _meta_unet() -> MultiViewUNet:
    config = paper()
    with torch.device("meta"):
        return MultiViewUNet(empty_unet(config.unet, config.vae.latent_channels, config.latent_size), config.num_slots)


def _inputs(views: int, size: int, tokens: int, device: str) -> dict[str, torch.Tensor]:
    return {
        "noisy": torch.ones(1, views, 4, size, size, device=device),
        "condition_latents": torch.ones(1, views, 4, size, size, device=device),
        "is_condition": torch.zeros(1, views, dtype=torch.bool, device=device),
        "timesteps": torch.zeros(1, dtype=torch.long, device=device),
        "slots": torch.zeros(1, views, dtype=torch.long, device=device),
        "image_tokens": torch.ones(1, tokens, 1024, device=device),
    }


def _millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_parameters() -> None:
    module = _meta_unet()
    assert _millions(module.unet) == pytest.approx(865.93, rel=1e-4)
    assert module.view_vectors.shape == (42, 320)
    with torch.device("meta"):
        vae = METHODS["mvdiffusionpp"].trainable("mvae", paper(), {}).build()
    assert _millions(vae) == pytest.approx(83.66, rel=1e-3)


@pytest.mark.parametrize(("views", "tera"), [(9, 16.1), (33, 155.9)])
def test_forward_flops_and_tokens(views: int, tera: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _meta_unet()
    lengths: list[int] = []
    monkeypatch.setattr(
        view_attention, "attend", lambda query, *rest, **options: lengths.append(query.shape[2]) or attend(query, *rest, **options)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = module(**_inputs(views, 64, 77, "meta"))
    assert out.shape == (1, views, 4, 64, 64)
    assert max(lengths) == lengths[0] == views * 4096 and lengths.count(views * 4096) == 5  # layers at 64x64, spec 3.3
    assert counter.get_total_flops() / 1e12 == pytest.approx(tera, rel=0.01)


@pytest.mark.slow
def test_one_real_step_at_full_width() -> None:
    """866 M parameters on the CPU, 2 views of 8x8 latents: finite gradients, and plain gradient descent lowers the loss."""
    config = paper()
    module = MultiViewUNet(empty_unet(config.unet, 4, 8), config.num_slots)
    inputs = _inputs(2, 8, 1, "cpu")
    torch.manual_seed(0)
    inputs["noisy"], target = torch.randn(1, 2, 4, 8, 8), torch.randn(1, 2, 4, 8, 8)
    loss = (module(**inputs) - target).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all()
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None
        assert float((module(**inputs) - target).square().mean()) < float(loss)
