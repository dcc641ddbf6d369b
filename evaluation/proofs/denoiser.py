"""The denoiser of a proof: trained with the method's own stage, watched by one-step and sampled PSNR on held-out objects."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from evaluation.proofs.data import VAL, ProofData
from evaluation.proofs.fitting import Figures, fitted
from evaluation.proofs.measures import aligned_truth, foreground_psnr
from evaluation.proofs.sampling import one_step, sampled
from training.config import TrainConfig
from training.engine import device_here
from training.methods import METHODS
from training.methods.mvdiffusionpp_config import Config
from training.methods.mvdiffusionpp_encode import ViewEncoder
from training.methods.mvdiffusionpp_generate import ViewGenerator
from training.methods.mvdiffusionpp_unet import UnetTraining
from training.nn.unet import MultiViewUNet

WATCHED_OBJECTS, WATCHED_STEPS = 6, 10


def denoiser(
    config: Config, train: TrainConfig, data: ProofData, vae: Path, out: Path, init: Path | None = None, watch: list[str] | None = None
) -> Path:
    """Weights of a finished training; `watch` names the objects of the curves (default: the first held-out ones)."""
    training: Any = METHODS["mvdiffusionpp"].trainable(train.stage, config, {})
    objects = watch if watch is not None else data.of(VAL)[:WATCHED_OBJECTS]
    return fitted(training, train, data, out, init=init, figures=_watch(training, config, data, vae, objects))


def _watch(training: UnetTraining, config: Config, data: ProofData, vae: Path, uids: list[str]) -> Figures:
    encoder = ViewEncoder.from_checkpoint(config, vae, str(device_here()))

    def figures(module: nn.Module) -> dict[str, float]:
        unet = cast(MultiViewUNet, module)
        generator = ViewGenerator(config, encoder, unet, training.prediction, training.schedule.config)
        truths = [aligned_truth(data, uid, config) for uid in uids]
        guesses = [one_step(generator, data, uid) for uid in uids]
        samples = [sampled(generator, data, uid, WATCHED_STEPS) for uid in uids]
        unet.requires_grad_(True)  # the generator froze it
        return {
            "one_step_psnr_foreground": _mean(truths, guesses),
            "sampled_psnr_foreground": _mean(truths, samples),
            "view_scale": float(unet.view_scale.abs() * unet.view_scale_rate),
        }

    return figures


def _mean(truths: list[np.ndarray], made: list[np.ndarray]) -> float:
    return float(np.mean([foreground_psnr(t, m).mean() for t, m in zip(truths, made, strict=True)]))
