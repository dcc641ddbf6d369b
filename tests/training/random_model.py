"""A generator folder with random weights, in seconds: for what surrounds a model."""

from pathlib import Path

import torch

from training.methods import METHODS
from training.methods.mvdiffusionpp import stage_named
from training.methods.mvdiffusionpp_config import smoke
from training.methods.mvdiffusionpp_unet import UnetTraining
from training.nn.vae import MaskAwareVAE, empty_autoencoder

CONFIG = smoke()


def random_model(base: Path) -> Path:
    """MVDiffusion++ at 32 px below `base`, through checkpoints and `export`; its views differ by slot and by condition."""
    method = METHODS["mvdiffusionpp"]
    torch.manual_seed(0)
    unet = UnetTraining(CONFIG, stage_named("unet2")).build()
    torch.nn.init.constant_(unet.view_scale, 0.02)
    for name, module in (("mvae", MaskAwareVAE(empty_autoencoder(CONFIG.vae), 0.7)), ("unet2", unet)):
        (base / name).mkdir()
        method.trainable(name, CONFIG, {}).save(module, base / name)
    method.export(CONFIG, {name: base / name for name in ("mvae", "unet2")}, base / "model")
    return base / "model"
