"""Proof that the parts fit together: one object's 32 views are learned by heart and sampled jointly from one condition."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rendering.view_set import CONDITION
from tests.training.painted import painted_views
from training.batch import signed_rgba
from training.lookup import load_generator
from training.methods import METHODS
from training.methods.base import Trainable, TrainObject
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_figures import reconstruction_figures
from training.methods.mvdiffusionpp_views import rolled_targets
from training.nn.config import VaeConfig

METHOD = METHODS["mvdiffusionpp"]
CONFIG = replace(
    smoke(),
    vae=VaeConfig(block_out_channels=(16, 32, 48, 64), layers_per_block=1, latent_channels=8, norm_num_groups=4),
    vae_views=8,
    condition_drop=0.0,
    kl_weight=1e-6,
)
VAE_STEPS, UNET_STEPS = 800, 400


def _fit(trainable: Trainable, obj: TrainObject, steps: int, lr: float) -> torch.nn.Module:
    torch.manual_seed(0)
    module = trainable.build().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    rng = np.random.default_rng(0)
    for step in range(steps):
        batch = trainable.collate([trainable.example(obj, rng)])
        loss, _ = trainable.loss(module, batch, torch.Generator(), step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module


@pytest.mark.long
def test_32_views_of_one_object_are_sampled_at_25_db(tmp_path: Path) -> None:
    torch.set_num_threads(2)  # the longest single test; its result does not hang on the last bits
    views = painted_views("one", 32, num_conditions=1)
    vae_training = METHOD.trainable("mvae", CONFIG, {})
    vae = _fit(vae_training, TrainObject(views), VAE_STEPS, 2e-3)
    (tmp_path / "mvae").mkdir()
    vae_training.save(vae, tmp_path / "mvae")
    arrays = METHOD.encoder("mvae", CONFIG, tmp_path / "mvae", "cpu")(views)
    unet_training = METHOD.trainable("unet2", CONFIG, {})
    unet = _fit(unet_training, TrainObject(views, arrays), UNET_STEPS, 2e-3)
    (tmp_path / "unet2").mkdir()
    unet_training.save(unet, tmp_path / "unet2")
    METHOD.export(CONFIG, {"mvae": tmp_path / "mvae", "unet2": tmp_path / "unet2"}, tmp_path / "model")
    made = load_generator(tmp_path / "model", "cpu").generate(views.with_role(CONDITION), seed=1, steps=10, sampler="ddim")
    truth = views.select(rolled_targets(views, CONFIG, reference=32))
    wanted, got = torch.from_numpy(signed_rgba(truth.rgba)), torch.from_numpy(signed_rgba(made.rgba))
    figures, beside = reconstruction_figures(wanted, got), reconstruction_figures(wanted, wanted.roll(1, 0))
    assert float(beside["psnr_foreground"].mean()) < 20.0  # views differ: the neighbour's picture would not pass
    assert float(figures["psnr_foreground"].mean()) >= 25.0
    assert float(figures["mask_iou"].mean()) >= 0.95
